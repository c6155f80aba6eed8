"""What best-of-n costs in KL and gains in reward; NumPy in, numbers out."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, ndtr, rel_entr

from textgym.errors import ConfigError


def check_n(n: int) -> None:
    """Raises ConfigError unless n draws can be made."""
    if n < 1:
        raise ConfigError(f"n must be >= 1, got {n}")


def best_of_n_kl_bound(n: int) -> float:
    """Returns `log n - (n - 1) / n`, nats per response: an upper bound on best-of-n's KL.

    It is the KL where no two outcomes tie, and far above it where the outcomes are few.

    Raises:
        ConfigError: n < 1.

    Source: Beirami et al. 2024, arXiv 2401.01879.

    >>> round(best_of_n_kl_bound(64), 3)
    3.175
    """
    check_n(n)
    return math.log(n) - (n - 1) / n


def best_of_n_distribution(
    probabilities: ArrayLike, rewards: ArrayLike, n: int
) -> NDArray[np.float64]:
    """Returns best-of-n's exact distribution over outcomes that can be enumerated.

    Best-of-n draws n outcomes and keeps the best, the first drawn among equals. Outcomes of equal
    reward form a class c of mass p_c; with F the CDF of the reward,
    `pi_n(c) = F(c)^n - F(c-)^n`, and within a class the proportions stay those of the reference.

    Args:
        probabilities: [L], one per outcome, summing to 1.
        rewards: [L].
        n: draws, >= 1.

    Returns:
        [L].

    Raises:
        ConfigError: n < 1.
        ValueError: lengths differ, or the probabilities are no distribution.

    Source: Beirami et al. 2024, arXiv 2401.01879, here with ties.

    >>> best_of_n_distribution([0.5, 0.25, 0.25], [0, 1, 1], n=2).tolist()
    [0.25, 0.375, 0.375]
    """
    check_n(n)
    p, r = check_outcomes(probabilities, rewards)
    classes = np.unique(r, return_inverse=True)[1]
    mass = np.bincount(classes, weights=p)
    cdf = np.cumsum(mass).clip(max=1.0)
    # F^n - F(c-)^n as F^n (1 - (1 - p_c / F)^n): the difference would lose a rare best class.
    # Rounding may leave the lowest class a hair above its own CDF.
    share = np.divide(mass, cdf, out=np.zeros_like(mass), where=mass > 0).clip(max=1.0)
    with np.errstate(divide="ignore"):
        mass_n = -(cdf**n) * np.expm1(n * np.log1p(-share))
    growth = np.divide(mass_n, mass, out=np.zeros_like(mass), where=mass > 0)
    return np.asarray(p * growth[classes])


def noisy_best_of_n_distribution(
    probabilities: ArrayLike, rewards: ArrayLike, n: int, noise: float
) -> NDArray[np.float64]:
    """Returns best-of-n's distribution when each draw's reward is blurred by normal noise.

    `pi_n(y) = n p(y) E_x[F(r(y) + noise x)^(n - 1)]` with x standard normal and
    `F(s) = sum_z p(z) Phi((s - r(z)) / noise)` the CDF of a blurred reward; no two draws tie. The
    expectation is taken by Gauss-Hermite quadrature.

    Args:
        probabilities: [L], one per outcome, summing to 1.
        rewards: [L].
        n: draws, >= 1.
        noise: standard deviation of the noise, in units of reward, > 0.

    Returns:
        [L].

    Raises:
        ConfigError: n < 1 or noise <= 0.
        ValueError: lengths differ, or the probabilities are no distribution.
    """
    check_n(n)
    if not noise > 0:
        raise ConfigError(f"noise must be > 0, got {noise}")
    p, r = check_outcomes(probabilities, rewards)
    x, weights = np.polynomial.hermite_e.hermegauss(100)
    seen = r[:, None] + noise * x
    cdf = np.tensordot(p, ndtr((seen - r[:, None, None]) / noise), axes=1)
    mass = n * p * (cdf ** (n - 1) @ (weights / weights.sum()))
    return np.asarray(mass / mass.sum())


def check_outcomes(
    probabilities: ArrayLike, rewards: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns probabilities [L], brought to sum to 1, and rewards [L]. Raises: ValueError."""
    p, r = np.asarray(probabilities, float), np.asarray(rewards, float)
    if p.shape != r.shape or p.ndim != 1:
        raise ValueError(f"expected two arrays of one length, got {p.shape} and {r.shape}")
    if not (np.all(p >= 0) and math.isclose(p.sum(), 1, rel_tol=1e-6)):
        raise ValueError(f"probabilities must be >= 0 and sum to 1, got the sum {p.sum():g}")
    return p / p.sum(), r


def best_of_n_kl(probabilities: ArrayLike, rewards: ArrayLike, n: int) -> float:
    """Returns the exact KL(best-of-n || reference) over outcomes that can be enumerated.

    Args:
        probabilities: [L], one per outcome, summing to 1.
        rewards: [L].
        n: draws, >= 1.

    Returns:
        Nats per response, the KL of `best_of_n_distribution`.

    Raises:
        ConfigError: n < 1.
        ValueError: lengths differ, or the probabilities are no distribution.

    Source: Beirami et al. 2024, arXiv 2401.01879, here with ties.

    >>> round(best_of_n_kl([0.25] * 4, [1, 2, 3, 4], n=64), 3)
    1.386
    """
    chosen = best_of_n_distribution(probabilities, rewards, n)
    reference = check_outcomes(probabilities, rewards)[0]
    return max(0.0, float(rel_entr(chosen, reference).sum()))


