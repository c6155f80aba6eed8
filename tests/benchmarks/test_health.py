from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from plugins import Letters
from rich.console import Console
from test_leaderboard import make_cell, store
from test_measure import SKEWED, UNIFORM, responses

from textgym.agents.base import EXACT_DEVIATION, ROUNDED_DEVIATION
from textgym.benchmarks import health_signs as signs
from textgym.benchmarks.catalogue import catalogue
from textgym.benchmarks.cell import read_json, write_json
from textgym.benchmarks.health import RULES, Evidence, gather, health
from textgym.benchmarks.health_checks import CHECKS, markdown, warnings
from textgym.benchmarks.leaderboard import build, read_entries
from textgym.benchmarks.measure import measure
from textgym.benchmarks.preflight import preflight
from textgym.benchmarks.report import notes
from textgym.benchmarks.runner import run_suite
from textgym.benchmarks.suite import Evaluation, Spec, Suite
from textgym.benchmarks.workbench import Workbench
from textgym.types import Sampling

EMPTY = pd.DataFrame({"step": []})
NOTHING = pd.DataFrame()
BROKEN = Path(__file__).parent / "unhealthy_agents.py"
DOCS = Path(__file__).parents[2] / "docs"


def curve(**columns):
    length = len(next(iter(columns.values())))
    return pd.DataFrame({"step": range(length), **columns})


def value(finding):
    return None if finding is None else pytest.approx(finding.value)


def test_ratio():
    # The second batch is off, the third made no step.
    logged = curve(first_ratio_deviation=[0, 2e-4, np.nan])
    found = signs.off_policy(logged, 1e-4)
    assert (found.value, found.threshold) == (2e-4, 1e-4)
    assert "at step 1" in found.seen
    assert signs.off_policy(logged, 2e-4) is None
    assert signs.off_policy(logged, 0.5) is None
    # What PPO logs over all its minibatches is off 1 by design.
    assert signs.off_policy(curve(ratio_deviation=[1.4]), 1e-4) is None
    assert signs.off_policy(curve(first_ratio_deviation=[np.nan]), 1e-4) is None


def ratios(mean, spread, prompts):
    """[N, 2] of which prompts' means are half `mean - spread` and half `mean + spread`."""
    means = np.where(np.arange(prompts) % 2, mean - spread, mean + spread)
    return np.stack([means - 5, means + 5], axis=1)  # within a prompt, noise does not count


def test_negative_kl():
    # 100 prompts at mean -+ 0.3 have the standard error 0.3 sqrt(100 / 99) / 10 = 0.03015;
    # Student's t with 99 degrees asks for 3.078 of them: 0.0928.
    found = signs.negative_kl(ratios(-0.0935, 0.3, 100))
    assert found.value == pytest.approx(-0.0935 / 0.03015, rel=1e-3)
    assert found.threshold == pytest.approx(-3.078, abs=1e-3)
    assert "-0.0935 nats" in found.seen
    assert signs.negative_kl(ratios(-0.092, 0.3, 100)) is None
    assert signs.negative_kl(ratios(0.5, 0.3, 100)) is None
    # Sure, but no more than rounding.
    assert signs.negative_kl(ratios(-0.0101, 0.001, 100)) is not None
    assert signs.negative_kl(ratios(-0.0099, 0.001, 100)) is None


def test_negative_kl_of_few_prompts_needs_more():
    # Four prompts: the standard error is 0.3 / sqrt(3) = 0.1732, and t asks for 9.219 of them.
    assert signs.negative_kl(ratios(-1.59, 0.3, 4)) is None
    assert signs.negative_kl(ratios(-1.60, 0.3, 4)) is not None
    assert signs.negative_kl(np.full((1, 8), -9.0)) is None
    assert signs.negative_kl(None) is None
    assert signs.negative_kl(np.zeros((8, 2))) is None


