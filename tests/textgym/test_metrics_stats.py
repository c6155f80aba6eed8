"""Bootstraps against the distributions they should have, and ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from textgym.errors import ConfigError
from textgym.metrics import stats
from textgym.metrics.stats import Interval


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_one_seed_gives_the_normal_interval() -> None:
    values = rng(1).normal(5, 2, size=400)
    interval = stats.bootstrap_mean(values, rng(), resamples=8000)
    error = values.std() / math.sqrt(400)
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)
    half = stats.bootstrap_mean(values, rng(), resamples=8000, level=0.5)
    assert half.high - half.low == pytest.approx(2 * 0.674 * error, rel=0.1)


def test_prompts_are_nested_in_seeds() -> None:
    """All variance between two seeds: means 0, 1/2, 1 with chances 1/4, 1/2, 1/4."""
    values = np.stack([np.zeros(1000), np.ones(1000)])
    assert stats.bootstrap_mean(values, rng()) == Interval(0.5, 0, 1)
    middle = stats.bootstrap_mean(values, rng(), resamples=4000, level=0.4)
    assert (middle.low, middle.high) == (0.5, 0.5)


def test_variances_of_seeds_and_prompts_add() -> None:
    """A resampled mean has variance var_seeds / S + var_prompts / (S N)."""
    values = rng(2).normal(size=(6, 1)) + rng(3).normal(0, 4, size=(6, 30))
    interval = stats.bootstrap_mean(values, rng(), resamples=10_000)
    variance = values.mean(axis=1).var() / 6 + values.var(axis=1).mean() / 180
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.05)


def test_intervals_cover_the_truth() -> None:
    covered = 0
    for trial in range(300):
        draws = rng(trial)
        values = draws.normal(size=(10, 1)) + draws.normal(size=(10, 20))
        interval = stats.bootstrap_mean(values, draws, resamples=400)
        covered += interval.low <= 0 <= interval.high
    # Percentile intervals of ten seeds are a little narrow.
    assert 0.87 < covered / 300 < 0.98


def test_generator_decides_and_nan_prompts_are_left_out() -> None:
    values = rng(1).normal(size=(3, 20))
    assert stats.bootstrap_mean(values, rng(7)) == stats.bootstrap_mean(values, rng(7))
    assert stats.bootstrap_mean(values, rng(7)) != stats.bootstrap_mean(values, rng(8))
    assert stats.bootstrap_mean([1.0, np.nan, 3.0], rng()).estimate == 2
    assert stats.bootstrap_mean([4.0, np.nan, 4.0], rng()) == Interval(4, 4, 4)
    with pytest.raises(ValueError, match="no finite value"):
        stats.bootstrap_mean([np.nan], rng())


def test_diversity_loss_is_paired() -> None:
    reference = rng(1).uniform(0.1, 1, size=(3, 50))
    # Half of it on every prompt: a loss of one half without any doubt.
    exact = stats.diversity_loss(reference / 2, reference, rng())
    assert (exact.estimate, exact.low, exact.high) == pytest.approx((0.5, 0.5, 0.5))
    shuffled = stats.diversity_loss(reference[:, ::-1] / 2, reference, rng())
    assert shuffled.estimate == pytest.approx(0.5)
    assert shuffled.high - shuffled.low > 0.05


def test_diversity_loss_by_hand() -> None:
    # Ratio of means, not mean of ratios: 1 - (1 + 2) / (4 + 2).
    assert stats.diversity_loss([1.0, 2.0], [4.0, 2.0], rng()).estimate == 0.5
    # A reference that all seeds share, and a prompt unknown on one side.
    agent = [[1.0, 2.0, 9.0], [3.0, 0.0, np.nan]]
    assert stats.diversity_loss(agent, [4.0, 2.0, np.nan], rng()).estimate == 0.5
    assert stats.diversity_loss([6.0], [4.0], rng()) == Interval(-0.5, -0.5, -0.5)
    with pytest.raises(ValueError, match="do not pair"):
        stats.diversity_loss([1.0, 2.0], [1.0], rng())
    with pytest.raises(ValueError, match="must be > 0"):
        stats.diversity_loss([1.0], [0.0], rng())


def test_ratio_by_hand() -> None:
    # (1 + 2 + 3) / (4 + 2 - 2), not the mean of the ratios; NaN on either side drops the pair.
    agent, frontier = (
        [[1.0, 2.0, 9.0], [3.0, np.nan, 7.0]],
        [[4.0, 2.0, np.nan], [-2.0, 5.0, np.nan]],
    )
    assert stats.bootstrap_ratio(agent, frontier, rng()).estimate == 1.5
    assert stats.bootstrap_ratio([[1.0, 2.0], [3.0, 6.0]], [4.0, 2.0], rng()).estimate == 1
    assert stats.bootstrap_ratio([-6.0], [4.0], rng()) == Interval(-1.5, -1.5, -1.5)
    with pytest.raises(
        ValueError, match=r"numerator \[1, 2\] and denominator \[1, 1\] do not pair"
    ):
        stats.bootstrap_ratio([1.0, 2.0], [1.0], rng())
    with pytest.raises(ValueError, match="sum to 0"):
        stats.bootstrap_ratio([1.0, 5.0], [2.0, -2.0], rng())
    with pytest.raises(ConfigError, match="resamples"):
        stats.bootstrap_ratio([1.0], [1.0], rng(), resamples=0)


def test_ratio_is_paired_and_nested() -> None:
    below = rng(1).uniform(0.1, 1, size=(3, 50))
    exact = stats.bootstrap_ratio(below / 2, below, rng())
    assert (exact.estimate, exact.low, exact.high) == pytest.approx((0.5, 0.5, 0.5))
    # To first order the error is that of the residuals over the mean denominator.
    above = 0.8 * below[0] + rng(2).normal(0, 0.2, size=50)
    found = stats.bootstrap_ratio(above, below[0], rng(), resamples=8000)
    residuals = above - found.estimate * below[0]
    error = residuals.std() / math.sqrt(50) / below[0].mean()
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    # All variance between two seeds: ratios 0, 1/2, 1 with chances 1/4, 1/2, 1/4.
    seeds = np.stack([np.zeros(100), np.ones(100)])
    assert stats.bootstrap_ratio(seeds, np.ones((1, 100)), rng()) == Interval(0.5, 0, 1)


def test_diversity_loss_is_one_minus_the_ratio() -> None:
    reference = rng(1).uniform(0.1, 1, size=(3, 50))
    agent = reference * rng(2).uniform(0.2, 1, size=(3, 50))
    loss = stats.diversity_loss(agent, reference, rng())
    ratio = stats.bootstrap_ratio(agent, reference, rng())
    assert (1 - loss.estimate, 1 - loss.high, 1 - loss.low) == pytest.approx(
        (ratio.estimate, ratio.low, ratio.high)
    )


def test_interquartile_mean_by_hand() -> None:
    scores = np.array([[1, 100, 3, 4], [-50, 6, 5, 2]])
    # Sorted -50 1 2 3 4 5 6 100: the middle four.
    assert stats.interquartile_mean(scores) == 3.5
    assert stats.interquartile_mean(np.stack([scores, scores + 1])).tolist() == [3.5, 4.5]


def test_stratified_bootstrap_resamples_within_tasks() -> None:
    # Tasks differ, seeds do not: nothing to be unsure of.
    assert stats.stratified_bootstrap([[1, 9], [1, 9]], rng(), resamples=50) == Interval(5, 5, 5)
    wide = stats.stratified_bootstrap(
        [[0, 5], [1, 5]], rng(), lambda x: x.mean(axis=(-2, -1)), resamples=500
    )
    # Task one averages 0, 1/2 or 1, task two always 5.
    assert wide == Interval(2.75, 2.5, 3.0)


def test_probability_of_improvement_by_hand() -> None:
    # Task one: 3 > 1, 3 > 2, 2 > 1, 2 = 2: 3.5 / 4. Task two: all equal: 1/2.
    x, y = [[3, 0], [2, 0]], [[1, 0], [2, 0]]
    interval = stats.probability_of_improvement(x, y, rng(), resamples=500)
    assert interval.estimate == pytest.approx((3.5 / 4 + 0.5) / 2)
    # Resampled, task one gives 1/2 at worst and 1 at best.
    assert (interval.low, interval.high) == (0.5, 0.75)
    unlike = stats.probability_of_improvement([[1.0], [2.0], [3.0]], [[0.0]], rng())
    assert unlike == Interval(1, 1, 1)
    with pytest.raises(ValueError, match="x has 1 tasks and y has 2"):
        stats.probability_of_improvement([[1.0]], [[1.0, 2.0]], rng())


def test_overlapping_rows_share_a_rank() -> None:
    rows = [Interval(5, 4, 6), Interval(9, 8, 10), Interval(3, 2, 4), Interval(0, -1, 1)]
    assert stats.shared_ranks(rows) == [2, 1, 2, 4]
    assert stats.shared_ranks(rows, higher_is_better=False) == [2, 4, 2, 1]
    # The outer two lie apart; the middle one cannot be told from either.
    chain = [Interval(1, 0, 2), Interval(3, 1.5, 4.5), Interval(5, 4, 6)]
    assert stats.shared_ranks(chain) == [2, 1, 1]
    # A wide row does not pull the others onto its rank.
    inside = [Interval(5, 0, 10), Interval(9, 8.5, 9.5), Interval(1, 0.5, 1.5)]
    assert stats.shared_ranks(inside) == [1, 1, 2]
    assert stats.shared_ranks([]) == []
    with pytest.raises(ValueError, match="finite"):
        stats.shared_ranks([Interval(1, float("nan"), 2)])


def test_overlap() -> None:
    assert Interval(1, 0, 2).overlaps(Interval(3, 2, 4))
    assert not Interval(1, 0, 2).overlaps(Interval(3, 2.1, 4))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="resamples must be >= 1"):
        stats.bootstrap_mean([1.0], rng(), resamples=0)
    with pytest.raises(ConfigError, match=r"level must be in \(0, 1\), got 95"):
        stats.diversity_loss([1.0], [1.0], rng(), level=95)
    with pytest.raises(ValueError, match=r"values of shape \[S, N\]"):
        stats.bootstrap_mean(np.zeros((2, 2, 2)), rng())
