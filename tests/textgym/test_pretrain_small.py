import json
import math
from itertools import islice

import pytest
import torch
from datasets import Dataset
from policy_support import CountTask, make_policy
from transformers import AutoModelForCausalLM

from textgym.errors import ConfigError, DataError, PromptTooLongError, TrainingError
from textgym.models.documents import batches, cycle, read_texts, token_rows
from textgym.models.policy import load_policy
from textgym.models.pretrain import PretrainConfig, causal_loss, held_out_loss, pretrain
from textgym.models.training import (
    adamw,
    optimiser_step,
    train_on_completions,
    warmup_cosine,
)

CONFIG = PretrainConfig(
    width=16,
    layers=1,
    heads=2,
    kv_heads=1,
    intermediate=24,
    vocab_size=280,
    tokenizer_texts=20,
    context=48,
    tokens=24_000,
    batch_tokens=400,
    lr=1e-2,
    seed=3,
)
DATA = [f"The {a} {b} came {c}." for a in "abcd" for b in ("boat", "car") for c in ("in", "late")]


@pytest.fixture(scope="module")
def policy():
    return make_policy("llama")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("lm")
    summary = pretrain(cycle(DATA), CONFIG, out, held_out=DATA[:4], progress=False)
    return out, summary


# --- documents ---------------------------------------------------------------------------------


def test_texts_are_cycled_whole_and_shuffled_by_seed():
    texts = ["a", "b", "c", "d", "e"]
    first = list(islice(cycle(texts)(1), 15))
    for start in (0, 5, 10):
        assert sorted(first[start : start + 5]) == texts
    assert first[:5] != first[5:10]
    assert first == list(islice(cycle(texts)(1), 15))
    assert first != list(islice(cycle(texts)(2), 15))
    with pytest.raises(DataError, match="no texts"):
        cycle([])


def test_documents_end_in_eos_and_long_ones_are_cut(policy):
    (a,), (b,) = (policy.tokenizer(letter)["input_ids"] for letter in "AB")
    rows = token_rows(policy.tokenizer, ["A", "A" * 6, "B" * 4], context=4)
    # The last piece of "BBBB" would be EOS alone, with nothing to predict.
    assert rows == [[a, 0], [a, a, a, a], [a, a, 0], [b, b, b, b]]


def test_batches_hold_whole_documents_from_position_0(policy):
    tokenizer = policy.tokenizer
    stream = batches(cycle(DATA), tokenizer, seed=0, context=48, batch_tokens=200)
    seen = []
    for ids, mask in islice(stream, 40):
        assert ids.numel() <= 200
        assert ids.shape[0] > 1
        assert (ids[~mask] == tokenizer.pad_token_id).all()
        for row, keep in zip(ids, mask, strict=True):
            *tokens, last = row[keep].tolist()
            assert last == tokenizer.eos_token_id
            seen.append(tokenizer.decode(tokens))
    assert set(seen) == set(DATA)
    again = batches(cycle(DATA), tokenizer, seed=0, context=48, batch_tokens=200)
    first = batches(cycle(DATA), tokenizer, seed=0, context=48, batch_tokens=200)
    assert all(torch.equal(a[0], b[0]) for a, b in islice(zip(first, again, strict=False), 5))


def test_documents_that_cannot_be_batched_are_an_error(policy):
    with pytest.raises(ConfigError, match=r"batch_tokens must be >= context \(48\), got 40"):
        next(batches(cycle(DATA), policy.tokenizer, seed=0, context=48, batch_tokens=40))
    ended = batches(lambda seed: iter([]), policy.tokenizer, seed=0, context=48, batch_tokens=48)
    with pytest.raises(DataError, match="endless"):
        next(ended)


def test_texts_are_read_from_a_folder(tmp_path):
    rows = Dataset.from_dict({"text": ["a", " ", "b "], "title": ["x", "", "y"]})
    rows.to_parquet(tmp_path / "train.parquet")
    assert read_texts(tmp_path) == ["a", "b"]
    assert read_texts(tmp_path, columns=("title", "text")) == ["x\na", "y\nb"]
    with pytest.raises(DataError, match="no column 'body'; its columns are text, title"):
        read_texts(tmp_path, columns=("body",))
    with pytest.raises(DataError, match="'validation'"):
        read_texts(tmp_path, split="validation")
    with pytest.raises(DataError):
        read_texts(tmp_path / "nothing")


