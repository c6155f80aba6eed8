"""The frontier from samples: the most reward at each KL, where outcomes cannot be enumerated.

M samples per prompt from the reference stand for it: mass 1/M on each makes an empirical
reference, whose frontier `textgym.metrics.exact` gives. Weighing the samples by
`softmax(r / beta)` costs at most log M nats, the cost of all weight on one sample. A policy can go
further than the samples can show, so the estimate ends there. On the way it falls behind, slowly
at first: the best of M samples is not the best there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textgym.errors import ConfigError
from textgym.metrics.exact import Frontier, beta_at_kl, frontier_by_prompt, tilted
from textgym.metrics.sets import FloatArray

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class EstimatedFrontier:
    """The best reward at each KL as far as M samples per prompt can tell.

    Attributes:
        betas: [G], descending, so that KL ascends; reward per nat.
        kl: [G], KL(pi* || pi_ref), the mean over prompts, nats per response.
        reward: [G], the mean over prompts.
        reward_low: [G], lower end of the interval of the best reward at that KL.
        reward_high: [G], upper end.
        entropy: [G], nats per response; None without the samples' log-probabilities.
        trusted_kl: where the estimate ends, log M nats.
    """

    betas: FloatArray
    kl: FloatArray
    reward: FloatArray
    reward_low: FloatArray
    reward_high: FloatArray
    entropy: FloatArray | None
    trusted_kl: float


def trusted_kl(samples_per_prompt: int, k: int = 1) -> float:
    """Returns `log(M / k)`, nats: up to where M samples tell about k draws of a tilted policy.

    A tilted policy that costs KL nats leaves about M exp(-KL) of the M samples in play. The mean
    reward needs one of them at least; k draws that shall be k texts, as for diversity, need k.

    Args:
        samples_per_prompt: M.
        k: draws per prompt that the metric looks at; 1 for the reward.

    Raises:
        ConfigError: k outside 1..M.
    """
    _check_k(k, samples_per_prompt)
    return math.log(samples_per_prompt / k)


def _check_k(k: int, samples: int) -> None:
    if not 1 <= k <= samples:
        raise ConfigError(f"k must be between 1 and the {samples} samples, got {k}")


def _rewards(rewards: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Returns the empirical reference, 1 / M everywhere, and the rewards; both [N, M]."""
    r = np.asarray(rewards, float)
    if r.ndim != 2 or not r.size:
        raise ValueError(f"expected rewards of shape [N, M], got {list(r.shape)}")
    return np.full(r.shape, 1 / r.shape[1]), r


def estimated_frontier(
    rewards: ArrayLike,
    generator: np.random.Generator,
    logprobs: ArrayLike | None = None,
    betas: ArrayLike | None = None,
    resamples: int = 500,
    level: float = 0.95,
) -> EstimatedFrontier:
    """Returns the most mean reward at each mean KL, with a bootstrap band.

    Per prompt and beta the weights are `w = softmax(r / beta)`, the reward `sum w r` and the KL
    `sum w log(M w)`, averaged over prompts as `exact_frontier` does. The entropy of the tilted
    policy is `E_w[-log pi*(y)]` with `log pi* = log pi_ref + r / beta - log mean exp(r / beta)`.

    The band resamples prompts; the M samples of a lone prompt where N = 1. It reads every
    resampled frontier at the estimate's KL, between its own points: few betas make it coarse. It
    shows noise, not how far the samples fall behind near log M nats.

    Args:
        rewards: [N, M] of samples from the reference.
        generator: the only source of randomness, for the band.
        logprobs: [N, M] log pi_ref of each sample given its prompt, nats, for the entropy.
        betas: prices from 0 to inf; by default the grid of `exact_frontier`.
        resamples: bootstrap resamples.
        level: of the band.

    Raises:
        ConfigError: resamples < 1, a level outside (0, 1), no betas or one below 0.
        ValueError: rewards or logprobs of another shape or not finite.
    """
    if resamples < 1:
        raise ConfigError(f"resamples must be >= 1, got {resamples}")
    if not 0 < level < 1:
        raise ConfigError(f"the level must be in (0, 1), got {level}")
    reference, r = _rewards(rewards)
    each = frontier_by_prompt(reference, r, betas)
    kl, reward = each.kl.mean(axis=1), each.reward.mean(axis=1)
    kls, resampled = _resampled(each, r, generator, resamples)
    # Over sqrt(KL) the curve starts out straight; over KL it starts upright.
    d, ds = np.sqrt(kl), np.sqrt(kls)
    curves = [np.interp(d, x, y) for x, y in zip(ds.T, resampled.T, strict=True)]
    tail = (1 - level) / 2
    low, high = np.quantile(curves, [tail, 1 - tail], axis=0)
    surprise = None if logprobs is None else _entropy(each, r, logprobs)
    return EstimatedFrontier(each.betas, kl, reward, low, high, surprise, trusted_kl(r.shape[1]))


