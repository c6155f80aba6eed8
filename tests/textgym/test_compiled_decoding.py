"""Compiled decoding: what transformers computes, whatever rows leave and however long they grow."""

import copy
import math

import pytest
import torch
from decoder_support import MODELS, SPANS, VOCAB, batch, random_model
from scipy.stats import chisquare
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from textgym.models import families, linear
from textgym.models.compiled import decoding, library, products
from textgym.models.compiled.decoding import CompiledDecoding
from textgym.models.compiled.drawing import draw
from textgym.models.hugging_face import CachedDecoding

pytestmark = pytest.mark.skipif(library.library() is None, reason="no C++ compiler was found")
LONG = ([(0, 70), (37, 70), (38, 70), (69, 70)], [1, 1, 1, 1])


def need(dtype):
    """Skips where the compiled step does not run."""
    if not products.multiplies(dtype):
        pytest.skip(f"oneDNN's kernel for {dtype} is not there, or not for this processor")


def sessions(model, rows, samples, limit, dtype=torch.float32):
    need(dtype)
    decoder = families.read(model).to(dtype)
    assert decoding.fits(decoder)
    ours = CompiledDecoding(decoder, *rows, samples, limit)
    return ours, CachedDecoding(model, VOCAB, *rows, samples)


def compare(ours, theirs, steps, leaving=(), tolerance=1e-4):
    """At the steps named in `leaving` the first row goes, at the last of them every other one."""
    generator = torch.Generator().manual_seed(0)
    for t in range(steps):
        expected = theirs.logits
        torch.testing.assert_close(ours.logits.float(), expected, atol=tolerance, rtol=tolerance)
        count = len(ours.logits)
        if t in leaving and count > 1:
            kept = torch.arange(count)[1:] if t < max(leaving) else torch.arange(count)[::2]
            ours.keep(kept), theirs.keep(kept)
            count = len(kept)
        tokens = torch.randint(VOCAB, (count,), generator=generator)
        ours.step(tokens), theirs.step(tokens)


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("spans", ["no padding", "left", "one row"])
@pytest.mark.parametrize("name", MODELS)
def test_every_step_gives_what_transformers_gives(name, spans, samples):
    rows = batch(*SPANS[spans])[:2]
    compare(*sessions(random_model(name), rows, samples, 9), 9, leaving=(2, 4, 6))


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_in_bfloat16_within_its_rounding(name, samples):
    """Logits of these models are of the size of 1, and off by 0.07 at most."""
    model = copy.deepcopy(random_model(name))
    for weight in model.parameters():
        weight.copy_(weight.bfloat16())
    ours, theirs = sessions(model, batch(*LONG)[:2], samples, 40, torch.bfloat16)
    compare(ours, theirs, 40, leaving=(3, 33, 36), tolerance=0.1)


@torch.no_grad()
@pytest.mark.parametrize("activation", families.ACTIVATIONS)
def test_every_activation_gated_or_not(activation):
    of_all = {"vocab_size": VOCAB, "pad_token_id": 1, "bos_token_id": None, "eos_token_id": 2}
    gated = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act=activation,
        **of_all,
    )
    plain = GPT2Config(n_embd=16, n_layer=2, n_head=2, activation_function=activation, **of_all)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for model in (LlamaForCausalLM(gated), GPT2LMHeadModel(plain)):
            for weight in model.parameters():
                weight.mul_(8)  # far from 0, where all of them are alike
            compare(*sessions(model.eval(), batch(*SPANS["left"])[:2], 1, 4), 4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "gpt-neox"])
def test_prompts_and_responses_outgrow_their_blocks(name):
    """Prompts of 70, 33, 32 and 1 tokens, responses of 40: blocks hold 32."""
    compare(*sessions(random_model(name), batch(*LONG)[:2], 2, 40), 40, leaving=(3, 33, 36))


