"""Intervals: bootstraps over prompts nested in seeds, and the statistics of few runs.

Every bootstrap takes its NumPy generator and gives percentile intervals. Arrays of prompts are
[S, N], S seeds by N prompts; score matrices are [S, M], S seeds by M tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import trim_mean

from textgym.errors import ConfigError
from textgym.metrics.sets import FloatArray


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval around it, in one unit."""

    estimate: float
    low: float
    high: float

    def overlaps(self, other: Interval) -> bool:
        """Returns whether the two intervals share a point."""
        return self.low <= other.high and other.low <= self.high


def interval(estimate: float, resampled: FloatArray, level: float = 0.95) -> Interval:
    """Returns the percentile interval of resamples [R] around an estimate; NaNs are left out."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(resampled, [tail, 1 - tail])
    return Interval(float(estimate), float(low), float(high))


def _check(resamples: int, level: float) -> None:
    if resamples < 1:
        raise ConfigError(f"resamples must be >= 1, got {resamples}")
    if not 0 < level < 1:
        raise ConfigError(f"the level must be in (0, 1), got {level}")


def _seeds_by_prompts(values: ArrayLike, name: str) -> FloatArray:
    array = np.atleast_2d(np.asarray(values, float))
    if array.ndim != 2 or not array.size:
        raise ValueError(f"expected {name} of shape [S, N], got {list(array.shape)}")
    return array


def resampled_sums(
    columns: FloatArray, generator: np.random.Generator, resamples: int
) -> FloatArray:
    """Returns [A, R], sums over R nested resamples of A columns [A, S, N] resampled together.

    Each resample draws S seeds and, for each drawn, N of that seed's prompts, with replacement.
    """
    _, seeds, prompts = columns.shape
    sums = np.zeros((len(columns), resamples))
    for _ in range(seeds):
        seed = generator.integers(seeds, size=(resamples, 1))
        prompt = generator.integers(prompts, size=(resamples, prompts))
        for total, column in zip(sums, columns, strict=True):
            total += column[seed, prompt].sum(axis=1)
    return sums


def bootstrap_mean(
    values: ArrayLike,
    generator: np.random.Generator,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Returns the mean with a bootstrap interval over prompts nested in seeds.

    Args:
        values: [S, N], or [N] of one seed; NaN prompts are left out.
        generator: the only source of randomness.
        resamples: bootstrap resamples.
        level: of the interval.

    Raises:
        ConfigError: resamples < 1 or a level outside (0, 1).
        ValueError: another shape, or nothing but NaN.

    Source: Davison and Hinkley 1997, section 3.8 (nested resampling).
    """
    _check(resamples, level)
    x = _seeds_by_prompts(values, "values")
    known = np.isfinite(x)
    if not known.any():
        raise ValueError("no finite value to average")
    total, count = resampled_sums(np.stack([np.where(known, x, 0), known]), generator, resamples)
    return interval(x[known].mean(), _ratio(total, count), level)


