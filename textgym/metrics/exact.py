"""Reward, KL and entropy over outcomes that can be enumerated, and the best trade between them.

Arrays are [..., L]: the last axis is the L outcomes of one prompt, the leading axes (mostly N
prompts) broadcast. Distributions are checked and brought to sum exactly to 1; probabilities of 0
are allowed, with 0 log 0 = 0. Rewards must be finite; where the reference has no mass they never
matter. Logarithms are natural: nats per response.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import entr, rel_entr

from textgym.errors import ConfigError
from textgym.metrics.sets import FloatArray


def _distribution(probabilities: ArrayLike, name: str) -> FloatArray:
    p = np.asarray(probabilities, float)
    if p.ndim < 1 or not p.size:
        raise ValueError(f"expected {name} of shape [..., L], got {list(p.shape)}")
    total = p.sum(axis=-1, keepdims=True)
    if not (np.all(p >= 0) and np.allclose(total, 1, rtol=1e-6, atol=0)):
        worst = total.flat[np.abs(total - 1).argmax()]
        raise ValueError(f"expected {name} >= 0 that sums to 1, got the sum {worst:g}")
    return np.asarray(p / total)


def _over_outcomes(array: ArrayLike, like: FloatArray, name: str) -> FloatArray:
    values = np.asarray(array, float)
    if values.ndim < 1 or values.shape[-1] != like.shape[-1]:
        raise ValueError(f"expected {like.shape[-1]} outcomes in {name}, got {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError(f"expected finite {name}")
    return values


def _check_beta(beta: float) -> None:
    if not beta >= 0:
        raise ConfigError(f"beta must be >= 0, got {beta:g}")


def expectation(p: ArrayLike, values: ArrayLike) -> FloatArray:
    """Returns [...], `sum_y p(y) values(y)`.

    Raises:
        ValueError: `p` is no distribution, or values that do not match it or are not finite.
    """
    weights = _distribution(p, "p")
    return np.asarray((weights * _over_outcomes(values, weights, "values")).sum(axis=-1))


def entropy(p: ArrayLike) -> FloatArray:
    """Returns [...], `-sum_y p(y) log p(y)`, nats. Raises: ValueError: no distribution.

    >>> entropy([[0.5, 0.5], [1, 0]]).round(3).tolist()
    [0.693, 0.0]
    """
    return np.asarray(entr(_distribution(p, "p")).sum(axis=-1))


def kl(p: ArrayLike, q: ArrayLike) -> FloatArray:
    """Returns [...], `KL(p || q) = sum_y p(y) log(p(y) / q(y))`, nats; inf where p > 0 = q.

    Raises:
        ValueError: either is no distribution, or their outcomes differ.
    """
    a, b = _distribution(p, "p"), _distribution(q, "q")
    # Rounding may leave the sum of equal distributions a hair below 0.
    return np.asarray(np.maximum(rel_entr(a, _over_outcomes(b, a, "q")).sum(axis=-1), 0))


def _gaps(reference: ArrayLike, rewards: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Returns the reference, how far each outcome is below the best that it has, and that best.

    All [..., L] but the last, [...]. Gaps are <= 0, and 0 where the reference has no mass.
    """
    ref = _distribution(reference, "the reference")
    ref, r = np.broadcast_arrays(ref, _over_outcomes(rewards, ref, "rewards"))
    best = np.where(ref > 0, r, -np.inf).max(axis=-1)
    return ref, np.where(ref > 0, r - best[..., None], 0), best


def _log_partition(ref: FloatArray, gaps: FloatArray, beta: float) -> tuple[FloatArray, FloatArray]:
    """Returns `gaps / beta` [..., L] and `log Z = log E_ref exp(gaps / beta)` [...], <= 0."""
    _check_beta(beta)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scaled = np.where(gaps == 0, 0, gaps / beta)
    # Where Z is near 1 its logarithm is small, and 1 + drop would round it away.
    drop = (ref * np.expm1(scaled)).sum(axis=-1)
    z = (ref * np.exp(scaled)).sum(axis=-1)
    return scaled, np.where(drop > -0.5, np.log1p(np.maximum(drop, -0.5)), np.log(z))


