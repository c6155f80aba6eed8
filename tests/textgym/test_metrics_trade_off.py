"""Curves read at a matched level, areas, and the over-optimization laws; by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from textgym.errors import ConfigError
from textgym.metrics.overoptimization import features, fit, peak
from textgym.metrics.trade_off import at_level, hypervolume


def test_a_curve_is_read_between_its_points():
    kl, loss = [0.0, 1.0, 3.0], [0.0, 0.2, 0.6]
    assert at_level(kl, loss, 0.5) == pytest.approx(0.1)
    assert at_level(kl, loss, 2.0) == pytest.approx(0.4)
    assert at_level(kl, loss, 3.0) == pytest.approx(0.6)
    assert at_level(kl, loss, 0.0) == 0.0


def test_nothing_is_extrapolated():
    assert np.isnan(at_level([0.0, 1.0], [0.0, 1.0], 1.0001))
    assert np.isnan(at_level([0.5, 1.0], [0.0, 1.0], 0.25)), "it began beyond the level"


def test_the_first_time_counts_where_a_curve_comes_back():
    assert at_level([0.0, 2.0, 0.5, 2.0], [0.0, 1.0, 5.0, 9.0], 1.0) == pytest.approx(0.5)


def test_each_resample_is_read_for_itself():
    kl = np.array([[0.0, 1.0], [0.0, 0.4], [0.0, 2.0]])
    loss = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    found = at_level(kl, loss, 0.5)
    assert found[[0, 2]].tolist() == [0.5, 0.25]
    assert np.isnan(found[1])


def test_a_point_that_is_not_known_reaches_no_level():
    curve = ([0.0, math.nan, 1.0], [0.0, math.nan, 0.3])
    assert at_level(*curve, 1.0) == pytest.approx(0.3)
    assert np.isnan(at_level(*curve, 0.9))


@pytest.mark.parametrize(("x", "y"), [([1.0], [1.0, 2.0]), ([], []), (1.0, 1.0)])
def test_curves_of_two_shapes_are_refused(x, y):
    with pytest.raises(ValueError, match="two curves of one shape"):
        at_level(x, y, 0.0)


def test_the_area_of_a_staircase():
    # 3x1 and 1x3 overlap in 1x1; (1, 1) lies inside both.
    assert hypervolume([3, 1, 1], [1, 3, 1]) == pytest.approx(5)
    assert hypervolume([1, 3], [3, 1]) == hypervolume([3, 1], [1, 3])


def test_points_that_do_not_exceed_the_corner_add_nothing():
    assert hypervolume([2, -5, 0.5], [2, 9, 9], corner=(1, 0)) == pytest.approx(2)
    assert hypervolume([math.nan, 2], [1, 1]) == pytest.approx(2)
    assert hypervolume([-1.0], [-1.0]) == 0, "two negative sides are no area"


def test_each_resample_has_its_own_corner():
    x, y = np.array([[2.0], [2.0]]), np.array([[3.0], [3.0]])
    assert hypervolume(x, y, np.array([[0, 0], [1, 0]])).tolist() == [6.0, 3.0]


def test_the_area_is_that_of_counted_squares():
    random = np.random.default_rng(0)
    x, y = random.integers(0, 12, size=(2, 7))
    squares = {(i, j) for a, b in zip(x, y, strict=True) for i in range(a) for j in range(b)}
    assert hypervolume(x, y) == len(squares)


@pytest.mark.parametrize(("law", "top"), [("best_of_n", 2 / (2 * 0.5)), ("rl", math.exp(3))])
def test_a_law_is_found_again_with_its_peak(law, top):
    d = np.array([0.0, 0.3, 0.9, 1.7, 2.5])
    first, second = features(d, law)
    found = fit(d, 2 * first + 0.5 * second, law)
    assert (found.a, found.b) == pytest.approx((2, 0.5))
    assert found.peak == pytest.approx(top)
    assert found.error == pytest.approx(0, abs=1e-12)
    assert found([0.0, 1.0]) == pytest.approx([0, 1.5 if law == "best_of_n" else 2])


def test_the_peak_is_where_the_curve_is_highest():
    for law in ("best_of_n", "rl"):
        d = np.linspace(1e-3, 5, 50001)
        first, second = features(d, law)
        assert peak(1.0, 0.8, law) == pytest.approx(d[np.argmax(first + 0.8 * second)], abs=1e-3)


def test_a_curve_that_does_not_bend_has_no_peak():
    assert peak(1.0, 0.0, "rl") == peak(1.0, -1.0, "best_of_n") == math.inf
    assert peak(-1.0, 1.0, "best_of_n") == 0
    assert np.isnan(peak(math.nan, 1.0, "rl"))


def test_least_squares_by_hand():
    # y = a d - b d^2 at d = 1, 1, 2 with y = 1, 3, 2: the two at 1 average to 2, and the parabola
    # through (1, 2) and (2, 2) is 3 d - d^2; residuals -1, 1, 0.
    found = fit([1, 1, 2], [1, 3, 2], "best_of_n")
    assert (found.a, found.b) == pytest.approx((3, 1))
    assert found.error == pytest.approx(math.sqrt(2 / 3))


def test_two_points_fit_anything_and_so_nothing():
    assert np.isnan(fit([0, 1, 2], [0, 1, 1], "rl").a), "the point at 0 says nothing"
    assert np.isnan(fit([1, 1, 1], [1, 2, 3], "rl").b), "one distance"
    assert np.isnan(fit([1, 2, math.nan], [1, 2, 3], "best_of_n").peak)


def test_curves_are_fitted_each_for_itself():
    d = np.array([[1.0, 2.0, 3.0], [0.5, 1.0, 2.0]])
    y = np.array([1.0, 2.0])[:, None] * d - np.array([0.1, 0.3])[:, None] * d**2
    found = fit(d, y, "best_of_n")
    assert found.a == pytest.approx([1, 2])
    assert found.b == pytest.approx([0.1, 0.3])


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ConfigError, match="law must be one of best_of_n, rl, got 'gold'"):
        features([1.0], "gold")
    with pytest.raises(ValueError, match="cannot be negative"):
        fit([-1.0, 1, 2], [1, 2, 3], "rl")
    with pytest.raises(ValueError, match="two curves of one shape"):
        fit([1, 2], [1, 2, 3], "rl")
