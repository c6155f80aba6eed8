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


def softly_chosen(
    probabilities: list[float], rewards: list[float], n: int, temperature: float
) -> list[float]:
    """The chance of each outcome to be chosen by softmax over all n-tuples."""
    chosen = [0.0] * len(rewards)
    for draws in itertools.product(range(len(rewards)), repeat=n):
        best = max(rewards[i] for i in draws)
        weights = [math.exp((rewards[i] - best) / temperature) for i in draws]
        for i, weight in zip(draws, weights, strict=True):
            chosen[i] += math.prod(probabilities[j] for j in draws) * weight / sum(weights)
    return chosen


@pytest.mark.parametrize("temperature", [0.01, 0.3, 2.0, 100.0])
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize(("p", "r"), [(P, R), ([0.0, 0.5, 0.4999, 1e-4], [1, 2, -3, 9])], ids=str)
def test_soft_best_of_n_is_that_of_every_draw(
    p: list[float], r: list[float], n: int, temperature: float
) -> None:
    wanted = softly_chosen(p, r, n, temperature)
    found = functional.soft_best_of_n_distribution(p, r, n, temperature)
    assert found == pytest.approx(wanted, rel=1e-11, abs=0)
    kl = sum(q * math.log(q / p[i]) for i, q in enumerate(wanted) if q > 0)
    assert functional.soft_best_of_n_kl(p, r, n, temperature) == pytest.approx(kl, abs=1e-12)
    assert kl <= functional.best_of_n_kl_bound(n) + 1e-12


def test_soft_best_of_n_between_its_limits() -> None:
    reward = np.random.default_rng(0).random(50)
    p = np.full(50, 0.02)
    soft = functional.soft_best_of_n_distribution
    for n in (3, 64):
        # Cold: best-of-n, ties shared; hot: the reference.
        for t in (1e-3, 1e-9):
            hard = functional.best_of_n_distribution(p, reward.round(1), n)
            assert soft(p, reward.round(1), n, t) == pytest.approx(hard, abs=1e-12)
        assert soft(p, reward, n, 1e6) == pytest.approx(p, abs=1e-7)
    # Many draws: the tilted optimum, nearer as 1 / n.
    tilted = p * np.exp(reward / 0.2) / (p * np.exp(reward / 0.2)).sum()
    gaps = [np.abs(soft(p, reward, n, 0.2) - tilted).max() for n in (10**3, 10**4, 10**6)]
    assert gaps[0] < 1e-3
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.05)
    assert gaps[2] < 1e-6
    # Only differences of rewards matter, in units of the temperature.
    shifted = soft(p, 7 * reward - 1000, 5, 1.4)
    assert shifted == pytest.approx(soft(p, reward, 5, 0.2), rel=1e-9)


@pytest.mark.parametrize(
    ("noise", "temperature"), [(0.02, 0.3), (0.5, 0.3), (3.0, 0.3), (1.0, 0.05)]
)
def test_noisy_soft_best_of_two_by_quadrature(noise: float, temperature: float) -> None:
    """Of y and z, y is chosen with probability sigmoid of a normal of variance 2 noise^2."""

    def chosen(y: int, z: int) -> float:
        gap, spread = R[y] - R[z], math.sqrt(2) * noise

        def at(x: float) -> float:
            sigmoid = 0.5 * (1 + math.tanh((gap + spread * x) / (2 * temperature)))
            return sigmoid * NormalDist().pdf(x)

        return quad(at, -9, 9, points=[-gap / spread] if gap < 9 * spread else None, limit=200)[0]

    wanted = [sum(2 * P[y] * P[z] * chosen(y, z) for z in range(4)) for y in range(4)]
    assert sum(wanted) == pytest.approx(1)
    found = functional.soft_best_of_n_distribution(P, R, 2, temperature, noise)
    assert found == pytest.approx(wanted, abs=1e-8)


def test_cold_and_noisy_is_best_of_n_under_noise() -> None:
    found = functional.soft_best_of_n_distribution(P, R, 8, 0.01, 0.5)
    assert found == pytest.approx(functional.noisy_best_of_n_distribution(P, R, 8, 0.5), abs=2e-4)


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=6), st.integers(1, 6))
def test_weights_are_the_winners_of_all_subsets(rewards: list[int], n: int) -> None:
    if n > len(rewards):
        with pytest.raises(ConfigError, match="between 1 and the"):
            functional.best_of_n_weights(rewards, n)
        return
    wanted = [0.0] * len(rewards)
    subsets = list(itertools.combinations(range(len(rewards)), n))
    for subset in subsets:
        best = [i for i in range(len(rewards)) if rewards[i] == max(rewards[j] for j in subset)]
        # Of equals any may stand for the winner: over all orders of drawing they share alike.
        for i in best:
            wanted[i] += 1 / len(best) / len(subsets)
    assert functional.best_of_n_weights(rewards, n) == pytest.approx(wanted)


def test_log_ratio_by_hand() -> None:
    # Against 1, 2, 2, 4: no better are (0, 1, 3, 4), worse (0, 0, 1, 3), of 4.
    found = functional.best_of_n_log_ratio([0, 1, 2, 4, 5], [4, 2, 1, 2], 3)
    cdf = np.array([0.5, 1.5, 3.5, 4.5, 4.5]) / 5
    below = np.array([0.5, 0.5, 1.5, 3.5, 4.5]) / 5
    assert found == pytest.approx(np.log(cdf**2 + cdf * below + below**2))
    assert functional.best_of_n_log_ratio([0, 9], [4, 2], 1) == pytest.approx([0, 0])
    with pytest.raises(ValueError, match="one row of reference rewards"):
        functional.best_of_n_log_ratio([1], [], 2)
    with pytest.raises(ConfigError, match="n must be >= 1"):
        functional.best_of_n_log_ratio([1], [1], 0)


@pytest.mark.parametrize("n", [2, 8])
def test_log_ratio_of_many_samples_is_that_of_the_distribution(n: int) -> None:
    known = np.repeat(R, [100_000, 200_000, 300_000, 400_000])
    wanted = np.log(functional.best_of_n_distribution(P, R, n) / P)
    assert functional.best_of_n_log_ratio(R, known, n) == pytest.approx(wanted, abs=1e-4)


def test_the_half_makes_the_log_of_the_rank_nearly_unbiased() -> None:
    """A reward beaten by none to all of 8 reference samples, F uniform: E[log F] by hand."""
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, 10))])
    posterior = harmonic[:9] - harmonic[9]  # E log F of Beta(k + 1, 9 - k)
    found = functional.best_of_n_log_ratio(np.arange(9) + 0.5, np.arange(1, 9), 2) - np.log(2)
    assert found == pytest.approx(posterior, abs=0.07)


def test_soft_best_of_n_refuses_what_it_cannot_do() -> None:
    for temperature in (0, -1, math.nan):
        with pytest.raises(ConfigError, match="temperature must be > 0"):
            functional.soft_best_of_n_distribution([1], [1], 2, temperature)
    with pytest.raises(ConfigError, match="noise must be >= 0, got -1"):
        functional.soft_best_of_n_distribution([1], [1], 2, 1.0, -1)
    with pytest.raises(ConfigError, match="n must be >= 1, got 0"):
        functional.soft_best_of_n_distribution([1], [1], 0, 1.0)