def test_sampler_and_scorer_disagree():
    deviations = np.zeros(2000)
    deviations[:2] = 0.2  # just 1 in 1000
    assert signs.disagreeing(deviations, 1e-4) is None
    deviations[2] = np.nan
    found = signs.disagreeing(deviations, 1e-4)
    assert (found.value, found.threshold) == (0.0015, 0.001)
    assert signs.disagreeing(deviations, 0.5) is None  # what bfloat16 is granted; 1 token is NaN
    assert signs.disagreeing(np.full(10, 1e-4), 1e-4) is None
    assert signs.disagreeing(np.empty(0), 1e-4) is None
    assert signs.disagreeing(None, 1e-4) is None


def test_constant_reward_in_training():
    rewards = np.empty((4, 1))
    # Thirds of two; the last has the mean 0.96, then 0.95, which is not above.
    for last, fires in ((0.92, True), (0.90, False)):
        found = signs.constant(curve(zero_variance_share=[0, 0, 1, 1, 1, last]), rewards)
        assert (found is not None) == fires
    assert found is None
    assert signs.constant(curve(zero_variance_share=[1, 1]), rewards) is None
    assert signs.constant(EMPTY, rewards) is None


def test_constant_reward_of_the_evaluated():
    groups = np.tile([[1.0, 1.0, 1.0]], (20, 1)) * np.arange(20)[:, None]  # each prompt its own
    found = signs.constant(EMPTY, groups)
    assert found.value == 1
    assert "100% of the evaluated prompts" in found.seen
    groups[0, 0] = 5  # 19 of 20 is 95%, not above
    assert signs.constant(EMPTY, groups) is None
    assert signs.constant(EMPTY, groups[:, :1]) is None


def rates(name, own, base, prompts=8):
    spread = np.where(np.arange(prompts) % 2, 0.01, -0.01)
    return pd.DataFrame({name: own + spread}), pd.DataFrame({name: [base] * prompts})


def test_truncation_rising():
    found = signs.truncated(EMPTY, *rates("truncation_rate", 0.41, 0.2))
    assert (value(found), found.threshold) == (0.21, 0.2)
    assert "above the reference's" in found.seen
    assert signs.truncated(EMPTY, *rates("truncation_rate", 0.39, 0.2)) is None
    assert signs.truncated(EMPTY, *rates("truncation_rate", 0.1, 0.9)) is None
    # Half the prompts at +0.9, half at -0.4: the mean rises by 0.25, within noise.
    own = pd.DataFrame({"truncation_rate": [0.9, 0.0] * 4})
    base = pd.DataFrame({"truncation_rate": [0.0, 0.4] * 4})
    assert signs.truncated(EMPTY, own, base) is None
    assert signs.truncated(EMPTY, own, NOTHING) is None


def test_truncation_rising_in_training():
    found = signs.truncated(curve(truncated=[0.1, 0.1, 0.2, 0.2, 0.31, 0.31]), NOTHING, NOTHING)
    assert value(found) == 0.21
    assert "the beginning of training" in found.seen
    # By 0.19; within the noise of the steps; too few steps.
    for logged in ([0.1, 0.1, 0.2, 0.2, 0.29, 0.29], [0, 0.1, 0, 0, 0, 0.9], [0, 0, 1]):
        assert signs.truncated(curve(truncated=logged), NOTHING, NOTHING) is None


def test_duplicates_rising():
    found = signs.duplicated(*rates("duplicate_rate", 0.51, 0.1))
    assert (value(found), found.threshold) == (0.41, 0.4)
    assert signs.duplicated(*rates("duplicate_rate", 0.49, 0.1)) is None
    own, base = rates("duplicate_rate", 0.9, 0.1)
    assert signs.duplicated(own, NOTHING) is None
    assert signs.duplicated(NOTHING, base) is None
    assert signs.duplicated(own[:1], base[:1]) is None  # one prompt is no evidence


def lengths_of(mean, prompts=8):
    return np.array([[mean - 2.0, mean, mean + 2.0]] * prompts) + np.arange(prompts)[:, None]


def by_prompt(lengths):
    return pd.DataFrame({"length": lengths.mean(axis=1)})