def _resampled(
    each: Frontier, rewards: FloatArray, generator: np.random.Generator, resamples: int
) -> tuple[FloatArray, FloatArray]:
    """Returns KL and reward [G, R] of R frontiers over resampled prompts, or samples if N = 1."""
    size = len(rewards) if len(rewards) > 1 else rewards.shape[1]
    shares = generator.multinomial(size, np.full(size, 1 / size), size=resamples) / size
    if len(rewards) > 1:
        return each.kl @ shares.T, each.reward @ shares.T
    # Samples drawn with replacement are another empirical reference over the same outcomes.
    again = frontier_by_prompt(shares, rewards, each.betas)
    return again.kl, again.reward


def _entropy(each: Frontier, rewards: FloatArray, logprobs: ArrayLike) -> FloatArray:
    """Returns [G]: `E_w[-log pi_ref] - KL`, since log pi* - log pi_ref is the KL's log-ratio."""
    log_reference = np.asarray(logprobs, float)
    if log_reference.shape != rewards.shape or not np.isfinite(log_reference).all():
        raise ValueError(
            f"expected finite logprobs of shape {list(rewards.shape)}, "
            f"got {list(log_reference.shape)}"
        )
    uniform = np.full(rewards.shape, 1 / rewards.shape[1])
    weights = (tilted(uniform, rewards, float(beta)) for beta in each.betas)
    cross = np.stack([-(w * log_reference).sum(axis=1) for w in weights])
    return np.asarray((cross - each.kl).mean(axis=1))


def reward_at_kl(rewards: ArrayLike, kl: float) -> FloatArray:
    """Returns [N], each prompt's best mean reward where the mean KL over prompts is `kl`.

    The prompts share a beta, so some cost more than `kl` and some less. Their mean is the frontier
    at `kl`, or its end where `kl` is more than the samples can show.

    Args:
        rewards: [N, M] of samples from the reference.
        kl: nats per response, the mean over prompts.

    Raises:
        ValueError: rewards of another shape or not finite, or a `kl` that is NaN.

    >>> reward_at_kl([[0, 1]], np.log(2)).tolist(), reward_at_kl([[0, 1]], 0).tolist()
    ([1.0], [0.5])
    """
    reference, r = _rewards(rewards)
    weights = tilted(reference, r, beta_at_kl(reference, r, kl))
    return np.asarray((weights * r).sum(axis=1))


def tilted_diversity(
    items: Sequence[Item],
    rewards: ArrayLike,
    beta: float,
    k: int,
    metric: Callable[[Sequence[Item]], float],
    generator: np.random.Generator,
    repeats: int = 4,
) -> FloatArray:
    """Returns [N], the mean metric of `k` draws per prompt from the tilted policy.

    Draws take samples by weight `softmax(r / beta)` without replacement (Gumbel top-k): with it
    one sample would come twice where the policy itself would write a fresh text. The price is a
    bias towards the reference once few samples carry the weight, since the k draws then have to
    reach for others. Trusted up to `trusted_kl(M, k)` nats, and near it with care.

    Args:
        items: N * M samples from the reference, prompt-major.
        rewards: [N, M].
        beta: the price of KL, reward per nat, 0 to inf.
        k: draws per prompt, 1..M.
        metric: maps a set of items to a number.
        generator: the only source of randomness.
        repeats: sets drawn per prompt, >= 1.

    Raises:
        ConfigError: beta < 0, k outside 1..M, or repeats < 1.
        ValueError: rewards of another shape or not finite, or items that do not match them.

    Source: Kool et al. 2019, arXiv 1903.06059 (Gumbel top-k).
    """
    _, r = _rewards(rewards)
    prompts, samples = r.shape
    _check_k(k, samples)
    if not beta >= 0:
        raise ConfigError(f"beta must be >= 0, got {beta:g}")
    if repeats < 1:
        raise ConfigError(f"repeats must be >= 1, got {repeats}")
    if len(items) != r.size or not np.isfinite(r).all():
        raise ValueError(f"expected {r.size} items and finite rewards, got {len(items)} items")
    totals = np.zeros(prompts)
    for _ in range(repeats):
        for n, picked in enumerate(_without_replacement(r, beta, k, generator)):
            totals[n] += metric([items[n * samples + i] for i in picked])
    return totals / repeats


def _without_replacement(
    rewards: FloatArray, beta: float, k: int, generator: np.random.Generator
) -> NDArray[np.intp]:
    """Returns [N, k] sample indices, the first k of each prompt's samples in order of drawing."""
    noise = generator.gumbel(size=rewards.shape)
    gaps = rewards - rewards.max(axis=1, keepdims=True)
    if beta == 0:
        # The limit: better rewards first, equal ones in random order.
        return np.lexsort((-noise, -gaps), axis=-1)[:, :k]
    return np.argsort(-(gaps / beta + noise), axis=1)[:, :k]
