"""Best-of-n against the enumeration of every draw."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from textgym import functional
from textgym.errors import ConfigError


def winners(probabilities: list[float], rewards: list[float], n: int) -> dict[int, float]:
    """The chance of each outcome to win over all n-tuples, the first of equals winning."""
    best: dict[int, float] = defaultdict(float)
    for draws in itertools.product(range(len(rewards)), repeat=n):
        winner = max(draws, key=lambda i: rewards[i])
        best[winner] += math.prod(probabilities[i] for i in draws)
    return best


def enumerated(probabilities: list[float], rewards: list[float], n: int) -> tuple[float, float]:
    """KL and expected reward over all n-tuples of outcomes."""
    best = winners(probabilities, rewards, n)
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


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("rewards", [[1, 2, 3, 4], [2, 1, 2, 1], [0, 5, 5, -1]], ids=str)
@pytest.mark.parametrize("p", [[0.1, 0.2, 0.3, 0.4], [0.0, 0.5, 0.5, 0.0]], ids=str)
def test_distribution_is_that_of_every_draw(p: list[float], rewards: list[float], n: int) -> None:
    best = winners(p, rewards, n)
    found = functional.best_of_n_distribution(p, rewards, n)
    assert found == pytest.approx([best[i] for i in range(4)], abs=1e-15)


def test_distribution_keeps_a_rare_best_outcome() -> None:
    """Drawn n times, an outcome of mass e has a chance near n e, to all digits."""
    rare = functional.best_of_n_distribution([1 - 1e-14, 1e-14], [0, 1], 8)
    assert rare[1] == pytest.approx(8e-14, rel=1e-9, abs=0)
    assert rare.sum() == pytest.approx(1)
    many = functional.best_of_n_distribution([0.5, 0.5], [0, 1], 10**9)
    assert many.tolist() == [0, 1]
    assert functional.best_of_n_kl([0.2] * 5, [1] * 5, 10**6) == pytest.approx(0, abs=1e-9)


P, R = [0.1, 0.2, 0.3, 0.4], [1.0, 0.5, 0.5, 0.0]


@pytest.mark.parametrize("noise", [0.02, 0.5, 3.0])
def test_noisy_best_of_two_by_hand(noise: float) -> None:
    """Of y and z, y wins where a normal of variance 2 noise^2 is less than r(y) - r(z)."""

    def beats(y: int, z: int) -> float:
        return 0.5 * (1 + math.erf((R[y] - R[z]) / (2 * noise)))

    wanted = [sum(2 * P[y] * P[z] * beats(y, z) for z in range(4)) for y in range(4)]
    found = functional.noisy_best_of_n_distribution(P, R, 2, noise)
    assert found == pytest.approx(wanted, abs=1e-7)
    assert sum(wanted) == pytest.approx(1)


@pytest.mark.parametrize("noise", [0.1, 1.0])
@pytest.mark.parametrize("n", [1, 3, 16])
def test_noisy_best_of_n_is_what_drawing_gives(n: int, noise: float) -> None:
    random, groups = np.random.default_rng(0), 40_000
    draws = random.choice(4, size=(groups, n), p=P)
    seen = np.array(R)[draws] + noise * random.standard_normal(draws.shape)
    kept = draws[np.arange(groups), seen.argmax(axis=1)]
    found = functional.noisy_best_of_n_distribution(P, R, n, noise)
    error = np.sqrt(found * (1 - found) / groups)
    assert (np.abs(np.bincount(kept, minlength=4) / groups - found) <= 4 * error + 1e-9).all()


@pytest.mark.parametrize("noise", [0.05, 0.5, 5.0])
def test_quadrature_holds_for_many_draws(noise: float) -> None:
    """At n = 256 the density of the winner's score is integrated adaptively, outcome by outcome."""

    def wins(s: float, y: int) -> float:
        below = sum(p * NormalDist(r, noise).cdf(s) for p, r in zip(P, R, strict=True))
        return 256 * P[y] * NormalDist(R[y], noise).pdf(s) * below**255

    ends = (min(R) - 9 * noise, max(R) + 9 * noise)
    wanted = [quad(wins, *ends, args=(y,), limit=400, points=R[:2])[0] for y in range(4)]
    # Someone wins every time: there is nothing for the scaling to hide.
    assert sum(wanted) == pytest.approx(1)
    found = functional.noisy_best_of_n_distribution(P, R, 256, noise)
    assert found == pytest.approx(wanted, abs=1e-5)


def test_noise_that_vanishes_or_drowns_everything() -> None:
    for n in (2, 8, 64):
        # The first drawn among equals is a fair draw, and so is the luckiest.
        quiet = functional.noisy_best_of_n_distribution(P, R, n, 1e-4)
        assert quiet == pytest.approx(functional.best_of_n_distribution(P, R, n), abs=1e-6)
        assert functional.noisy_best_of_n_distribution(P, R, n, 1e6) == pytest.approx(P, abs=1e-4)
        equal = functional.noisy_best_of_n_distribution(P, [3.0] * 4, n, 0.5)
        assert equal == pytest.approx(P)
    assert functional.noisy_best_of_n_distribution(P, R, 1, 0.5) == pytest.approx(P)


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
    with pytest.raises(ConfigError, match="n must be >= 1, got -1"):
        functional.best_of_n_distribution([1], [1], -1)
    with pytest.raises(ValueError, match="must be >= 0"):
        functional.best_of_n_distribution([2, -1], [1, 2], 2)
    for noise in (0, -1, math.nan):
        with pytest.raises(ConfigError, match="noise must be > 0"):
            functional.noisy_best_of_n_distribution([1], [1], 2, noise)
    with pytest.raises(ConfigError, match="n must be >= 1, got 0"):
        functional.noisy_best_of_n_distribution([1], [1], 0, 0.5)
    with pytest.raises(ValueError, match="one row"):
        functional.best_of_n_kl_estimate([], 2)
