"""Sampling over kept keys and values: the same tokens and log-probabilities as `transformers`."""

import pytest
import torch
from decoder_support import MODELS, SPANS, VOCAB, batch, random_model
from policy_support import PROMPTS, WINDOW, make_policy
from scipy.stats import chi2_contingency
from transformers import LlamaConfig, LlamaForCausalLM

from textgym.models import decoding, families, linear, policy
from textgym.models.decoding import Decoding
from textgym.models.hugging_face import CachedDecoding
from textgym.models.policy import Policy
from textgym.models.sampling import sample_tokens
from textgym.models.tokenize import decode_responses, encode_prompts
from textgym.types import Sampling


def sessions(model, rows, samples, limit):
    prompt_ids, prompt_mask = rows
    decoder = families.read(model)
    ours = Decoding(decoder, prompt_ids, prompt_mask, samples, limit)
    return ours, CachedDecoding(model, VOCAB, prompt_ids, prompt_mask, samples)


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 3, "3 that share"])
@pytest.mark.parametrize("spans", ["no padding", "left", "one row"])
@pytest.mark.parametrize("name", MODELS)
def test_every_step_gives_what_transformers_gives(name, spans, samples, monkeypatch):
    """Room runs out twice, and rows and whole prompts leave on the way."""
    monkeypatch.setattr(decoding, "ROOM", 4)
    if samples == "3 that share":
        monkeypatch.setattr(decoding, "WORTH_SHARING", 1)
        samples = 3
    rows = batch(*SPANS[spans])[:2]
    ours, theirs = sessions(random_model(name), rows, samples, 12)
    generator = torch.Generator().manual_seed(0)
    for t in range(12):
        torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-4, rtol=1e-4)
        count = len(ours.logits)
        if t in (2, 6) and count > 1:
            kept = torch.arange(count)[1:] if t == 2 else torch.arange(count)[: (count + 1) // 2]
            ours.keep(kept), theirs.keep(kept)
            count = len(kept)
        tokens = torch.randint(VOCAB, (count,), generator=generator)
        ours.step(tokens), theirs.step(tokens)


@torch.no_grad()
def test_a_long_prompt_is_kept_once_for_all_its_samples(monkeypatch):
    monkeypatch.setattr(decoding, "WORTH_SHARING", 1)
    rows = batch(*SPANS["left"])[:2]
    ours, _ = sessions(random_model("llama"), rows, 7, 12)
    assert ours._shared._keys[0].shape == (3 * 2, 5, 6)  # prompts x key-value heads, not rows
    assert ours.logits.shape == (21, VOCAB)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=3.0, top_k=200, top_p=0.99)])
@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1]], ids=["padded", "one prompt"])
def test_samples_are_those_of_transformers(sampling, prompts, monkeypatch):
    model = make_policy("llama", extra_rows=30)
    ids, mask = encode_prompts(model.tokenizer, prompts, WINDOW)
    generator = torch.Generator().manual_seed(0)
    uniforms = torch.rand((240, 20), generator=generator, dtype=torch.float64)
    ours = sample_tokens(model, ids, mask, uniforms, sampling)
    assert len(ours.mask.sum(1).unique()) > 15, "rows should end at nearly every step"
    monkeypatch.setattr(policy, "read", lambda model: None)
    theirs = sample_tokens(model, ids, mask, uniforms, sampling)
    assert torch.equal(ours.ids, theirs.ids)
    assert torch.equal(ours.mask, theirs.mask)
    for name in ("policy_logprobs", "sampling_logprobs"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), atol=1e-5, rtol=1e-5)


def wide_policy(precision):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=290,
            hidden_size=256,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=8,
            max_position_embeddings=WINDOW,
            eos_token_id=0,
            pad_token_id=1,
            bos_token_id=None,
        )
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            model.lm_head.weight.mul_(8.0)  # as peaked as a trained model
    return Policy(model, make_policy("llama").tokenizer, precision=precision)


def test_bfloat16_draws_tokens_as_often_as_float32():
    """Independent samples of both, tokens counted, chi-square over tokens seen often enough."""
    samples = []
    for seed, precision in enumerate(("float32", "bfloat16")):
        model = wide_policy(precision)
        ids, mask = encode_prompts(model.tokenizer, PROMPTS[:1], WINDOW)
        generator = torch.Generator().manual_seed(seed)
        uniforms = torch.rand((6000, 2), generator=generator, dtype=torch.float64)
        samples.append(sample_tokens(model, ids, mask, uniforms, Sampling()))
    for t in range(2):
        counts = torch.stack([s.ids[s.mask[:, t], t].bincount(minlength=290) for s in samples])
        often = counts.sum(0) >= 40
        assert often.sum() > 5
        rest = counts[:, ~often].sum(1, keepdim=True)
        table = torch.cat([counts[:, often], rest], dim=1).numpy()
        assert chi2_contingency(table[:, table.sum(0) > 0]).pvalue > 1e-3


@torch.no_grad()
def test_bfloat16_is_computed_in_bfloat16():
    """The two precisions differ, by no more than the format's rounding explains."""
    model, exact = wide_policy("bfloat16"), wide_policy("float32")
    assert (model.precision, exact.precision) == (torch.bfloat16, torch.float32)
    ids, mask = encode_prompts(model.tokenizer, PROMPTS, WINDOW)
    ours, truth = (p.decoding(ids, mask, 2, 4).logits.float() for p in (model, exact))
    gap = (ours - truth).abs().max()
    assert 1e-4 < gap < 0.05 * truth.abs().max()


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


def test_what_onednn_does_not_pack_is_multiplied_as_it_is(monkeypatch):
    # As on processors without instructions for bfloat16, which it refuses.
    monkeypatch.setattr(linear, "packs", lambda: (torch.float32,))
    weight = torch.randn((128, 256), generator=torch.Generator().manual_seed(0))
    inputs = torch.randn((4, 256), generator=torch.Generator().manual_seed(1))
    short = linear.Linear(weight.bfloat16(), None)
    assert short.packed(4) is short
    torch.testing.assert_close(short(inputs).float(), inputs @ weight.t(), atol=0.3, rtol=0.05)
    assert isinstance(linear.Linear(weight, None).packed(4), linear.PackedLinear)