def tilted(reference: ArrayLike, rewards: ArrayLike, beta: float) -> FloatArray:
    """Returns [..., L], the best policy at the price beta, `pi* = pi_ref exp(r / beta) / Z`.

    beta = inf gives the reference, beta = 0 the reference given that its best reward is drawn.

    Args:
        reference: [..., L] probabilities.
        rewards: [..., L].
        beta: the price of KL, reward per nat, 0 to inf.

    Raises:
        ConfigError: beta < 0.
        ValueError: no distribution, or rewards that do not match it or are not finite.

    Source: Rafailov et al. 2023, arXiv 2305.18290, equations 3 and 4.

    >>> tilted([0.5, 0.5], [0, 1], beta=1 / np.log(3)).round(3).tolist()
    [0.25, 0.75]
    """
    ref, gaps, _ = _gaps(reference, rewards)
    scaled, log_z = _log_partition(ref, gaps, beta)
    return np.asarray(ref * np.exp(scaled - log_z[..., None]))


def objective(p: ArrayLike, reference: ArrayLike, rewards: ArrayLike, beta: float) -> FloatArray:
    """Returns [...], `E_p r - beta KL(p || pi_ref)`; -inf where the KL is infinite.

    So it is for every policy but the reference at beta = inf. Arguments and errors as `tilted`.
    """
    _check_beta(beta)
    cost = kl(p, reference)
    price = np.where(np.isinf(cost), np.inf, 0.0)
    np.multiply(beta, cost, out=price, where=np.isfinite(cost) & (cost > 0))
    return np.asarray(expectation(p, rewards) - price)


def optimum(reference: ArrayLike, rewards: ArrayLike, beta: float) -> FloatArray:
    """Returns [...], the most that `objective` can be: `beta log Z`, reached by `tilted`.

    The best reward that the reference can draw at beta = 0, its mean reward at inf. Arguments,
    errors and source as `tilted`.
    """
    ref, gaps, best = _gaps(reference, rewards)
    log_z = _log_partition(ref, gaps, beta)[1]
    return expectation(ref, rewards) if np.isinf(beta) else np.asarray(best + beta * log_z)


def regret(p: ArrayLike, reference: ArrayLike, rewards: ArrayLike, beta: float) -> FloatArray:
    """Returns [...], `optimum - objective = beta KL(p || pi*)`, >= 0; inf where KL(p || pi_ref) is.

    Taken outcome by outcome in logs, so that neither a small beta, where pi* underflows, nor a
    large one, where the two terms nearly cancel, spoils it. Arguments and errors as `tilted`.
    """
    ref, gaps, _ = _gaps(reference, rewards)
    log_z = _log_partition(ref, gaps, beta)[1]
    weights, ref, gaps = np.broadcast_arrays(_distribution(p, "p"), ref, gaps)
    cost = kl(weights, ref)
    if np.isinf(beta):
        return np.where(cost > 0, np.inf, 0.0)
    ratio = np.divide(weights, ref, out=np.ones(ref.shape), where=(weights > 0) & (ref > 0))
    total = (weights * (beta * (np.log(ratio) + log_z[..., None]) - gaps)).sum(axis=-1)
    return np.where(np.isinf(cost), np.inf, np.maximum(total, 0))


def expected_maximum(p: ArrayLike, values: ArrayLike, k: int) -> FloatArray:
    """Returns [...], the expected best of `k` independent draws from `p`.

    With the values in order and F the CDF, `v_L - sum_i (v_{i+1} - v_i) F(v_i)^k`.

    Args:
        p: [..., L] probabilities.
        values: [..., L].
        k: draws, >= 1.

    Raises:
        ConfigError: k < 1.
        ValueError: `p` is no distribution, or values that do not match it or are not finite.

    >>> float(expected_maximum([0.5, 0.5], [0, 1], k=2))
    0.75
    """
    if k < 1:
        raise ConfigError(f"k must be >= 1, got {k}")
    weights = _distribution(p, "p")
    weights, v = np.broadcast_arrays(weights, _over_outcomes(values, weights, "values"))
    order = np.argsort(v, axis=-1)
    weights, v = np.take_along_axis(weights, order, -1), np.take_along_axis(v, order, -1)
    # Summed from the top, the CDF is exactly 1 below outcomes of no mass.
    above = np.cumsum(weights[..., :0:-1], axis=-1)[..., ::-1]
    cdf = np.clip(1 - above, 0, 1)
    return np.asarray(v[..., -1] - (np.diff(v, axis=-1) * cdf**k).sum(axis=-1))


@dataclass(frozen=True, eq=False)
class Frontier:
    """The best reward at each KL, from the reference to all mass on the best outcomes.

    Attributes:
        betas: [G], descending, so that KL ascends; reward per nat.
        kl: [G], or [G, ...] per prompt: KL(pi* || pi_ref), nats per response.
        reward: likewise.
        entropy: likewise, nats per response.
    """

    betas: FloatArray
    kl: FloatArray
    reward: FloatArray
    entropy: FloatArray


