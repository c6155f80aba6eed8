"""Reading weights directly gives what `transformers` gives: values, gradients, what is refused."""

import logging

import pytest
import torch
from decoder_support import COMMON, GROUPED, MODELS, SPANS, VOCAB, batch, plain_logits, random_model
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from textgym.models import families
from textgym.models.branches import branch, distinct_rows, states_before
from textgym.models.decoder import logits
from textgym.models.trunk import states_before_responses, states_of_responses

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(params=MODELS, scope="module")
def model(request):
    return random_model(request.param)


def read_logits(model, rows):
    decoder = families.read(model)
    return logits(decoder, states_before(decoder, branch(*rows)))


@pytest.mark.parametrize("copies", [1, 8])
@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
def test_values_and_gradients_are_those_of_transformers(model, spans, copies):
    rows = batch(*spans, copies)
    expected, actual = plain_logits(model, *rows), read_logits(model, rows)
    assert actual.shape == (int(rows[3].sum()), VOCAB)
    torch.testing.assert_close(actual, expected, **CLOSE)
    weights = torch.randn(actual.shape, generator=torch.Generator().manual_seed(2))
    parameters = [p for n, p in model.named_parameters()]
    slopes = [torch.autograd.grad((x * weights).sum(), parameters) for x in (expected, actual)]
    for slope, expected_slope in zip(slopes[1], slopes[0], strict=True):
        torch.testing.assert_close(slope, expected_slope, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
def test_states_are_those_of_transformers(model, spans):
    prompt_ids, prompt_mask, ids, mask = batch(*spans)
    before, of = (
        find(model.base_model, prompt_ids, prompt_mask, ids, mask, torch.float32)
        for find in (states_before_responses, states_of_responses)
    )
    expected_before, expected_of = [], []
    for p, pm, r, rm in zip(prompt_ids, prompt_mask, ids, mask, strict=True):
        tokens = torch.cat([p[pm], r[rm]])
        hidden = model.base_model(tokens[None]).last_hidden_state[0]
        expected_before.append(hidden[pm.sum() - 1 : len(tokens) - 1])
        expected_of.append(hidden[pm.sum() :])
    torch.testing.assert_close(before, torch.cat(expected_before), **CLOSE)
    torch.testing.assert_close(of, torch.cat(expected_of), **CLOSE)


def test_nothing_sees_ahead_or_into_another_row():
    model = random_model("llama")
    prompt_ids, prompt_mask, ids, mask = batch([(0, 5), (0, 5)], [4, 4])
    first = read_logits(model, (prompt_ids, prompt_mask, ids, mask)).view(2, 4, VOCAB)
    changed = ids.clone()
    changed[0, 2] = (ids[0, 2] + 1) % VOCAB
    second = read_logits(model, (prompt_ids, prompt_mask, changed, mask)).view(2, 4, VOCAB)
    moved = (first - second).abs().amax(-1) > 1e-3
    assert moved.tolist() == [[False, False, False, True], [False] * 4]


def test_distinct_rows_by_hand():
    """What padding holds does not matter, where it lies does."""
    ids = torch.tensor([[7, 8], [5, 6], [9, 8], [5, 6], [8, 9]])
    mask = torch.tensor([[0, 1], [1, 1], [0, 1], [1, 1], [1, 0]]).bool()
    rows, index = distinct_rows(ids, mask)
    assert rows.tolist() == [[-1, 8], [5, 6], [8, -1]]
    assert index.tolist() == [0, 1, 0, 1, 2]


def test_a_prompt_is_read_once_for_all_its_responses():
    rows = batch([(1, 5), (0, 5)], [3, 2], copies=4)
    branches = branch(*rows)
    assert branches.prompts.ids.tolist() == [*rows[0][0, 1:].tolist(), *rows[0][4].tolist()]
    # 4 + 5 prompt tokens, and of 4 * (3 + 2) response tokens all but each row's last.
    assert len(branches.ids) == 9 + 4 * (2 + 1)
    assert branches.positions.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, *[5] * 4, *[4, 5] * 4]


def test_nothing_is_kept_from_an_earlier_call():
    model = random_model("llama")
    rows = batch(*SPANS["left"])
    before = read_logits(model, rows)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    after = read_logits(model, rows)
    assert (after - before).abs().max() > 0.1
    torch.testing.assert_close(after, plain_logits(model, *rows), **CLOSE)


@torch.no_grad()
def test_bfloat16_is_as_near_to_the_truth_as_autocast(model):
    rows = batch(*SPANS["both sides"], copies=5)
    truth = plain_logits(model, *rows)
    decoder = families.read(model).to(torch.bfloat16)
    ours = logits(decoder, states_before(decoder, branch(*rows))).float()
    with torch.autocast("cpu", torch.bfloat16):
        theirs = plain_logits(model, *rows).float()
    errors = [(x - truth).square().mean() for x in (ours, theirs)]
    assert 0 < errors[0] < 1.5 * errors[1]


# --- what is read ------------------------------------------------------------------------------

ODD = {
    "rope scaling": lambda: LlamaForCausalLM(
        LlamaConfig(
            **GROUPED,
            rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        )
    ),
    "activation": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED, hidden_act="tanh")),
    "other head": lambda: LlamaForSequenceClassification(LlamaConfig(**GROUPED)),
    "other attention": lambda: LlamaForCausalLM(
        LlamaConfig(**GROUPED, attn_implementation="flex_attention")
    ),
    "sliding window": lambda: Qwen2ForCausalLM(
        Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=4, max_window_layers=0)
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**GROUPED)),
    "layer-wise scale": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB, n_embd=8, n_layer=1, n_head=2, scale_attn_by_inverse_layer_idx=True
        )
    ),
}


def test_plain_models_and_their_trunks_are_read(model):
    assert families.read(model) is not None
    trunk = families.read(model.base_model)
    assert trunk is not None
    assert trunk.head is None


@pytest.mark.parametrize("name", ODD)
def test_other_models_are_not_read(name):
    assert families.read(ODD[name]().eval()) is None


def test_a_model_in_training_mode_is_not_read():
    assert families.read(LlamaForCausalLM(LlamaConfig(**GROUPED)).train()) is None


def test_an_adapter_hook_or_replaced_forward_is_not_read():
    class Adapter(torch.nn.Linear):
        pass

    adapted, hooked, replaced = (random_model("llama") for _ in range(3))
    adapted.model.layers[1].self_attn.q_proj = Adapter(24, 24, bias=False)
    handle = hooked.model.layers[0].register_forward_hook(lambda *args: None)
    replaced.model.norm.forward = lambda hidden: hidden
    assert [families.read(m) for m in (adapted, hooked, replaced)] == [None] * 3
    handle.remove()
    assert families.read(hooked) is not None


def test_falling_back_is_said_once(caplog):
    families._say_once.cache_clear()
    model = MistralForCausalLM(MistralConfig(**{**COMMON, "num_key_value_heads": 2})).eval()
    with caplog.at_level(logging.WARNING):
        families.read(model), families.read(model)
    assert [record.message.split()[0] for record in caplog.records] == ["MistralForCausalLM"]