def test_reward_follows_length():
    long, base = lengths_of(30.0), by_prompt(lengths_of(20.0))
    found = signs.length_seeking(long * 0.1, long, base)
    assert (value(found), found.threshold) == (1, 0.5)
    assert "longer" in found.seen
    # Prompts have rewards and lengths of their own, which is no reason.
    offsets = 100.0 * np.arange(8)[::-1, None]
    assert value(signs.length_seeking(long * 0.1 + offsets, long, base)) == 1
    # The mean length of 33.5 is 9.8% above 30.5, 10.2% above 30.4, and below 36.5.
    assert signs.length_seeking(long, long, by_prompt(lengths_of(27.0))) is None
    assert signs.length_seeking(long, long, by_prompt(lengths_of(26.9))) is not None
    assert signs.length_seeking(long, long, by_prompt(lengths_of(33.0))) is None
    # Shorter, as a reward of brevity asks.
    short = lengths_of(15.0)
    found = signs.length_seeking(-short, short, base)
    assert (value(found), found.threshold) == (-1, -0.5)
    assert "shorter" in found.seen
    assert signs.length_seeking(short, short, base) is None


def test_reward_follows_length_at_the_threshold():
    long, base = lengths_of(30.0), by_prompt(lengths_of(20.0))
    # Rewards (-1, 0, 1) and noise c (1, -2, 1), at right angles: r = 2 / sqrt(2 (2 + 6 c^2)).
    for c, fires in ((0.99, True), (1.01, False)):
        rewards = np.array([[-1 + c, -2 * c, 1 + c]] * 8)
        found = signs.length_seeking(rewards, long, base)
        assert (found is not None) == fires
    assert signs.length_seeking(long[:, :1], long[:, :1], base) is None
    assert signs.length_seeking(np.ones_like(long), long, base) is None
    assert signs.length_seeking(long, long, NOTHING) is None


def test_value_loss_diverging():
    # Medians of the thirds: 4, 1, 10.1.
    found = signs.diverging(curve(value_loss=[4, 4, 4, 1, 1, 9, 10.1, 8, 20]))
    assert (value(found), found.threshold) == (10.1, 10)
    assert signs.diverging(curve(value_loss=[4, 4, 4, 1, 1, 9, 10, 8, 20])) is None
    assert signs.diverging(curve(value_loss=[9, 3, 1])) is None
    # A value that is worse than a constant is granted a factor of three.
    for explained, fires in ((-0.1, True), (0.1, False)):
        logged = curve(value_loss=[4, 1, 3.1], explained_variance=[-9, -2, explained])
        assert (signs.diverging(logged) is not None) == fires
    assert signs.diverging(curve(value_loss=[4, 1, 3], explained_variance=[0, 0, -1])) is None
    assert signs.diverging(curve(value_loss=[1, math.inf])).value == math.inf
    assert signs.diverging(curve(value_loss=[1, 99])) is None
    assert signs.diverging(curve(value_loss=[0, 0, 0])) is None
    assert signs.diverging(curve(value_loss=[0, 0, 1])).value == math.inf
    assert signs.diverging(curve(value_loss=[-2, -1, 0])) is None  # not a squared error
    assert signs.diverging(EMPTY) is None


def entropies(*seq):
    return pd.DataFrame({"entropy_seq": seq, "length": [10.0, 30.0]})


def test_entropy_collapse():
    # Per token: 80 nats over 40 tokens, then 19.6 and 20.
    base = entropies(20.0, 60.0)
    found = signs.collapsed(EMPTY, entropies(0.0, 19.6), base)
    assert (value(found), found.threshold) == (0.245, 0.25)
    assert signs.collapsed(EMPTY, entropies(5.0, 15.0), base) is None
    # Longer responses of as much entropy have less per token.
    longer = entropies(20.0, 60.0).assign(length=[100.0, 100.0])
    assert value(signs.collapsed(EMPTY, longer, base)) == 0.2
    assert signs.collapsed(EMPTY, entropies(0.0, 0.0), entropies(0.0, 0.0)) is None
    assert signs.collapsed(EMPTY, NOTHING, base) is None
    assert signs.collapsed(EMPTY, base, NOTHING) is None


