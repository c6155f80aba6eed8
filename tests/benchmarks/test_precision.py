"""What the measurement of number formats reports, held to hand-worked and enumerated numbers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from textgym.agents.base import EXACT_DEVIATION, ROUNDED_DEVIATION, enumerated
from textgym.benchmarks.speed.precision import WAYS, Case, gaps, kl_errors, measure, start
from textgym.benchmarks.speed.sampling import Load
from textgym.tasks import load_task

UNTRAINED = Case("as it is", {"vocabulary": 3, "horizon": 3}, width=32, share=0.0, samples=64)
SHORT = Case("short", {"vocabulary": 3, "horizon": 3}, width=32, lr=2e-3, share=0.06, samples=64)


def test_the_bias_of_a_sampled_kl_by_hand():
    task = SimpleNamespace(
        texts=["a", "b", "c"],
        rows_of=lambda prompts: np.zeros(len(prompts), int),
    )
    # The sampler draws a and b, of two tokens each, one time in two: both once is its expectation.
    samples = SimpleNamespace(
        prompts=["x", "x"],
        completions=["b", "a"],
        sampling_logprobs=torch.tensor([[0.5, 1.0], [1.0, 0.5]]).log(),
    )
    # The reference's scorer says 1/4 of both: the sampled KL is log 2.
    reference_logprobs = torch.tensor([[0.5, 0.5], [0.25, 1.0]]).log()
    exact, reference = np.array([[0.25, 0.75, 1e-300]]), np.array([[0.5, 0.25, 0.25]])
    errors = kl_errors(samples, reference_logprobs, exact, reference, task)
    wanted = 0.25 * np.log(0.5) + 0.75 * np.log(3)
    assert errors.mean() == pytest.approx(np.log(2) - wanted)
    # Where all agree, no sample is off.
    agreed = np.array([[0.5, 0.5, 1e-300]])
    errors = kl_errors(samples, reference_logprobs, agreed, agreed / 2, task)
    assert errors == pytest.approx([0, 0], abs=1e-6)


def test_untrained_policies_differ_in_nothing_but_the_format():
    frame = measure(2, [UNTRAINED]).set_index("way")
    assert list(frame.index) == list(WAYS)
    # log Z - E r / beta, of the one reference in float32, whatever a run computes in.
    task = load_task("known-frontier", **UNTRAINED.options)
    reference = enumerated(start(UNTRAINED, task, "float32"), task, task.asked)
    rewards = task.tables.rewards / task.beta
    log_z = np.log((reference * np.exp(rewards)).sum(1))
    wanted = (log_z - (reference * rewards).sum(1)).mean()
    assert frame["regret"].tolist() == pytest.approx([wanted] * 3)
    for regrets in frame["regrets"]:
        assert regrets == pytest.approx([wanted] * 2)
    assert (frame["excess"] == 0).all()
    assert frame["kl"].tolist() == pytest.approx([0] * 3, abs=1e-9)
    short = frame.loc["bfloat16"]
    assert short["measured"] != short["regret"]
    assert short["measured"] == pytest.approx(wanted, rel=0.02)


def test_training_in_every_way():
    frame = measure(2, [SHORT]).set_index("way")
    untrained = measure(2, [UNTRAINED]).set_index("way")
    assert (frame["regret"] < 0.9 * untrained["regret"]).all()
    for _, row in frame.iterrows():
        one, two = row["regrets"]
        assert row["regret"] == pytest.approx((one + two) / 2)
        # Two numbers: their standard deviation over the root of two.
        assert row["regret_se"] == pytest.approx(abs(one - two) / 2)
    first, other = frame.loc["float32"], frame.loc["bfloat16"]
    excess = np.subtract(other["regrets"], first["regrets"])
    assert other["excess"] == pytest.approx(excess.mean())
    assert other["excess_se"] == pytest.approx(abs(excess[0] - excess[1]) / 2)
    assert first["measured"] == pytest.approx(first["regret"])
    assert 0 < first["gap_max"] < 1e-4
    assert abs(first["kl_bias"]) < 1e-6 < abs(other["kl_bias"]) < 0.1


def test_the_gap_on_a_random_model():
    frame = gaps("1m", Load(4, samples=4, response_tokens=12), sharpness=[1.0, 8.0])
    exact, rounded = (frame[frame["precision"] == name] for name in ("float32", "bfloat16"))
    assert frame["nll"].iloc[0] == pytest.approx(np.log(2048), abs=0.2), "as initialised, flat"
    assert exact["nll"].iloc[1] < exact["nll"].iloc[0]
    assert (exact["ratio_deviation"] < EXACT_DEVIATION).all()
    assert (rounded["ratio_deviation"] < ROUNDED_DEVIATION).all()
    # On flat distributions sampler and scorer may round alike, on sharp ones they do not.
    assert rounded["ratio_deviation"].iloc[1] > EXACT_DEVIATION
    assert (rounded["gap_max"] >= rounded["gap_std"]).all()
    assert rounded["gap_std"].iloc[1] > 10 * exact["gap_std"].max()
