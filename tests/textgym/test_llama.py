"""The plain forward pass gives what `transformers` gives: values, gradients and samples."""

import pytest
import torch
from policy_support import PROMPTS, WINDOW, make_policy
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
)

from textgym.models import llama
from textgym.models.policy import last_hidden, position_ids
from textgym.models.sampling import sample_tokens
from textgym.models.tokenize import decode_responses, encode_prompts
from textgym.types import Sampling

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
VOCAB = 23
PAD = 1
SHAPES = {
    "one layer, tied": (1, 4, True),
    "grouped heads": (2, 2, False),
    "one key-value head": (3, 1, True),
}
PADDINGS = {
    "none": [(0, 7), (0, 7), (0, 7)],
    "left": [(3, 7), (0, 7), (6, 7)],
    "right": [(0, 4), (0, 7), (0, 1)],
    "both": [(2, 5), (0, 7), (3, 4)],
    "batch of one": [(2, 7)],
    "one token": [(0, 1), (0, 1)],
}


def config(layers=2, key_value_heads=2, tied=False, **changes):
    settings = {
        "vocab_size": VOCAB,
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": key_value_heads,
        "max_position_embeddings": 32,
        "tie_word_embeddings": tied,
        "pad_token_id": PAD,
    }
    return LlamaConfig(**{**settings, **changes})


def random_model(*shape, **changes):
    """A model whose every weight matters: norms are not 1, attention is not flat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config(*shape, **changes)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


def batch(spans):
    """Random tokens, PAD itself among the real ones, and a mask with True in each row's span."""
    columns = torch.arange(max(end for _, end in spans))
    mask = torch.stack([(start <= columns) & (columns < end) for start, end in spans])
    ids = torch.randint(VOCAB, mask.shape, generator=torch.Generator().manual_seed(1))
    return ids, mask


def reference(module, ids, mask):
    """What `transformers` computes, states of all positions or logits."""
    output = module(
        input_ids=ids, attention_mask=mask.long(), position_ids=position_ids(mask), use_cache=False
    )
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys(), scope="module")
def model(request):
    return random_model(*request.param)


@pytest.mark.parametrize("keep", [1, 3, 7])
@pytest.mark.parametrize("spans", PADDINGS.values(), ids=PADDINGS.keys())
def test_values_and_gradients_are_those_of_transformers(model, spans, keep):
    ids, mask = batch(spans)
    keep = min(keep, ids.shape[1])
    weights = torch.randn((*ids.shape, VOCAB), generator=torch.Generator().manual_seed(2))
    weights = (weights * mask.unsqueeze(-1))[:, -keep:]
    expected = reference(model, ids, mask)[:, -keep:]
    actual = llama.forward(model, ids, mask, keep).logits
    assert actual.shape == expected.shape
    real = mask[:, -keep:]
    torch.testing.assert_close(actual[real], expected[real], **CLOSE)
    assert actual.isfinite().all()
    parameters = list(model.parameters())
    slopes = [torch.autograd.grad((x * weights).sum(), parameters) for x in (expected, actual)]
    for expected_slope, slope in zip(*slopes, strict=True):
        torch.testing.assert_close(slope, expected_slope, **CLOSE)


@pytest.mark.parametrize("spans", PADDINGS.values(), ids=PADDINGS.keys())
def test_hidden_states_are_those_of_transformers(model, spans):
    ids, mask = batch(spans)
    expected = reference(model.model, ids, mask)
    torch.testing.assert_close(last_hidden(model.model, ids, mask)[mask], expected[mask], **CLOSE)


def test_positions_count_real_tokens_only():
    """Rotary attention sees distances, so only padding between tokens tells how they count."""
    model = random_model()
    ids, mask = batch(PADDINGS["left"])
    mask[1, 2:4] = False
    expected = reference(model, ids, mask)[mask]
    torch.testing.assert_close(llama.forward(model, ids, mask, 7).logits[mask], expected, **CLOSE)
    alone = reference(model, ids[1:2, mask[1]], torch.ones((1, 5), dtype=torch.bool))[0]
    torch.testing.assert_close(expected[mask[:1].sum() :][:5], alone, **CLOSE)


def test_padding_has_something_to_see():
    """Older versions of torch make NaN of a softmax over nothing."""
    model = random_model()
    _, mask = batch(PADDINGS["both"])
    visible = llama._geometry(model.model, mask, 7, torch.float32)[2]
    assert visible.shape == (3, 1, 7, 7)
    assert (visible.amax(-1) == 0).all()


def test_the_future_is_never_seen():
    model = random_model()
    ids, mask = batch(PADDINGS["left"])
    changed = ids.clone()
    changed[:, -1] = (ids[:, -1] + 1) % VOCAB
    first, second = (llama.forward(model, x, mask, 7).logits for x in (ids, changed))
    assert torch.equal(first[:, :-1], second[:, :-1])
    assert (first[:, -1] - second[:, -1]).abs().max() > 0.1


def test_half_precision_is_as_near_to_the_truth_as_transformers():
    model = random_model()
    ids, mask = batch(PADDINGS["left"])
    truth = reference(model, ids, mask)[mask]
    half = random_model().to(torch.bfloat16)
    actual = llama.forward(half, ids, mask, ids.shape[1]).logits
    assert actual.dtype == torch.bfloat16
    errors = [
        (x[mask].float() - truth).square().mean() for x in (actual, reference(half, ids, mask))
    ]
    assert errors[0] < 2 * errors[1]