def _betas(gaps: FloatArray, betas: ArrayLike | None) -> FloatArray:
    """Returns the given betas in descending order, or a grid over the scales of the rewards."""
    if betas is not None:
        given = np.sort(np.asarray(betas, float).ravel())[::-1]
        if not given.size or np.isnan(given).any():
            raise ConfigError(f"expected betas from 0 to inf, got {given.tolist()}")
        return given
    spreads = -gaps.min(axis=-1)
    if not spreads.any():
        return np.array([np.inf, 0.0])
    high, low = 10 * spreads.max(), 1e-3 * spreads[spreads > 0].min()
    points = round(15 * np.log10(high / low)) + 1
    return np.concatenate([[np.inf], np.geomspace(high, low, points), [0.0]])


def _tilted_kl(ref: FloatArray, gaps: FloatArray, beta: float) -> tuple[FloatArray, FloatArray]:
    """Returns pi* [..., L] and KL(pi* || pi_ref) [...], exact in its leading digits near 0 too."""
    scaled, log_z = _log_partition(ref, gaps, beta)
    log_ratio = scaled - log_z[..., None]
    p = ref * np.exp(log_ratio)
    cost = np.multiply(p, log_ratio, out=np.zeros_like(p), where=p > 0).sum(axis=-1)
    return p, np.maximum(cost, 0)


def frontier_by_prompt(
    reference: ArrayLike, rewards: ArrayLike, betas: ArrayLike | None = None
) -> Frontier:
    """Returns each prompt's points [G, ...] of `exact_frontier`; arguments and errors are its."""
    ref, gaps, best = _gaps(reference, rewards)
    grid = _betas(gaps, betas)
    points = []
    for beta in grid:
        p, cost = _tilted_kl(ref, gaps, float(beta))
        points.append((cost, best + (p * gaps).sum(axis=-1), entr(p).sum(axis=-1)))
    return Frontier(grid, *(np.stack(values) for values in zip(*points, strict=True)))


def exact_frontier(
    reference: ArrayLike, rewards: ArrayLike, betas: ArrayLike | None = None
) -> Frontier:
    """Returns the most mean reward that any policy reaches at each mean KL, over N prompts.

    All prompts share a beta. The most of `mean_n E r` at a given `mean_n KL` is a problem with one
    constraint, so with one multiplier beta; given beta it falls apart into prompts, each solved by
    `tilted`. The same KL on every prompt would be N constraints, and a lower curve.

    Args:
        reference: [N, L] probabilities.
        rewards: [N, L].
        betas: prices from 0 to inf; by default inf, 0 and, between, 15 per decade from 10 times
            the widest spread of the rewards to a thousandth of the narrowest.

    Raises:
        ConfigError: no betas, or one below 0.
        ValueError: as `tilted`.

    Source: Rafailov et al. 2023, arXiv 2305.18290, equations 3 and 4.
    """
    each = frontier_by_prompt(reference, rewards, betas)
    values = (each.kl, each.reward, each.entropy)
    return Frontier(each.betas, *(x.reshape(len(x), -1).mean(axis=1) for x in values))


def beta_at_kl(reference: ArrayLike, rewards: ArrayLike, kl: float) -> float:
    """Returns the beta whose tilted policies cost `kl` nats per response, the mean over prompts.

    The KL falls as beta rises. 0 where `kl` is the most that can be spent, or beyond: all mass is
    on the best outcomes. inf for `kl` <= 0.

    Raises:
        ValueError: as `tilted`, or a `kl` that is NaN.
    """
    if np.isnan(kl):
        raise ValueError("expected a KL in nats, got nan")
    ref, gaps, _ = _gaps(reference, rewards)

    def excess(log_beta: float) -> float:
        return float(_tilted_kl(ref, gaps, float(np.exp(log_beta)))[1].mean()) - kl

    if kl <= 0:
        return float("inf")
    if excess(-np.inf) <= 0:
        return 0.0
    # KL <= spread^2 / (8 beta^2) (Hoeffding's lemma), so twice that beta costs less than `kl`.
    high = float(np.log(-gaps.min() / np.sqrt(2 * kl)))
    low = high - 1
    while excess(low) < 0:
        low -= 1
    return float(np.exp(brentq(excess, low, high, xtol=1e-13)))