def test_entropy_collapse_in_training():
    def found(**columns):
        return signs.collapsed(curve(**columns), NOTHING, NOTHING)

    assert value(found(entropy=[2, 1, 0.49])) == 0.245
    assert found(entropy=[2, 1, 0.5]) is None
    # 20 nats over 10 tokens, then 9 over 20.
    assert value(found(nll=[20, 10, 9], length=[10, 10, 20])) == 0.225
    assert found(nll=[20, 10, 9], length=[10, 10, 9]) is None
    assert found(nll=[20, 10, 0]) is None
    assert found(entropy=[2, 0]) is None


def evidence(**changes):
    ones = np.ones((8, 1))
    missing = {
        "curve": EMPTY,
        "prompts": pd.DataFrame({"length": [1.0] * 8, "truncation_rate": [0.0] * 8}),
        "reference": NOTHING,
        "rewards": ones,
        "lengths": ones,
        "log_ratios": None,
        "deviations": None,
        "bound": 1e-4,
    }
    return Evidence(**(missing | changes))


def gathered(carried, policy=SKEWED):
    """The evidence of two answers drawn at temperature 1/2, which makes the coin's odds 4:1:1."""
    samples = responses(["a", "b"], 2, Sampling(temperature=0.5))
    samples.policy_logprobs = torch.tensor([[0.25, 0.5]] * 2).log()
    samples.sampling_logprobs = torch.tensor(carried).log()
    base = measure(responses(["ab", "b"], 2), Letters(), UNIFORM, UNIFORM).baseline()
    measured = measure(samples, Letters(), policy, UNIFORM, baseline=base)
    return gather(samples, measured, base, EMPTY, torch.float32)


def test_evidence_is_of_what_was_drawn_from():
    found = gathered([[1 / 6, 2 / 3]] * 2)
    assert found.deviations == pytest.approx(np.zeros(4), abs=1e-6)
    # Each answer: log(1/6 : 1/3) + log(2/3 : 1/3) = 0; at temperature 1 it would be log(9/8).
    assert found.log_ratios == pytest.approx(np.zeros((1, 2)), abs=1e-6)
    assert found.rewards.tolist() == [[1, 0]]
    assert found.lengths.tolist() == [[2, 2]]
    assert found.reference["length"].tolist() == [2.5]
    assert found.bound == EXACT_DEVIATION


def test_evidence_shows_a_sampler_that_is_off():
    # It carries the log-probabilities of temperature 1: 1/6 over 1/4, and 2/3 over 1/2.
    found = gathered([[1 / 4, 1 / 2], [1 / 6, 2 / 3]])
    assert found.deviations == pytest.approx([1 / 3, 1 / 3, 0, 0], abs=1e-6)


def test_evidence_without_a_policy_or_log_probabilities():
    found = gathered([[1 / 6, 2 / 3]] * 2, policy=None)
    assert found.deviations is found.log_ratios is None
    assert gathered([[1.0]] * 2).deviations == pytest.approx(np.zeros(4), abs=1e-6)


def test_what_is_missing_is_silent():
    assert health(evidence()) == []


def test_a_record_is_json():
    logged = curve(value_loss=[1.0, 1.0, math.inf], first_ratio_deviation=[1.0, 0, 0])
    ratio, loss = health(evidence(curve=logged))
    assert list(ratio) == ["check", "value", "threshold", "seen", "cause", "hint"]
    assert (ratio["check"], ratio["value"], ratio["threshold"]) == ("ratio", 1.0, 1e-4)
    assert (loss["check"], loss["value"]) == ("value loss diverging", None)
    assert json.loads(json.dumps([ratio, loss], allow_nan=False)) == [ratio, loss]


def test_every_check_has_a_rule_and_its_texts():
    assert list(RULES) == [check.name for check in CHECKS]
    for check in CHECKS:
        assert check.cause.endswith("."), check.name
        assert check.hint.endswith((".", "?")), check.name
    granted = f"above {EXACT_DEVIATION:.0e}".replace("e-0", "e-")
    granted += f" ({ROUNDED_DEVIATION:g} in bfloat16)"
    assert all(granted in check.condition for check in (CHECKS[0], CHECKS[2]))
    assert list(catalogue("checks")["checks"]) == list(RULES)


