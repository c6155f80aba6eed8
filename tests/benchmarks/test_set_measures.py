"""Numbers of a prompt's completions together, and numbers that do not apply to all."""

import io
import json
import math

import numpy as np
import pandas as pd
import pytest
from plugins import Letters
from rich.console import Console
from test_measure import SKEWED, UNIFORM, responses, value

from textgym.benchmarks import report
from textgym.benchmarks.intervals import SET
from textgym.benchmarks.leaderboard import build, read_entries
from textgym.benchmarks.measure import measure
from textgym.benchmarks.page.build import escaped
from textgym.benchmarks.page.data import read_results
from textgym.benchmarks.page.glossary import define
from textgym.benchmarks.page.table import boards, runs
from textgym.benchmarks.preflight import preflight
from textgym.benchmarks.recording import CountedTask
from textgym.benchmarks.runner import run_suite
from textgym.benchmarks.sample_numbers import _means
from textgym.benchmarks.suite import Evaluation, Spec, Suite
from textgym.benchmarks.trade_offs import read_paths
from textgym.benchmarks.workbench import Workbench
from textgym.errors import RewardError


class Sets(Letters):
    """Letters whose b's count only in responses that have one, and whose sets are counted."""

    name = "sets"

    def measures(self, prompts, completions, **columns):
        counts = [float(text.count("b")) or math.nan for text in completions]
        return {"bs": counts, "never": [math.nan] * len(completions)}

    def set_measures(self, prompts, completions, samples_per_prompt, **columns):
        k = samples_per_prompt
        groups = [completions[i : i + k] for i in range(0, len(completions), k)]
        distinct = [float(len(set(texts))) for texts in groups]
        longest = [max(map(len, texts)) or math.nan for texts in groups]
        return {"distinct": distinct, "longest": longest, "nothing": [math.nan] * len(groups)}


class Short(Sets):
    """A task whose set measure forgets prompts."""

    def set_measures(self, prompts, completions, samples_per_prompt, **columns):
        return {"distinct": [1.0]}


def test_numbers_of_sets_by_hand():
    # {a}, {a, bb}, {"", ""}: the last has no longest.
    samples = responses(["a", "a", "a", "bb", "", ""], 2)
    measured = measure(samples, Sets(), SKEWED, UNIFORM)
    assert measured.prompts[SET + "distinct"].tolist() == [1, 2, 1]
    assert value(measured, SET + "distinct") == pytest.approx(4 / 3)
    assert value(measured, SET + "longest") == 1.5
    low, high = (measured.metrics[SET + "longest"][end] for end in ("low", "high"))
    assert (low, high) == (1, 2)
    assert SET + "nothing" not in measured.metrics
    assert SET + "distinct" not in measured.samples
    json.dumps(measured.metrics, allow_nan=False)


def test_a_task_without_numbers_of_sets_has_none():
    measured = measure(responses(["a", "b"], 2), Letters(), SKEWED, UNIFORM)
    assert not [name for name in measured.prompts if name.startswith(SET)]


def test_what_does_not_apply_is_left_out_of_the_mean():
    # b's: 1 and 3 | - and 2 | - and -: means 2, 2 and nothing.
    samples = responses(["b", "bbb", "a", "bb", "a", "aa"], 2)
    measured = measure(samples, Sets(), SKEWED, UNIFORM)
    assert measured.prompts["bs"].tolist()[:2] == [2, 2]
    assert math.isnan(measured.prompts["bs"][2])
    assert [measured.metrics["bs"][end] for end in ("value", "low", "high")] == [2, 2, 2]
    assert "never" not in measured.metrics
    assert measured.samples["bs"].isna().sum() == 3


def test_means_of_what_all_apply_are_what_they_were():
    values = np.random.default_rng(0).normal(size=7 * 250)
    for k in (1, 7, 25, 125):
        assert _means(values, k).tobytes() == values.reshape(-1, k).mean(axis=1).tobytes()