@torch.no_grad()
@pytest.mark.parametrize("spans", [SPANS["left"], ([(0, 32), (3, 32)], [1, 1])])
@pytest.mark.parametrize("width", [2, 16, 20, 64, 130])
def test_heads_of_any_width(width, spans):
    """Prompts that fill their blocks and widths that fill their lanes need no padding."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=width,
        max_position_embeddings=64,
        pad_token_id=1,
        bos_token_id=None,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    compare(*sessions(model, batch(*spans)[:2], 2, 5), 5)


@torch.no_grad()
def test_a_prompt_is_kept_once_and_rows_leave_without_a_copy():
    ours, _ = sessions(random_model("llama"), batch(*SPANS["left"])[:2], 7, 12)
    assert ours._prompts[0].shape[:4] == (3, 2, 1, 2)  # prompts, heads, blocks, keys and values
    ours.step(torch.zeros(21, dtype=torch.int64))
    chunk = ours._chunks[0]
    ours.keep(torch.arange(5, 21))
    ours.step(torch.zeros(16, dtype=torch.int64))
    assert ours._chunks[0] is chunk
    assert len(ours._chunks) == 1
    assert ours.logits.shape == (16, VOCAB)


@torch.no_grad()
@pytest.mark.parametrize("cached", [0, decoding.CACHED])
def test_threads_do_not_change_a_bit(cached, monkeypatch):
    """Whether they go through the layers together, or apart with 8 and 4 rows."""
    need(torch.float32)
    monkeypatch.setattr(decoding, "CACHED", cached)
    found = []
    rows = batch(*LONG)[:2]
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            ours = CompiledDecoding(families.read(random_model("llama")), *rows, 3, 5)
            for _ in range(4):
                ours.step(torch.zeros(12, dtype=torch.int64))
            found.append(ours.logits)
        finally:
            torch.set_num_threads(1)
    assert torch.equal(*found)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_computes_the_same_whatever_batch_it_is_in(dtype):
    """To the bit, from the second token on: the prompts are read by other products."""
    need(dtype)
    decoder = families.read(random_model("llama")).to(dtype)
    ids, mask = (x.repeat(18, 1) for x in batch(*LONG)[:2])
    tokens, found = torch.arange(72) % VOCAB, {}
    for rows in (1, 7, 9, 64, 72):
        ours = CompiledDecoding(decoder, ids[:rows], mask[:rows], 1, 5)
        ours._prompts = [
            prompts[:1].expand(rows, -1, -1, -1, -1).contiguous() for prompts in ours._prompts
        ]
        for _ in range(3):
            ours.step(tokens[:rows])
        found[rows] = ours.logits[0]
    assert all(torch.equal(found[1], logits) for logits in found.values())


@torch.no_grad()
def test_without_onednns_kernel_the_plain_steps_are_left(monkeypatch):
    decoder = families.read(random_model("llama"))
    torch._C._set_mkldnn_enabled(False)
    try:
        assert not decoding.fits(decoder.to(torch.bfloat16))
    finally:
        torch._C._set_mkldnn_enabled(True)
    monkeypatch.setattr(products, "RELEASE", "no such function")
    assert not decoding.fits(decoder)


@torch.no_grad()
def test_inputs_that_do_not_come_in_pairs_are_left_to_the_others():
    decoder = families.read(random_model("llama"))
    weight = decoder.blocks[0].down.weight
    decoder.blocks[0].down = linear.Linear(weight[:, :-1])
    assert not decoding.fits(decoder)


@torch.no_grad()
def test_wider_heads_than_the_compiled_steps_know_are_left_to_the_others():
    decoder = families.read(random_model("llama"))
    decoder.head_dim = decoding.WIDEST + 1
    assert not decoding.fits(decoder)


def uniforms(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_draws_by_hand(dtype):
    """Weights 1, 0, 2, 1: the cumulative shares are 1/4, 1/4, 3/4 and 1."""
    logits = torch.tensor([0.0, -math.inf, math.log(2), 0.0]).to(dtype).expand(7, 4)
    below_one = math.nextafter(1.0, 0.0)
    tokens, logprobs = draw(logits, uniforms(0.0, 0.249, 0.251, 0.749, 0.751, 0.999, below_one))
    assert tokens.tolist() == [0, 0, 2, 2, 3, 3, 3]
    shares = torch.tensor([1, 1, 2, 2, 1, 1, 1]) / 4
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(logprobs, shares.log(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("vocabulary", [1, 127, 128, 129, 500])
def test_equal_weights_cut_the_unit_interval_evenly(vocabulary):
    tokens = torch.arange(vocabulary)
    within = (tokens + 0.5) / vocabulary
    drawn, logprobs = draw(torch.full((vocabulary, vocabulary), -3.0), within.double())
    assert torch.equal(drawn, tokens)
    torch.testing.assert_close(logprobs, torch.full((vocabulary,), -math.log(vocabulary)))


def test_no_token_without_weight_is_drawn_at_the_ends():
    """Not even where the number is 1, which no generator gives."""
    logits = torch.full((3, 400), -math.inf)
    logits[:, 130], logits[:, 240] = 0, 80
    tokens, logprobs = draw(logits, uniforms(0.0, math.nextafter(1.0, 0.0), 1.0))
    assert tokens.tolist() == [130, 240, 240]
    torch.testing.assert_close(logprobs, torch.tensor([-80.0, 0.0, 0.0]))


def test_rounded_sums_do_not_lead_past_the_last_weight():
    """The sum of a run in float32 is often above that of its weights one by one."""
    logits = torch.randn(200, 128, generator=torch.Generator().manual_seed(0))
    logits[:, 100:] = -math.inf
    tokens, _ = draw(logits, torch.full((200,), math.nextafter(1.0, 0.0), dtype=torch.float64))
    assert tokens.max() == 99


def test_frequencies_and_logprobs_follow_the_softmax():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 300, generator=generator).expand(20_000, 300)
    tokens, logprobs = draw(logits, torch.rand(20_000, generator=generator, dtype=torch.float64))
    expected = logits[0].double().softmax(-1)
    assert chisquare(tokens.bincount(minlength=300), 20_000 * expected.numpy()).pvalue > 0.01
    torch.testing.assert_close(logprobs.double(), expected[tokens].log(), atol=1e-5, rtol=0)


def test_rows_of_no_numbers_draw_a_token_and_disturb_no_other():
    logits = torch.zeros(3, 200)
    logits[1] = math.nan
    tokens, logprobs = draw(logits, uniforms(0.5, 0.5, 0.5))
    assert tokens[[0, 2]].tolist() == [100, 100]
    assert 0 <= tokens[1] < 200
    assert logprobs.isnan().tolist() == [False, True, False]
