"""KL and entropy per response and per token, with standard errors over prompts.

Inputs are per-token values [B, T] in nats (`functional.full_kl`, `functional.entropy`) as NumPy
arrays or CPU tensors, a bool mask [B, T], and K = `k`; rows are prompt-major. The K responses to
one prompt are not independent draws of the prompt, so errors are taken over prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from textgym.errors import ConfigError
from textgym.metrics.sets import FloatArray


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error (NaN where one prompt leaves it unknown), in one unit."""

    value: float
    standard_error: float


def prompt_sums(per_token: ArrayLike, mask: ArrayLike, k: int) -> FloatArray:
    """Returns [N], per prompt the mean over its K responses of `sum_t m_t x_t`.

    Raises:
        ConfigError: k < 1.
        ValueError: shapes differ, the mask is not bool, or B is not a multiple of k.
    """
    x, m = np.asarray(per_token, float), np.asarray(mask)
    if m.dtype != bool or x.shape != m.shape or x.ndim != 2:
        raise ValueError(f"expected [B, T] and a bool mask, got {x.shape} and {m.dtype} {m.shape}")
    if k < 1:
        raise ConfigError(f"samples per prompt must be >= 1, got {k}")
    if not len(x) or len(x) % k:
        raise ValueError(f"{len(x)} responses are no multiple of {k} per prompt")
    return np.asarray(np.where(m, x, 0.0).sum(axis=1).reshape(-1, k).mean(axis=1))


def _per_response(per_token: ArrayLike, mask: ArrayLike, k: int) -> Estimate:
    sums = prompt_sums(per_token, mask, k)
    return Estimate(float(sums.mean()), _standard_error(sums - sums.mean()))


def _per_token(per_token: ArrayLike, mask: ArrayLike, k: int) -> Estimate:
    sums = prompt_sums(per_token, mask, k)
    lengths = prompt_sums(np.ones(np.shape(mask)), mask, k)
    if not lengths.any():
        raise ValueError("the mask selects no token")
    ratio = sums.sum() / lengths.sum()
    # A ratio of two means: its error to first order is that of the residuals.
    return Estimate(float(ratio), _standard_error((sums - ratio * lengths) / lengths.mean()))


def _standard_error(residuals: FloatArray) -> float:
    n = len(residuals)
    return float(np.sqrt((residuals**2).sum() / (n - 1) / n)) if n > 1 else float("nan")


def kl_seq(full_kl: ArrayLike, mask: ArrayLike, k: int = 1) -> Estimate:
    """Returns KL(pi || pi_ref) per response, the mean of `sum_t m_t full_t`: the leaderboard's KL.

    Args:
        full_kl: [B, T] full-vocabulary KL at each token, nats.
        mask: [B, T] bool.
        k: samples per prompt.

    Returns:
        Nats per response.

    Raises:
        ConfigError: k < 1.
        ValueError: as `prompt_sums`.
    """
    return _per_response(full_kl, mask, k)


def kl_token(full_kl: ArrayLike, mask: ArrayLike, k: int = 1) -> Estimate:
    """Returns KL(pi || pi_ref) per token, `sum(m full) / sum(m)`.

    Arguments and errors as `kl_seq`; nats per token. Never to be held against a per-response
    target.
    """
    return _per_token(full_kl, mask, k)


def entropy_seq(entropy: ArrayLike, mask: ArrayLike, k: int = 1) -> Estimate:
    """Returns the policy's entropy per response, the mean of `sum_t m_t H_t`; nats per response.

    Args:
        entropy: [B, T] full-vocabulary entropy at each token, nats; for text that is not the
            policy's own, `-log pi` of its tokens, which makes it a cross-entropy.
        mask: [B, T] bool.
        k: samples per prompt.

    Raises:
        ConfigError: k < 1.
        ValueError: as `prompt_sums`.
    """
    return _per_response(entropy, mask, k)


def entropy_token(entropy: ArrayLike, mask: ArrayLike, k: int = 1) -> Estimate:
    """Returns the policy's entropy per token, `sum(m H) / sum(m)`; nats per token.

    Arguments and errors as `entropy_seq`.
    """
    return _per_token(entropy, mask, k)
