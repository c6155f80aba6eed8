"""The generalisation study's statistics, on cases worked by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from textgym.benchmarks.studies import nested
from textgym.benchmarks.studies.generalisation import AGENTS, TASKS, Generalisation
from textgym.benchmarks.studies.generalisation_numbers import (
    GAP,
    GOLD,
    GOLD_OOD,
    KL_OOD,
    LOST,
    LOST_OOD,
    difference,
    estimates,
    link,
    rank_correlation,
)
from textgym.benchmarks.studies.generalisation_told import _verdict
from textgym.benchmarks.studies.packing import packed
from textgym.benchmarks.suite import load_suite
from textgym.metrics.stats import Interval
from textgym.tasks import TASKS as REGISTERED
from textgym.tasks import load_task

SPLITS = ("test", "ood")


def row(agent, split, seed, gold, ead, reference=(1.0, 1.0), kl=(0.0, 0.0), task="summarize"):
    numbers = {"gold": gold, "kl": kl, "ead": ead, "reference ead": reference}
    texts = {name: packed(values) for name, values in numbers.items()}
    return {"seed": seed, "task": task, "agent": agent, "split": split, **texts}


@pytest.fixture
def rows():
    """Two agents, two seeds of two prompts: `rloo` is better everywhere and less diverse."""
    return pd.DataFrame(
        [
            row("sft", "test", 0, (0.2, 0.4), (1.0, 1.0)),
            row("sft", "test", 1, (0.4, 0.6), (1.0, 1.0)),
            row("sft", "ood", 0, (0.1, 0.1), (0.9, 1.1)),
            row("sft", "ood", 1, (0.1, 0.1), (1.0, 1.0)),
            row("rloo", "test", 0, (0.8, 0.8), (0.5, 0.7), kl=(1.0, 3.0)),
            row("rloo", "test", 1, (0.8, 0.8), (0.6, 0.6), kl=(2.0, 2.0)),
            row("rloo", "ood", 0, (0.3, 0.5), (0.2, 0.4), (0.5, 0.7), (4.0, 4.0)),
            row("rloo", "ood", 1, (0.3, 0.5), (0.2, 0.4), (0.5, 0.7), (4.0, 4.0)),
        ]
    )


def test_rows_of_seeds_are_stacked():
    table = pd.DataFrame({"seed": [3, 1], "gold": ["1000 2000", "500"]})
    stacked = nested.stacked(table, "gold", [1, 2, 3])
    np.testing.assert_equal(stacked, [[0.5, np.nan], [np.nan] * 2, [1, 2]])
    with pytest.raises(ValueError, match="one row per seed, got 2 of 1 seeds"):
        nested.stacked(table.assign(seed=1), "gold", [1])


def test_means_leave_out_what_is_missing_and_pair_the_columns():
    columns = np.array([[[1.0, 3.0], [np.nan, 5.0]], [[0.0, 2.0], [np.nan, 4.0]]])
    here, drawn = nested.resampled_means(columns, np.random.default_rng(0), 200)
    assert here == pytest.approx([3.0, 2.0])
    known = np.isfinite(drawn).all(axis=0)
    # Column 1 is column 0 less one on every prompt, so in every resample too.
    np.testing.assert_allclose((drawn[0] - drawn[1])[known], 1.0)
    assert set(np.round(drawn[0][known], 6)) <= set(np.round(np.linspace(1, 5, 241), 6)) | {
        *np.round(
            [
                (a + b * 3 + c * 5) / (a + b + c)
                for a in range(5)
                for b in range(5)
                for c in range(5)
                if a + b + c
            ],
            6,
        )
    }
    empty, _ = nested.resampled_means(np.full((1, 1, 2), np.nan), np.random.default_rng(0), 10)
    assert math.isnan(empty[0])


def test_bounds_by_hand():
    assert nested.bounds(np.arange(101.0)) == pytest.approx((2.5, 97.5))
    assert nested.half_width(np.arange(101.0)) == pytest.approx(47.5)
    assert all(map(math.isnan, nested.bounds(np.array([np.nan]))))


def test_estimates_by_hand(rows):
    found = estimates(rows, SPLITS, resamples=200)
    assert found.agents == ["sft", "rloo"]
    assert found.here[GOLD] == pytest.approx([0.4, 0.8])
    assert found.here[GOLD_OOD] == pytest.approx([0.1, 0.4])
    assert found.here[GAP] == pytest.approx([0.3, 0.4])
    assert found.here[KL_OOD] == pytest.approx([0.0, 4.0])
    # 1 - 0.6 / 1 on test; a ratio of means out of distribution: 1 - 0.3 / 0.6.
    assert found.here[LOST] == pytest.approx([0.0, 0.4])
    assert found.here[LOST_OOD] == pytest.approx([0.0, 0.5])
    gain = difference(found, GOLD_OOD, "rloo", "sft")
    assert gain.estimate == pytest.approx(0.3)
    assert gain.low == pytest.approx(0.2, abs=0.05)
    assert gain.high == pytest.approx(0.4, abs=0.05)


def test_a_resample_takes_the_same_prompts_from_all_agents(rows):
    same = rows[rows["agent"] == "sft"]
    twice = pd.concat([same, same.assign(agent="copy")])
    gap = difference(estimates(twice, SPLITS, resamples=100), GOLD, "copy", "sft")
    assert (gap.estimate, gap.low, gap.high) == (0, 0, 0)


def test_rank_correlations_by_hand():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    # d = (0, 1, -1, 0): 1 - 6 * 2 / (4 * 15) = 0.8.
    assert rank_correlation(x, np.array([10.0, 30.0, 20.0, 40.0])) == pytest.approx(0.8)
    assert rank_correlation(x, -x) == pytest.approx(-1)
    assert math.isnan(rank_correlation(x, np.ones(4)))
    assert math.isnan(rank_correlation(x, np.array([1.0, np.nan, 2.0, 3.0])))
    both = rank_correlation(np.stack([x, x], axis=1), np.stack([x, -x], axis=1))
    assert both == pytest.approx([1, -1])


def test_a_link_is_the_mean_over_tasks(rows):
    found = estimates(rows, SPLITS, resamples=50)
    # Two agents: the less diverse one has more gold out of distribution, so +1.
    assert link([found], LOST, GOLD_OOD).estimate == pytest.approx(1)
    other = rows.copy()
    swapped = rows[["ead", "reference ead"]].iloc[[4, 5, 6, 7, 0, 1, 2, 3]]
    other[["ead", "reference ead"]] = swapped.to_numpy()
    other = estimates(other, SPLITS, resamples=50)
    assert link([other], LOST, GOLD_OOD).estimate == pytest.approx(-1)
    assert link([found, other], LOST, GOLD_OOD).estimate == pytest.approx(0)


def test_the_verdict_says_no_more_than_the_intervals():
    up, down, open_ = Interval(0.5, 0.1, 0.9), Interval(-0.5, -0.9, -0.1), Interval(0, -0.5, 0.5)
    assert "scored higher there" in _verdict(up, open_)
    assert "scored lower there" in _verdict(down, open_)
    assert "stays open; whether" in _verdict(open_, open_)
    assert "fell further" in _verdict(open_, up)
    assert "fell less" in _verdict(open_, down)


def test_the_page_is_made_of_rows(rows):
    study = Generalisation()
    both = pd.concat([rows, rows.assign(task="toxicity")])
    summary = study.summary(both)
    assert summary["task"].tolist() == ["summarize"] * 2 + ["toxicity"] * 2
    assert summary["agent"].tolist() == ["sft", "rloo"] * 2
    assert summary[GAP].tolist() == pytest.approx([0.3, 0.4, 0.3, 0.4])
    found = study.findings(summary)
    assert len(found) == 4
    assert found[0].startswith("summarize: sft's gold goes from 0.40 on the test split to 0.10")
    assert "rloo +0.30 (" in found[0]
    assert (
        "Highest there is rloo, which loses 40% of diversity on the test split and 50%" in found[0]
    )
    figure = Figure()
    study.draw(summary, figure)
    assert [axes.get_title() for axes in figure.axes] == ["summarize", "toxicity"]


def test_every_agent_is_one_of_core_and_every_task_is_registered():
    labels = {spec.label for spec in load_suite("core").agents}
    assert set(AGENTS.values()) <= labels
    assert set(TASKS) <= set(REGISTERED)
    assert len(Generalisation().points(0)) == len(AGENTS) * len(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_the_split(name):
    few = dict.fromkeys(("train", "validation", "test", "demonstrations"), 24)
    task = load_task(name, **few)
    shifted, seen = task.prompts("ood"), set(task.demonstrations()["prompt"])
    assert len(shifted) == 24
    assert shifted.column_names == task.prompts("test").column_names
    for split in ("train", "validation", "test"):
        seen |= set(task.prompts(split)["prompt"])
    assert not seen & set(shifted["prompt"])
    prompts = shifted["prompt"][:]
    columns = {c: shifted[c][:] for c in shifted.column_names if c != "prompt"}
    gold = task.gold(prompts, shifted["reference"][:], **columns)
    assert 0.1 < np.mean(gold) <= 1  # the judges know what the writers wrote