# --- losses ------------------------------------------------------------------------------------


def nats(model, ids):
    """Cost of ids[1:] given what stands before, by one plain forward pass."""
    logprobs = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return -sum(logprobs[i, token].item() for i, token in enumerate(ids[1:]))


def test_held_out_loss_adds_up_document_by_document(policy):
    texts = ["The boat", "The red car came in late on a windy day.", "late"]
    rows = [[*policy.tokenizer(t)["input_ids"], policy.eos_token_id] for t in texts]
    with torch.no_grad():
        total = sum(nats(policy.model, row) for row in rows)
    tokens = sum(len(row) - 1 for row in rows)
    losses = held_out_loss(policy.model, policy.tokenizer, texts, 64)
    assert losses["nats_per_document"] == pytest.approx(total / 3, rel=1e-5)
    assert losses["nats_per_token"] == pytest.approx(total / tokens, rel=1e-5)
    assert losses["documents"] == 3
    assert losses["tokens"] == tokens


def test_fine_tuning_learns_completions_and_nothing_else(policy):
    """The first loss, by hand: completion tokens and EOS of both rows, over their number."""
    rows = CountTask().demonstrations()
    total = count = 0
    with torch.no_grad():
        for row in rows:
            prompt = policy.tokenizer(row["prompt"])["input_ids"]
            completion = [*policy.tokenizer(row["completion"])["input_ids"], policy.eos_token_id]
            total += nats(policy.model, prompt + completion)
            if len(prompt) > 1:
                total -= nats(policy.model, prompt)
            count += len(completion)
    logged = []
    student = policy.copy()
    train_on_completions(
        student,
        rows,
        steps=40,
        batch_size=2,
        lr=1e-2,
        max_prompt_tokens=24,
        generator=torch.Generator().manual_seed(0),
        log=lambda step, metrics: logged.append((step, metrics["loss"])),
    )
    assert [step for step, _ in logged] == list(range(40))
    assert logged[0][1] == pytest.approx(total / count, rel=1e-4)
    assert logged[-1][1] < 0.1 * logged[0][1]


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ({"prompt": ["a"]}, DataError, "column 'completion'; got prompt"),
        ({"prompt": [], "completion": []}, DataError, "no demonstrations"),
        ({"prompt": ["A" * 30], "completion": ["b"]}, PromptTooLongError, "30 tokens"),
    ],
)
def test_bad_demonstrations_are_an_error(policy, rows, error, message):
    with pytest.raises(error, match=message):
        train_on_completions(
            policy.copy(),
            Dataset.from_dict(rows),
            steps=1,
            batch_size=1,
            lr=1e-3,
            max_prompt_tokens=24,
            generator=torch.Generator(),
            log=lambda step, metrics: None,
        )


# --- the optimiser step ------------------------------------------------------------------------