def test_the_worst_of_a_prompt_is_of_what_has_a_toxicity():
    class Unsure(Letters):
        def measures(self, prompts, completions, **columns):
            return {"toxicity": [math.nan if "a" in t else len(t) / 4 for t in completions]}

    # {-, 3/4}, {1/4, 1/2}, {-, -}.
    samples = responses(["a", "bbb", "b", "bb", "a", "a"], 2)
    measured = measure(samples, Unsure(), SKEWED, UNIFORM)
    assert measured.prompts["expected_max_toxicity"].tolist()[:2] == [0.75, 0.5]
    assert measured.prompts["toxicity_probability"].tolist()[:2] == [1, 0]
    assert math.isnan(measured.prompts["toxicity_probability"][2])
    assert value(measured, "expected_max_toxicity") == 0.625


def test_a_wrong_number_of_them_is_named():
    with pytest.raises(RewardError, match=r"'distinct'.*1 values for 2 prompts"):
        measure(responses(["a", "b", "a", "b"], 2), Short(), SKEWED, UNIFORM)


def test_a_counted_task_passes_them_on():
    found = CountedTask(Sets()).set_measures(["p", "p"], ["a", "a"], 2)
    assert found["distinct"] == [1]


@pytest.fixture(scope="module")
def out(tmp_path_factory, model):
    out = tmp_path_factory.mktemp("sets")
    suite = Suite(
        "test",
        tasks=(Spec(f"{__file__}:Sets", label="sets"),),
        agents=(Spec("sft"), Spec("reinforce", {"prompts_per_step": 4}, "reinforce")),
        model=str(model),
        budget=8,
        evaluation=Evaluation(
            prompts=4, samples_per_prompt=3, frontier_samples=4, checkpoint_prompts=3,
            checkpoint_samples=2,
        ),
        sft={"steps": 2},
    )  # fmt: skip
    bench, console = Workbench(out), Console(file=io.StringIO(), width=200)
    run = run_suite(suite, bench, preflight(bench, suite, print), 1, console)
    assert [outcome.error for outcome in run] == [""] * 2
    return out


def test_they_go_into_results_and_leaderboard(out):
    table = build(read_entries(out))
    prompts = pd.read_parquet(out / "sets/sft/seed-0/prompts.parquet")
    row = table[table["agent"] == "sft"].iloc[0]
    assert row[SET + "distinct"] == pytest.approx(prompts[SET + "distinct"].mean())
    assert row[SET + "distinct_low"] <= row[SET + "distinct"] <= row[SET + "distinct_high"]
    titles = [column.title for column in report.shown_columns(table)]
    assert "distinct" in titles
    assert "nothing" not in titles
    assert "| distinct |" in report.markdown(table)


def test_they_go_into_checkpoints_and_the_curve(out):
    looks = pd.read_parquet(out / "sets/reinforce/seed-0/checkpoints.parquet")
    assert set(looks["step"]) == {0, 2}
    assert looks[SET + "distinct"].between(1, 2).all()
    assert looks[SET + "nothing"].isna().all()
    curve = pd.read_parquet(out / "sets/reinforce/seed-0/curve.parquet")
    seen = curve[f"checkpoint/{SET}distinct"].dropna()
    means = looks.groupby("step")[SET + "distinct"].mean()
    assert seen.tolist() == pytest.approx([means[2]], rel=1e-5)
    assert f"checkpoint/{SET}nothing" not in curve
    paths = read_paths(out, read_entries(out))
    assert all(np.isfinite(v).all() for path in paths for v in path.values.values())


def test_the_page_shows_and_defines_them(out):
    shown = boards(read_results(out))[0]
    header = next(head for head in shown.headers if head.metric == SET + "distinct")
    assert (header.title, define(header.metric).name) == ("distinct", "of the set (distinct)")
    numbers = {
        row.agent: [n.text for n in row.numbers if n.metric == header.metric] for row in shown.rows
    }
    assert all("±" in texts[0] for texts in numbers.values())
    assert escaped(runs(read_results(out), {}))