def diversity_loss(
    agent: ArrayLike,
    reference: ArrayLike,
    generator: np.random.Generator,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Returns `1 - D(agent) / D(reference)` with a paired bootstrap over prompts nested in seeds.

    D is the mean over prompts. A resample takes the same seeds and prompts from both, so that
    what makes a prompt hard or easy to vary cancels. 0 is no loss, 1 total collapse; negative
    where the agent is the more diverse.

    Args:
        agent: [S, N] diversity per seed and prompt, or [N] of one seed.
        reference: the same prompts; [S, N], or [N] or [1, N] where all seeds share it.
        generator: the only source of randomness.
        resamples: bootstrap resamples.
        level: of the interval.

    Prompts that are NaN on either side are left out of both.

    Raises:
        ConfigError: resamples < 1 or a level outside (0, 1).
        ValueError: shapes that do not match, or a reference whose diversity is 0.

    Source: Kirk et al. 2023, arXiv 2310.06452, compares the same D between policies.
    """
    _check(resamples, level)
    a, r = _paired(agent, reference, "agent", "reference")
    if not r.sum() > 0:
        raise ValueError("the reference's diversity must be > 0 to measure a loss against")
    kept, resampled = _bootstrapped_ratio(a, r, generator, resamples)
    return interval(1 - kept, 1 - resampled, level)


def bootstrap_ratio(
    numerator: ArrayLike,
    denominator: ArrayLike,
    generator: np.random.Generator,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Returns `sum(numerator) / sum(denominator)` with a paired bootstrap, prompts in seeds.

    A ratio of means, never the mean of ratios. A resample takes the same seeds and prompts from
    both. The interval means little where resampled denominators come near 0.

    Args:
        numerator: [S, N], or [N] of one seed.
        denominator: the same prompts; [S, N], or [N] or [1, N] where all seeds share it.
        generator: the only source of randomness.
        resamples: bootstrap resamples.
        level: of the interval.

    Prompts that are NaN on either side are left out of both.

    Raises:
        ConfigError: resamples < 1 or a level outside (0, 1).
        ValueError: shapes that do not match, or denominators that sum to 0.

    Source: Davison and Hinkley 1997, section 3.8 (nested resampling).

    >>> bootstrap_ratio([1.0, 2.0], [2.0, 4.0], np.random.default_rng(0))
    Interval(estimate=0.5, low=0.5, high=0.5)
    """
    _check(resamples, level)
    a, b = _paired(numerator, denominator, "numerator", "denominator")
    if b.sum() == 0:
        raise ValueError("the denominators sum to 0")
    return interval(*_bootstrapped_ratio(a, b, generator, resamples), level)


def _bootstrapped_ratio(
    a: FloatArray, b: FloatArray, generator: np.random.Generator, resamples: int
) -> tuple[float, FloatArray]:
    """Returns `sum(a) / sum(b)` of paired [S, N], and the same of each resample, [R]."""
    sums_a, sums_b = resampled_sums(np.stack([a, b]), generator, resamples)
    return float(a.sum() / b.sum()), _ratio(sums_a, sums_b)


def _paired(a: ArrayLike, b: ArrayLike, name_a: str, name_b: str) -> tuple[FloatArray, FloatArray]:
    """Returns both as [S, N], 0 in both where either is not finite."""
    x, y = _seeds_by_prompts(a, name_a), _seeds_by_prompts(b, name_b)
    if y.shape not in {x.shape, (1, x.shape[1])}:
        raise ValueError(f"{name_a} {list(x.shape)} and {name_b} {list(y.shape)} do not pair")
    known = np.isfinite(x) & np.isfinite(y)
    return np.where(known, x, 0), np.where(known, y, 0)


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Returns the quotient, NaN where a resample drew only prompts that were left out."""
    return np.divide(
        numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator != 0
    )


def interquartile_mean(scores: ArrayLike) -> FloatArray:
    """Returns the mean of the middle half of each score matrix, all seeds and tasks together.

    A quarter of the S * M scores, rounded down, is dropped at either end.

    Args:
        scores: [..., S, M].

    Returns:
        [...].

    Source: Agarwal et al. 2021, arXiv 2108.13264, section 4.3.
    """
    x = np.asarray(scores, float)
    return np.asarray(trim_mean(x.reshape(*x.shape[:-2], -1), 0.25, axis=-1))


def _stratified(scores: FloatArray, generator: np.random.Generator, resamples: int) -> FloatArray:
    """Returns [R, S, M]: within each task, S seeds drawn with replacement."""
    picked = generator.integers(len(scores), size=(resamples, *scores.shape))
    return np.take_along_axis(scores[None], picked, axis=1)


def stratified_bootstrap(
    scores: ArrayLike,
    generator: np.random.Generator,
    statistic: Callable[[FloatArray], FloatArray] = interquartile_mean,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Returns a statistic of a score matrix with an interval, seeds resampled within each task.

    Args:
        scores: [S, M].
        generator: the only source of randomness.
        statistic: maps [..., S, M] to [...].
        resamples: bootstrap resamples.
        level: of the interval.

    Raises:
        ConfigError: resamples < 1 or a level outside (0, 1).
        ValueError: another shape.

    Source: Agarwal et al. 2021, arXiv 2108.13264, section 4.1.
    """
    _check(resamples, level)
    x = _seeds_by_prompts(scores, "scores")
    return interval(float(statistic(x)), statistic(_stratified(x, generator, resamples)), level)


def _improvement(x: FloatArray, y: FloatArray) -> FloatArray:
    """Returns [...] from [..., S, M] and [..., S', M]."""
    difference = x[..., :, None, :] - y[..., None, :, :]
    return np.asarray(((np.sign(difference) + 1) / 2).mean(axis=(-3, -2, -1)))


def probability_of_improvement(
    x: ArrayLike,
    y: ArrayLike,
    generator: np.random.Generator,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Returns the probability that a run of x scores above a run of y, ties one half.

    `mean over tasks of mean over pairs of runs of [x > y] + [x = y] / 2`, with a stratified
    bootstrap interval; in [0, 1].

    Args:
        x: [S, M].
        y: [S', M], the same tasks.
        generator: the only source of randomness.
        resamples: bootstrap resamples.
        level: of the interval.

    Raises:
        ConfigError: resamples < 1 or a level outside (0, 1).
        ValueError: other shapes, or different numbers of tasks.

    Source: Agarwal et al. 2021, arXiv 2108.13264, section 4.3 (Mann-Whitney U).
    """
    _check(resamples, level)
    a, b = _seeds_by_prompts(x, "x"), _seeds_by_prompts(y, "y")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"x has {a.shape[1]} tasks and y has {b.shape[1]}")
    resampled = _improvement(
        _stratified(a, generator, resamples), _stratified(b, generator, resamples)
    )
    return interval(float(_improvement(a, b)), resampled, level)


def shared_ranks(intervals: Sequence[Interval], higher_is_better: bool = True) -> list[int]:
    """Returns each row's rank: 1 + the rows whose interval lies wholly on its better side.

    Rows that nothing tells apart share a rank. (Joining every chain of overlaps into one rank, the
    other reading, lets a single wide interval put the best row and the worst on one rank.)

    Raises:
        ValueError: an interval that is not finite.

    >>> shared_ranks([Interval(1, 0, 2), Interval(5, 4, 6), Interval(2, 1.5, 3)])
    [2, 1, 2]
    """
    if not all(np.isfinite([i.low, i.high]).all() for i in intervals):
        raise ValueError("rows without a finite interval cannot be ranked")
    sign = 1 if higher_is_better else -1
    ends = [sorted((sign * i.low, sign * i.high)) for i in intervals]
    return [1 + sum(other[0] > own[1] for other in ends) for own in ends]