def test_a_step_clips_the_gradient_and_reports_its_norm():
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    norm = optimiser_step(optimizer, (weight * torch.tensor([3.0, 4.0])).sum(), 0, 1.0)
    assert norm == pytest.approx(5.0)
    torch.testing.assert_close(weight.data, torch.tensor([1 - 0.6, 2 - 0.8]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("loss", "cause"),
    [(lambda w: w.sum() * math.nan, "loss is nan"), (lambda w: (w - w).sqrt().sum(), "norm is ")],
)
def test_what_is_not_finite_stops_training_and_changes_nothing(loss, cause):
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = adamw([weight], 0.1)
    with pytest.raises(TrainingError, match=f"step 7: .*{cause}") as caught:
        optimiser_step(optimizer, loss(weight), 7)
    assert caught.value.step == 7
    assert weight.data.tolist() == [1.0, 2.0]


def test_weight_decay_spares_gains_and_biases():
    matrix, bias = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    optimizer = adamw([matrix, bias], 0.1, weight_decay=0.5)
    optimiser_step(optimizer, (matrix * 0).sum() + (bias * 0).sum(), 0)
    torch.testing.assert_close(matrix.data, torch.full((2, 2), 0.95))
    assert (bias == 1).all()


def test_the_schedule_rises_then_falls_to_its_floor():
    assert warmup_cosine(0.0) < 0.1
    assert warmup_cosine(0.02) == pytest.approx(1.0)
    assert warmup_cosine(0.51) == pytest.approx(0.55)
    assert warmup_cosine(1.0) == pytest.approx(0.1)


# --- pretraining -------------------------------------------------------------------------------


def test_pretraining_learns_and_leaves_a_model(trained):
    out, summary = trained
    assert summary["tokens"] >= CONFIG.tokens
    curve = (out / "loss.csv").read_text().splitlines()
    assert curve[0] == "step,tokens,loss,grad_norm,held_out"
    assert len(curve) == summary["steps"] + 1
    assert float(curve[1].split(",")[2]) > 5
    # Documents: 3 free choices cost log 16 = 2.77 nats; the untrained model pays log 280 a token.
    assert summary["held_out"]["nats_per_document"] < 8
    assert json.loads((out / "summary.json").read_text())["held_out"] == summary["held_out"]
    assert not list(out.glob("*checkpoint*"))
    policy = load_policy(out)
    assert policy.max_length == 48
    losses = held_out_loss(policy.model, policy.tokenizer, DATA[:4], 48)
    assert losses == pytest.approx(summary["held_out"])


def test_the_same_seed_gives_the_same_model_to_the_bit(trained, tmp_path):
    before = torch.get_rng_state()
    pretrain(cycle(DATA), CONFIG, tmp_path, held_out=DATA[:4], progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    first = (trained[0] / "model.safetensors").read_bytes()
    assert (tmp_path / "model.safetensors").read_bytes() == first


def test_an_interrupted_run_ends_as_if_it_had_not_been(trained, tmp_path):
    calls = []

    def interrupt(model, tokenizer, tokens):
        calls.append(tokens)
        if len(calls) == 6:
            raise KeyboardInterrupt

    arguments = {"held_out": DATA[:4], "progress": False}
    with pytest.raises(KeyboardInterrupt):
        pretrain(cycle(DATA), CONFIG, tmp_path, on_evaluation=interrupt, **arguments)
    assert (tmp_path / "checkpoint.safetensors").is_file()
    assert not (tmp_path / "model.safetensors").exists()
    summary = pretrain(cycle(DATA), CONFIG, tmp_path, on_evaluation=interrupt, **arguments)
    assert calls[6] == calls[5], "goes on from the last checkpoint, not from the start"
    assert summary["held_out"] == trained[1]["held_out"]
    first = (trained[0] / "model.safetensors").read_bytes()
    assert (tmp_path / "model.safetensors").read_bytes() == first


def test_a_checkpoint_of_other_settings_is_an_error(tmp_path):
    def interrupt(model, tokenizer, tokens):
        if list(tmp_path.glob("checkpoint*")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(cycle(DATA), CONFIG, tmp_path, progress=False, on_evaluation=interrupt)
    other = PretrainConfig(**{**CONFIG.__dict__, "seed": 4})
    with pytest.raises(ConfigError, match="other settings"):
        pretrain(cycle(DATA), other, tmp_path, progress=False)


def test_half_precision_weights_are_half_the_size(trained, tmp_path):
    short = PretrainConfig(**{**CONFIG.__dict__, "tokens": 400})
    summary = pretrain(
        cycle(DATA),
        short,
        tmp_path,
        held_out=DATA[:4],
        sample_prompts=["The a"],
        progress=False,
        weights_dtype=torch.bfloat16,
    )
    full, half = (p / "model.safetensors" for p in (trained[0], tmp_path))
    assert half.stat().st_size < 0.7 * full.stat().st_size
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    losses = held_out_loss(model, load_policy(tmp_path).tokenizer, DATA[:4], 48)
    assert losses == pytest.approx(summary["held_out"])


def test_the_bar_shows_losses_and_samples(tmp_path, capsys):
    short = PretrainConfig(**{**CONFIG.__dict__, "tokens": 400})
    pretrain(cycle(DATA), short, tmp_path, held_out=DATA[:4], sample_prompts=["The a"])
    shown = capsys.readouterr().out
    assert "held out" in shown
    assert "'The a' -> " in shown


@pytest.mark.parametrize("wrong", [{"width": 15}, {"layers": 0}, {"lr": 0.0}, {"kv_heads": 3}])
def test_settings_outside_their_domain_are_an_error(wrong):
    with pytest.raises(ConfigError):
        PretrainConfig(**wrong)


def test_bfloat16_is_close_to_float32(policy):
    ids = torch.tensor([[5, 60, 70, 80, 90]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    exact, rounded = (causal_loss(policy.model, ids, mask, half).item() for half in (False, True))
    assert rounded == pytest.approx(exact, rel=0.05)
    assert rounded != exact
