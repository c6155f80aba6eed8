"""The numbers that a report is made of: an estimate with its interval, or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textgym.metrics.sets import FloatArray
from textgym.metrics.stats import Interval

Ints = NDArray[np.int64]
Statistic = Callable[[Ints], float]
"""Maps row indices to a number; NaN where it is undefined on them."""


@dataclass(frozen=True)
class Estimate:
    """A number and what is known of it.

    Attributes:
        value: None where there is none.
        low, high: its interval; None where it has none, as with answers to a single prompt.
        count: the answers or texts that it rests on.
        missing: why there is no value; empty where there is one.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    count: int = 0
    missing: str = ""


class Resampling(NamedTuple):
    """How bootstraps are drawn.

    Attributes:
        generator: the only source of randomness.
        resamples: how many.
        level: of the intervals.
    """

    generator: np.random.Generator
    resamples: int = 1000
    level: float = 0.95


def no_estimate(reason: str, count: int = 0) -> Estimate:
    """Returns what stands for a number that does not exist."""
    return Estimate(None, count=count, missing=reason)


def of_interval(interval: Interval, count: int, prompts: int) -> Estimate:
    """Returns an interval as an estimate; resampling one prompt says nothing, so it has none."""
    if prompts < 2:
        return Estimate(interval.estimate, count=count)
    return Estimate(interval.estimate, interval.low, interval.high, count)


def codes(values: Sequence[Any]) -> Ints:
    """Returns [M] ids, equal where the values are, in the order of their first appearance.

    >>> codes(["b", "a", "b"]).tolist()
    [0, 1, 0]
    """
    known: dict[Any, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], np.int64)


def equal_count_bins(values: FloatArray, bins: int) -> Ints:
    """Returns the bin [M], 0 to bins - 1, of each value; the bins are quantiles.

    Equal values share a bin, so that bins may differ in size or stay empty.

    >>> equal_count_bins(np.array([0.3, 0.1, 0.2, 0.1]), 2).tolist()
    [1, 0, 1, 0]
    """
    rank = np.searchsorted(np.sort(values), values, side="left")
    return np.asarray(rank * bins // len(values), np.int64)


def bootstrap_by_prompt(
    statistic: Statistic, prompts: Ints, resampling: Resampling, missing: str
) -> Estimate:
    """Returns a statistic of rows with a percentile interval, whole prompts resampled.

    Resamples on which the statistic is undefined are left out.

    Args:
        statistic: maps row indices to a number.
        prompts: [M] the prompt of each row.
        resampling: how.
        missing: why there is no number, where the statistic is undefined on all rows.

    Source: Davison and Hinkley 1997, section 3.8 (resampling of clusters).
    """
    value = statistic(np.arange(len(prompts)))
    if np.isnan(value):
        return no_estimate(missing, len(prompts))
    by_prompt = np.argsort(prompts, kind="stable")
    rows_of = np.split(by_prompt, np.flatnonzero(np.diff(prompts[by_prompt])) + 1)
    estimate = Estimate(float(value), count=len(prompts))
    if len(rows_of) < 2:
        return estimate
    generator, size = resampling.generator, len(rows_of)
    drawn = (generator.integers(size, size=size) for _ in range(resampling.resamples))
    resampled = [statistic(np.concatenate([rows_of[i] for i in picked])) for picked in drawn]
    if np.isnan(resampled).all():
        return estimate
    tail = (1 - resampling.level) / 2
    low, high = np.nanquantile(resampled, [tail, 1 - tail])
    return replace(estimate, low=float(low), high=float(high))