def test_the_page_shows_the_checks():
    shown = (DOCS / "health.md").read_text().split("<!-- checks -->\n")[1]
    assert shown.split("<!-- /checks -->")[0] == markdown()


def run(suite, out):
    console = Console(file=io.StringIO(), width=200)
    bench = Workbench(out)
    outcomes = run_suite(suite, bench, preflight(bench, suite, print), 1, console)
    return outcomes, console.file.getvalue()


@pytest.fixture(scope="module")
def ran(plugin, model, tmp_path_factory):
    """Broken agents beside healthy ones: the folder, fired checks by agent, and what was shown."""
    healthy = (Spec("human"), Spec("sft"), Spec("best_of_n", {"n": 2}, "best"))
    nudge = Spec(plugin("Nudge"), {"strength": 0.2}, "nudge")
    sharp = Spec("reference", {"temperature": 0.9, "top_p": 0.9}, "sharp")
    broken = [Spec(f"{BROKEN}:{name}") for name in ("Tempered", "OneAnswer", "BadLogs")]
    suite = Suite(
        "test",
        tasks=(Spec(plugin("Letters"), label="letters"),),
        agents=(
            *healthy,
            nudge,
            sharp,
            *broken,
            Spec(f"{BROKEN}:Stale", {"strength": 8.0}, "Stale"),
        ),
        model=str(model),
        budget=16,
        evaluation=Evaluation(prompts=8, samples_per_prompt=4, frontier_samples=0),
        sft={"steps": 2},
    )
    out = tmp_path_factory.mktemp("results")
    outcomes, shown = run(suite, out)
    assert [o.error for o in outcomes if o.error] == []
    return out, {o.cell.split("/")[1]: o.warnings for o in outcomes}, shown


def test_broken_agents_are_caught_and_healthy_ones_are_not(ran):
    out, fired, shown = ran
    assert fired == {
        "human": [],
        "sft": [],
        "best": [],
        "nudge": [],
        "sharp": [],
        "Tempered": ["sampler and scorer disagree"],
        "Stale": ["negative KL", "sampler and scorer disagree"],
        "OneAnswer": ["constant reward", "duplicates rising", "entropy collapse"],
        "BadLogs": [
            "ratio",
            "constant reward",
            "truncation rising",
            "value loss diverging",
            "entropy collapse",
        ],
    }
    assert "  ! negative KL  ! sampler and scorer disagree\n" in shown
    stored = read_json(out / "letters/Stale/seed-0/result.json")["health"]
    assert [record["check"] for record in stored] == fired["Stale"]
    assert stored[0]["value"] < stored[0]["threshold"] < -3
    # The token-wise KL of a policy against itself is of no help: it is never negative.
    metrics = read_json(out / "letters/Stale/seed-0/result.json")["metrics"]
    assert metrics["kl_seq"]["value"] > 0


def test_the_leaderboard_warns(ran):
    out, _, _ = ran
    table = build(read_entries(out))
    found = [line for line in notes(table) if line.startswith("!")]
    assert "! Tempered: sampler and scorer disagree (seed 0)" in found
    assert {line.split(":")[0] for line in found} == {
        "! Tempered",
        "! Stale",
        "! OneAnswer",
        "! BadLogs",
    }


def test_seeds_are_named(tmp_path):
    for seed in (0, 2):
        cell = make_cell("ppo", seed)
        store(tmp_path, cell, gold=[0.1, 0.2])
        path = tmp_path / cell.name / "result.json"
        record = [{"check": "ratio"}] + [{"check": "entropy collapse"}] * (seed == 2)
        write_json(path, read_json(path) | {"health": record})
    row = build(read_entries(tmp_path)).iloc[0]
    assert row["warnings"] == "ratio (seeds 0, 2); entropy collapse (seed 2)"


def test_results_without_checks_have_no_warnings(tmp_path):
    store(tmp_path, make_cell("ppo"), gold=[0.1, 0.2])
    table = build(read_entries(tmp_path))
    assert "warnings" not in table
    assert not any(line.startswith("!") for line in notes(table))
    assert warnings([{"seed": 0, "health": []}]) == ""