def best_of_n_kl_estimate(rewards: ArrayLike, n: int) -> float:
    """Returns `best_of_n_kl` with the reward's distribution taken from M samples of one prompt.

    It can see no more than `log M` nats, and should be trusted only for n well below M.

    Args:
        rewards: [M] of samples from the reference, one prompt.
        n: draws, >= 1.

    Returns:
        Nats per response.

    Raises:
        ConfigError: n < 1.
        ValueError: no rewards.
    """
    r = np.asarray(rewards, float)
    if r.ndim != 1 or not r.size:
        raise ValueError(f"expected one row of rewards, got shape {r.shape}")
    return best_of_n_kl(np.full(r.size, 1 / r.size), r, n)


def expected_best_of_n(rewards: ArrayLike, n: int) -> float:
    """Returns the unbiased estimate of best-of-n's expected reward from M samples of one prompt.

    `sum_i C(i - 1, n - 1) / C(M, n) r_(i)` over the sorted rewards: the mean of the maximum over
    all subsets of n.

    Args:
        rewards: [M] of samples from the reference.
        n: draws, 1 <= n <= M.

    Raises:
        ConfigError: n outside 1..M.

    Source: Nakano et al. 2021, arXiv 2112.09332, appendix I.

    >>> round(expected_best_of_n([1, 2, 3], n=2), 3)
    2.667
    """
    r = np.asarray(rewards, float)
    return float(best_of_n_weights(r, n) @ r)


def best_of_n_weights(rewards: ArrayLike, n: int) -> NDArray[np.float64]:
    """Returns each sample's chance to be the best of n drawn from the M without replacement.

    `C(i - 1, n - 1) / C(M, n)` for the i-th from below: the mean of best-of-n's choice over all
    subsets of n, so that a weighted mean over samples of the reference is an unbiased mean over
    best-of-n with less noise than one subset's choice. Samples of equal reward share alike.

    Args:
        rewards: [M] of samples from the reference, one prompt.
        n: draws, 1 <= n <= M.

    Returns:
        [M], summing to 1.

    Raises:
        ConfigError: n outside 1..M.

    Source: as `expected_best_of_n`; for distillation Gui et al. 2024, arXiv 2406.00832.

    >>> best_of_n_weights([5.0, 0.0, 5.0], n=2).tolist()
    [0.5, 0.0, 0.5]
    """
    r = np.asarray(rewards, float)
    if not 1 <= n <= r.size:
        raise ConfigError(f"n must be between 1 and the {r.size} samples, got {n}")
    # C(i-1, n-1) / C(M, n) for i = M is n / M; each step down multiplies by (i - n) / (i - 1).
    i = np.arange(r.size, 1, -1)
    falling = n / r.size * np.concatenate([[1.0], np.cumprod((i - n) / (i - 1))])
    # Past i = n a factor is 0, so the product stays 0.
    classes = np.unique(r, return_inverse=True)[1]
    shared = np.bincount(classes, weights=falling[np.argsort(np.argsort(-r, kind="stable"))])
    return np.asarray((shared / np.bincount(classes))[classes])


def best_of_n_log_ratio(
    rewards: ArrayLike, reference_rewards: ArrayLike, n: int
) -> NDArray[np.float64]:
    """Returns estimates of `log pi_n(y) - log pi_ref(y)` from rewards alone, nats.

    `log sum_{i=1}^{n} F^{n-i} F_-^{i-1}`, F the reference's probability of a reward no better than
    y's and F_- of a worse one; where nothing ties it is `log n + (n - 1) log F`. Both come from m
    samples of the reference, `F = (#{r_j <= r} + 1/2) / (m + 1)` and likewise F_-, so that they
    stay above 0 by 1 / (2 m + 2). The half makes `log F` nearly the posterior mean of log F where
    F is uniform a priori, `digamma(# + 1) - digamma(m + 2)`.

    Args:
        rewards: [K] of responses to one prompt, by whatever policy.
        reference_rewards: [m] of samples from the reference, same prompt.
        n: draws, >= 1.

    Returns:
        [K].

    Raises:
        ConfigError: n < 1.
        ValueError: no reference rewards.

    Source: Sessa et al. 2024, arXiv 2407.14622, theorem 1; Amini et al. 2024, arXiv 2407.06057.
    """
    check_n(n)
    known = np.sort(np.asarray(reference_rewards, float))
    if known.ndim != 1 or not known.size:
        raise ValueError(f"expected one row of reference rewards, got shape {known.shape}")
    r = np.asarray(rewards, float)
    log_cdf, log_below = (
        np.log((np.searchsorted(known, r, side=side) + 0.5) / (known.size + 1))
        for side in ("right", "left")
    )
    i = np.arange(n)[:, None]
    return np.asarray(logsumexp((n - 1 - i) * log_cdf + i * log_below, axis=0))
