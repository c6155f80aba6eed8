"""The comparison with TRL's training steps on a model so small that it takes seconds."""

import builtins
import math

import pytest
import torch

from textgym.benchmarks.speed import training
from textgym.benchmarks.speed.models import make_model
from textgym.benchmarks.speed.sampling import Load
from textgym.benchmarks.speed.training import Count, our_run
from textgym.errors import ConfigError, UnknownNameError

LOAD = Load(2, samples=2, prompt_tokens=6, response_tokens=5)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "rows"), [("float32", 3), ("auto", 6)])
def test_every_row_has_numbers_and_equal_work(precision, rows, capfd):
    pytest.importorskip("trl")
    state = torch.random.get_rng_state()
    measured = training.measure(1, precision, model="1m", load=LOAD)
    assert torch.equal(state, torch.random.get_rng_state())
    assert len({row.name for row in measured}) == rows
    for row in measured:
        for number in (row.ours, row.peer, row.ratio, row.low, row.high, row.goal):
            assert math.isfinite(number)
            assert number > 0
        assert row.ratio == pytest.approx(row.peer / row.ours)
        done = training.STEPS * LOAD.rows
        assert row.detail["completions"] == row.detail["peer_completions"] == done
        assert row.detail["tokens"] == row.detail["peer_tokens"] == done * 5
        assert row.detail["tokens_per_second"] == pytest.approx(LOAD.tokens / row.ours)
        assert row.detail["peer_tokens_per_second"] == pytest.approx(LOAD.tokens / row.peer)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("agent", ["rloo", "grpo", "ppo"])
def test_our_run_takes_one_optimiser_step_per_batch(agent, monkeypatch):
    steps = []
    step = torch.optim.AdamW.step

    def counting(optimizer, *args, **kwargs):
        steps.append(sum(p.numel() for group in optimizer.param_groups for p in group["params"]))
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", counting)
    start = make_model("1m")
    before = [p.clone() for p in start.parameters()]
    run = our_run(agent, start, LOAD, "float32", steps=3)
    policy = sum(p.numel() for p in start.parameters())
    # PPO's value model is the trunk, the policy's whole self where embeddings are tied, and a head.
    value = [policy + 128 + 1] if agent == "ppo" else []
    assert steps == [*value, policy] * 3
    assert (run.completions, run.tokens, len(run.ends)) == (12, 60, 3)
    assert run.seconds > 0
    assert all(map(torch.equal, before, start.parameters()))


def test_the_task_fills_its_window():
    from textgym.benchmarks.speed.models import endless_tokenizer

    task = Count(Load(4, prompt_tokens=6), 64)
    lengths = [
        len(ids) for ids in endless_tokenizer(64)(task.prompts("train")["prompt"][:])["input_ids"]
    ]
    assert max(lengths) == task.max_prompt_tokens == 6
    assert task.reward([], ["w7 w71", "w1", "w77"]) == [2.0, 0.0, 2.0]


def test_a_step_is_timed_from_the_end_of_the_first():
    run = training.Run(ends=[10.0, 11.0, 14.0])
    assert run.seconds == 2.0


def test_ratios_are_of_pairs():
    ours = [training.Run([0.0, 1.0], 8, 40), training.Run([0.0, 2.0], 8, 40)]
    peer = [training.Run([0.0, 3.0], 8, 40), training.Run([0.0, 10.0], 8, 40)]
    row = training._row("step", ours, peer, 5.0)
    assert (row.low, row.ratio, row.high) == (3.0, 4.0, 5.0)
    assert (row.ours, row.peer, row.goal) == (1.5, 6.5, 5.0)


def test_a_missing_peer_is_named_with_its_remedy(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "trl":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'textgym\[peers\]'"):
        training.measure(1)


def test_an_unknown_precision_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'float32'"):
        training.measure(1, "float3")
