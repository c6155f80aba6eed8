"""What the generalisation study takes from its rows: estimates, resamples, and their ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

from textgym.benchmarks.studies.nested import (
    RESAMPLES,
    interval_of,
    resampled_means,
    stacked,
)
from textgym.metrics.sets import FloatArray
from textgym.metrics.stats import Interval

if TYPE_CHECKING:
    import pandas as pd

GOLD, GOLD_OOD, GAP = "gold", "gold ood", "gap"
KL, KL_OOD = "KL", "KL ood"
LOST, LOST_OOD = "diversity lost", "diversity lost ood"
NUMBERS = (GOLD, GOLD_OOD, GAP, KL, KL_OOD, LOST, LOST_OOD)
"""`gap` is gold in distribution less gold out of it; diversity is EAD, KL is in nats."""

PACKED = ("gold", "kl", "ead", "reference ead")
"""What a row holds of every prompt."""


@dataclass(frozen=True)
class Estimates:
    """Numbers of one task's agents.

    Attributes:
        agents: A labels.
        here: each of `NUMBERS`, [A].
        resampled: the same of each resample, [A, R].
    """

    agents: list[str]
    here: dict[str, FloatArray]
    resampled: dict[str, FloatArray]


def estimates(rows: pd.DataFrame, splits: tuple[str, str], resamples: int = RESAMPLES) -> Estimates:
    """Returns the numbers of one task's rows.

    A resample draws seeds, and within each as many prompts, the same for all agents.

    Args:
        rows: one per agent, split and seed, `PACKED` columns.
        splits: the names of the two.
        resamples: of prompts nested in seeds.
    """
    agents, seeds = list(dict.fromkeys(rows["agent"])), sorted(rows["seed"].unique())
    columns = [
        stacked(rows[(rows["agent"] == agent) & (rows["split"] == split)], name, seeds)
        for split in splits
        for name in PACKED
        for agent in agents
    ]
    width = max(column.shape[1] for column in columns)
    even = [np.pad(c, ((0, 0), (0, width - c.shape[1])), constant_values=np.nan) for c in columns]
    here, drawn = resampled_means(np.stack(even), np.random.default_rng(0), resamples)
    shape = (2, len(PACKED), len(agents))
    return Estimates(
        agents, _numbers(here.reshape(shape)), _numbers(drawn.reshape(*shape, resamples))
    )


def _numbers(means: FloatArray) -> dict[str, FloatArray]:
    """Returns `NUMBERS`, [A] or [A, R], of means [2, len(PACKED), A] or [2, len(PACKED), A, R]."""
    (gold, kl, ead, base), (gold_ood, kl_ood, ead_ood, base_ood) = means
    found = (gold, gold_ood, gold - gold_ood, kl, kl_ood, 1 - ead / base, 1 - ead_ood / base_ood)
    return dict(zip(NUMBERS, found, strict=True))


def rank_correlation(x: FloatArray, y: FloatArray) -> FloatArray:
    """Returns Spearman's correlation across the first axis of [A] or [A, R]; ties share ranks.

    NaN where a side is constant or has a NaN.

    >>> float(rank_correlation(np.array([1.0, 2, 3]), np.array([10.0, 30, 20])))
    0.5
    """
    ranks_x, ranks_y = (rankdata(v, axis=0) for v in (x, y))
    ranks_x, ranks_y = (r - r.mean(axis=0) for r in (ranks_x, ranks_y))
    under = np.sqrt((ranks_x**2).sum(axis=0) * (ranks_y**2).sum(axis=0))
    over = (ranks_x * ranks_y).sum(axis=0)
    missing = ~(np.isfinite(x) & np.isfinite(y)).all(axis=0)
    usable = (under > 0) & ~missing
    found: FloatArray = np.divide(over, under, out=np.full_like(under, np.nan), where=usable)
    return found


def link(tasks: list[Estimates], x: str, y: str) -> Interval:
    """Returns the rank correlation of two numbers across agents, the mean over tasks."""
    here = np.array([rank_correlation(t.here[x], t.here[y]) for t in tasks])
    drawn = np.stack([rank_correlation(t.resampled[x], t.resampled[y]) for t in tasks])
    # A task whose agents are all alike in a resample leaves that resample out.
    return interval_of(here.mean(), drawn.mean(axis=0))


def difference(task: Estimates, number: str, agent: str, other: str) -> Interval:
    """Returns how much more of a number an agent has than another, on the same prompts."""
    a, b = task.agents.index(agent), task.agents.index(other)
    values, drawn = task.here[number], task.resampled[number]
    return interval_of(values[a] - values[b], drawn[a] - drawn[b])
