"""Best-of-n against the enumeration of every draw."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgym import functional
from textgym.errors import ConfigError


def enumerated(probabilities: list[float], rewards: list[float], n: int) -> tuple[float, float]:
    """KL and expected reward over all n-tuples of outcomes, the first of equals winning."""
    best: dict[int, float] = defaultdict(float)
    for draws in itertools.product(range(len(rewards)), repeat=n):
        winner = max(draws, key=lambda i: rewards[i])
        best[winner] += math.prod(probabilities[i] for i in draws)
    kl = sum(q * math.log(q / probabilities[i]) for i, q in best.items() if q > 0)
    return kl, sum(q * rewards[i] for i, q in best.items())


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize(
    "rewards", [[1, 2, 3, 4], [1, 1, 2, 2], [3, 3, 3, 3], [0, 5, 5, -1]], ids=str
)
def test_exact_kl_is_that_of_every_draw(rewards: list[float], n: int) -> None:
    p = [0.1, 0.2, 0.3, 0.4]
    assert functional.best_of_n_kl(p, rewards, n) == pytest.approx(
        enumerated(p, rewards, n)[0], abs=1e-12
    )
    assert functional.best_of_n_kl(p, rewards, n) <= functional.best_of_n_kl_bound(n) + 1e-12


def test_four_equal_outcomes() -> None:
    """The bound says 3.17 nats where 1.386 is all there is to spend."""
    assert functional.best_of_n_kl([0.25] * 4, [1, 2, 3, 4], 64) == pytest.approx(
        math.log(4), abs=1e-6
    )
    assert functional.best_of_n_kl_bound(64) == pytest.approx(3.1745, abs=1e-4)
    assert functional.best_of_n_kl_bound(1) == 0


def test_estimate() -> None:
    # Two equal halves: the better half has mass 1 - 2^-n.
    q = 1 - 0.5**3
    wanted = q * math.log(q / 0.5) + (1 - q) * math.log((1 - q) / 0.5)
    assert functional.best_of_n_kl_estimate([0, 1, 0, 1, 1, 0], 3) == pytest.approx(wanted)
    assert functional.best_of_n_kl_estimate([2.0, 2.0, 2.0], 8) == 0
    # Many distinct rewards come near the bound, which is exact without ties.
    many = functional.best_of_n_kl_estimate(np.arange(20_000), 4)
    assert many == pytest.approx(functional.best_of_n_kl_bound(4), abs=1e-3)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=7), st.integers(1, 7))
def test_expected_best_is_the_mean_over_all_subsets(rewards: list[int], n: int) -> None:
    if n > len(rewards):
        with pytest.raises(ConfigError, match="between 1 and the"):
            functional.expected_best_of_n(rewards, n)
        return
    subsets = [max(s) for s in itertools.combinations(rewards, n)]
    assert functional.expected_best_of_n(rewards, n) == pytest.approx(np.mean(subsets))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="n must be >= 1, got 0"):
        functional.best_of_n_kl_bound(0)
    with pytest.raises(ConfigError, match="n must be >= 1"):
        functional.best_of_n_kl_estimate([1.0], 0)
    with pytest.raises(ValueError, match="sum to 1, got the sum 2"):
        functional.best_of_n_kl([1, 1], [1, 2], 2)
    with pytest.raises(ValueError, match="one length"):
        functional.best_of_n_kl([1], [1, 2], 2)
    with pytest.raises(ValueError, match="one row"):
        functional.best_of_n_kl_estimate([], 2)