@torch.no_grad()
@pytest.mark.parametrize("step", [1, 2, 70])
@pytest.mark.parametrize("padding", [0, 12])
def test_reading_in_pieces_changes_nothing(model, step, padding):
    """The cache also outgrows its buffers, and pieces of several tokens stay causal."""
    ids, mask = batch([(padding, 150), (0, 150)])
    whole = llama.forward(model, ids, mask, 150).logits
    cache = llama.Cache()
    starts = range(20, 150, step)
    parts = [llama.forward(model, ids[:, :20], mask[:, :20], 20, cache).logits]
    for start in starts:
        end = min(start + step, 150)
        parts.append(llama.forward(model, ids[:, start:end], mask[:, :end], step, cache).logits)
    assert cache.length == 150
    torch.testing.assert_close(torch.cat(parts, dim=1)[mask], whole[mask], **CLOSE)


@torch.no_grad()
def test_rows_of_the_cache_are_repeated_and_selected():
    model = random_model()
    ids, mask = batch(PADDINGS["left"])
    cache = llama.Cache()
    llama.forward(model, ids[:, :5], mask[:, :5], 1, cache)
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([5, 0, 3]))
    rows = torch.tensor([2, 0, 1])
    actual = llama.forward(model, ids[rows, 5:], mask[rows], 2, cache).logits
    expected = llama.forward(model, ids, mask, 2).logits[rows]
    torch.testing.assert_close(actual[mask[rows, 5:]], expected[mask[rows, 5:]], **CLOSE)


# --- behind a policy ---------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=3.0, top_k=200, top_p=0.99)])
@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1]], ids=["padded", "one prompt"])
def test_samples_are_those_of_transformers(sampling, prompts, monkeypatch):
    policy = make_policy("llama", extra_rows=30)
    ids, mask = encode_prompts(policy.tokenizer, prompts, WINDOW)
    uniforms = torch.rand(
        (240, 20), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    ours = sample_tokens(policy, ids, mask, uniforms, sampling)
    assert len(ours.mask.sum(1).unique()) > 15, "rows should end at nearly every step"
    monkeypatch.setattr(llama, "supports", lambda model: False)
    theirs = sample_tokens(policy, ids, mask, uniforms, sampling)
    assert torch.equal(ours.ids, theirs.ids)
    assert torch.equal(ours.mask, theirs.mask)
    torch.testing.assert_close(ours.policy_logprobs, theirs.policy_logprobs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        ours.sampling_logprobs, theirs.sampling_logprobs, atol=1e-5, rtol=1e-5
    )


def test_a_policy_takes_the_short_way_unless_asked_for_more():
    policy = make_policy("llama")
    ids, mask = encode_prompts(policy.tokenizer, PROMPTS, WINDOW)
    short = policy.forward(ids, mask, keep=2)
    long = policy.forward(ids, mask, keep=2, output_hidden_states=True)
    assert isinstance(short, llama.Output)
    assert short.past_key_values is None
    assert len(long.hidden_states) == 3
    torch.testing.assert_close(short.logits, long.logits, **CLOSE)


def test_training_changes_what_is_computed():
    """No weights are kept from an earlier call."""
    model = random_model()
    ids, mask = batch(PADDINGS["none"])
    before = llama.forward(model, ids, mask, 7).logits
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    after = llama.forward(model, ids, mask, 7).logits
    assert (after - before).abs().max() > 0.1
    torch.testing.assert_close(after, reference(model, ids, mask), **CLOSE)


def test_each_distinct_response_is_decoded_once(monkeypatch):
    tokenizer = make_policy("llama").tokenizer
    ids = torch.tensor([[40, 41], [42, 41], [40, 41], [40, 43]])
    mask = torch.tensor([[True, True], [True, True], [True, True], [True, False]])
    expected = [tokenizer.decode(row) for row in ([40, 41], [42, 41], [40, 41], [40])]
    decode, calls = tokenizer.decode, []

    def counted(row, **options):
        calls.append(row)
        return decode(row, **options)

    monkeypatch.setattr(tokenizer, "decode", counted)
    assert decode_responses(tokenizer, ids, mask) == expected
    assert sorted(calls) == [[40], [40, 41], [42, 41]]


# --- what is supported -------------------------------------------------------------------------


def test_plain_llamas_are_supported(model):
    assert llama.supports(model)
    assert llama.supports(model.model)
    assert llama.supports(LlamaForCausalLM(config(attention_dropout=0.1)).eval())


SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
OTHERS = {
    "rope scaling": lambda: LlamaForCausalLM(
        config(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0})
    ),
    "attention bias": lambda: LlamaForCausalLM(config(attention_bias=True)),
    "mlp bias": lambda: LlamaForCausalLM(config(mlp_bias=True)),
    "activation": lambda: LlamaForCausalLM(config(hidden_act="gelu")),
    "training mode": lambda: LlamaForCausalLM(config(attention_dropout=0.1)).train(),
    "other head": lambda: LlamaForSequenceClassification(config()),
    "other attention": lambda: LlamaForCausalLM(config(attn_implementation="flex_attention")),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SMALL)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=8, n_layer=1, n_head=2)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_are_not_supported(name):
    model = OTHERS[name]()
    assert not llama.supports(model if name == "training mode" else model.eval())


def test_an_adapter_hook_or_replaced_forward_is_not_supported():
    class Adapter(torch.nn.Linear):
        pass

    adapted, hooked, replaced = random_model(), random_model(), random_model()
    adapted.model.layers[1].self_attn.q_proj = Adapter(24, 24, bias=False)
    handle = hooked.model.layers[0].register_forward_hook(lambda *args: None)
    replaced.model.norm.forward = lambda hidden: hidden
    assert not any(map(llama.supports, (adapted, hooked, replaced)))
    handle.remove()
    assert llama.supports(hooked)
