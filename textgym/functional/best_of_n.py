"""What best-of-n costs in KL and gains in reward; NumPy in, numbers out."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, rel_entr

from textgym.errors import ConfigError


def _check_n(n: int) -> None:
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
    _check_n(n)
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
    _check_n(n)
    p, r = _outcomes(probabilities, rewards)
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
    _check_n(n)
    if not noise > 0:
        raise ConfigError(f"noise must be > 0, got {noise}")
    p, r = _outcomes(probabilities, rewards)
    x, weights = np.polynomial.hermite_e.hermegauss(100)
    seen = r[:, None] + noise * x
    cdf = np.tensordot(p, ndtr((seen - r[:, None, None]) / noise), axes=1)
    mass = n * p * (cdf ** (n - 1) @ (weights / weights.sum()))
    return np.asarray(mass / mass.sum())


def _outcomes(
    probabilities: ArrayLike, rewards: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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
    reference = _outcomes(probabilities, rewards)[0]
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
    r = np.sort(np.asarray(rewards, float))
    if not 1 <= n <= r.size:
        raise ConfigError(f"n must be between 1 and the {r.size} samples, got {n}")
    # C(i-1, n-1) / C(M, n) for i = M is n / M; each step down multiplies by (i - n) / (i - 1).
    i = np.arange(r.size, 1, -1)
    weights = n / r.size * np.concatenate([[1.0], np.cumprod((i - n) / (i - 1))])
    # Past i = n a factor is 0, so the product stays 0.
    return float(weights[::-1] @ r)
