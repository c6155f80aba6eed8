"""Numbers of prompts nested in seeds, as studies keep them and take intervals of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from textgym.benchmarks.studies.packing import unpacked
from textgym.metrics.sets import FloatArray
from textgym.metrics.stats import Interval, bootstrap_mean, resampled_sums

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 1000
SPREAD = "half a 95% bootstrap interval of prompts nested in seeds,"
"""What stands behind the ± of the studies that use this (`Study.spread`)."""


def stacked(rows: pd.DataFrame, column: str, seeds: Sequence[int]) -> FloatArray:
    """Returns [S, N], a packed column of one row per seed; NaN where a seed has none or fewer.

    Raises: ValueError for two rows of one seed.
    """
    texts = {int(row["seed"]): str(row[column]) for row in rows.to_dict("records")}
    if len(texts) != len(rows):
        raise ValueError(f"expected one row per seed, got {len(rows)} of {len(texts)} seeds")
    numbers = [unpacked(texts.get(seed, "")) for seed in seeds]
    found = np.full((len(seeds), max(map(len, numbers))), np.nan)
    for row, values in zip(found, numbers, strict=True):
        row[: len(values)] = values
    return found


def resampled_means(
    columns: FloatArray, generator: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[FloatArray, FloatArray]:
    """Returns the means [C] of columns [C, S, N], and those of each resample, [C, R].

    A resample takes the same seeds and prompts from all columns. NaN are left out; a mean of
    nothing is NaN.

    Source: Davison and Hinkley 1997, section 3.8 (nested resampling).
    """
    known = np.isfinite(columns)
    both = np.concatenate([np.where(known, columns, 0), known])
    sums = resampled_sums(both, generator, resamples)
    here = both.sum(axis=(1, 2))
    return _quotient(*np.split(here, 2)), _quotient(*np.split(sums, 2))


def mean_interval(values: FloatArray) -> Interval:
    """Returns the mean of [S, N] with its 95% interval; NaN are left out.

    One seed for all: whatever is compared is resampled alike.
    """
    return bootstrap_mean(values, np.random.default_rng(0), RESAMPLES)


def _quotient(total: FloatArray, count: FloatArray) -> FloatArray:
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def bounds(resampled: FloatArray, level: float = 0.95) -> tuple[float, float]:
    """Returns the percentile interval of resamples [R]; NaN are left out, of nothing it is NaN."""
    known = resampled[np.isfinite(resampled)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def interval_of(estimate: float, resampled: FloatArray) -> Interval:
    """Returns an estimate with the 95% interval of its resamples [R]."""
    return Interval(float(estimate), *bounds(resampled))


def signed(interval: Interval) -> str:
    """Returns a change as text.

    >>> signed(Interval(0.125, -0.1, 0.35))
    '+0.12 (-0.10 to +0.35)'
    """
    return f"{interval.estimate:+.2f} ({interval.low:+.2f} to {interval.high:+.2f})"


def half_width(resampled: FloatArray) -> float:
    """Returns half of the 95% interval of resamples [R]."""
    low, high = bounds(resampled)
    return (high - low) / 2
