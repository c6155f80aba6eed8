"""Log-probabilities, entropy, and KL divergence from the reference policy, all in nats."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from textgym.errors import ConfigError

# Elements of one temporary [rows, V] block: 16 MiB in float32, so that no function here needs
# several copies of [B, T, V] at once.
_BLOCK = 2**22


def _by_rows(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Applies a function of [rows, ...] blocks, which returns [rows], to tensors [R, ...]."""
    width = tensors[0].shape[-1]
    blocks = [torch.split(tensor, max(1, _BLOCK // width)) for tensor in tensors]
    return torch.cat([function(*parts) for parts in zip(*blocks, strict=True)])


def _rows(logits: Tensor) -> Tensor:
    """Returns [..., V] as [R, V]."""
    return logits.reshape(-1, logits.shape[-1])


def gather_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """Returns the log-probability of each given token, `log softmax(logits)[id]`.

    Args:
        logits: [..., V]; log-probabilities do as well. Computed in float32 whatever their type.
        ids: [...] int64.

    Returns:
        [...] float32 (or float64 if the logits are), nats.

    Raises:
        ValueError: shapes do not match.
    """
    if ids.shape != logits.shape[:-1]:
        raise ValueError(f"expected ids of shape {list(logits.shape[:-1])}, got {list(ids.shape)}")

    def block(rows: Tensor, chosen: Tensor) -> Tensor:
        return _log_softmax(rows).gather(-1, chosen).squeeze(-1)

    return _by_rows(block, _rows(logits), ids.reshape(-1, 1)).reshape(ids.shape)


def entropy(logits: Tensor) -> Tensor:
    """Returns the entropy of each distribution, `-sum_v p log p`, over the full vocabulary.

    Args:
        logits: [..., V], or log-probabilities; -inf stands for probability 0.

    Returns:
        [...], nats, in [0, log V].
    """

    def block(rows: Tensor) -> Tensor:
        logp = _log_softmax(rows)
        p = logp.exp()
        return -(p * torch.where(p > 0, logp, 0)).sum(dim=-1)

    return _by_rows(block, _rows(logits)).reshape(logits.shape[:-1])


def full_kl(logits: Tensor, logits_ref: Tensor) -> Tensor:
    """Returns KL(pi || pi_ref) of each next-token distribution, without sampling noise.

    `sum_v pi(v|s) [log pi(v|s) - log pi_ref(v|s)]`; differentiable in both arguments.

    Args:
        logits: [..., V] of pi, or its log-probabilities; -inf stands for probability 0.
        logits_ref: [..., V] of pi_ref, likewise.

    Returns:
        [...], nats; inf where pi allows what pi_ref excludes. Rounding may leave -1e-7 for 0.

    Raises:
        ValueError: shapes differ.
    """
    if logits.shape != logits_ref.shape:
        raise ValueError(f"shapes differ: {list(logits.shape)} and {list(logits_ref.shape)}")

    def block(rows: Tensor, rows_ref: Tensor) -> Tensor:
        logp = _log_softmax(rows)
        p = logp.exp()
        # Where p = 0 the term is 0, also when both log-probabilities are -inf.
        log_ratio = torch.where(p > 0, logp - _log_softmax(rows_ref), 0)
        return (p * log_ratio).sum(dim=-1)

    return _by_rows(block, _rows(logits), _rows(logits_ref)).reshape(logits.shape[:-1])


def _log_softmax(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)


def kl_k1(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """Returns `l = log pi(a|s) - log pi_ref(a|s)`: unbiased for KL(pi || pi_ref), signed.

    Args:
        logp: [B, T] log-probabilities of tokens drawn from pi, nats.
        logp_ref: [B, T], of the same tokens under pi_ref.

    Returns:
        [B, T], nats per token. Source: Schulman 2020, http://joschu.net/blog/kl-approx.html.
    """
    return logp - logp_ref


def kl_k2(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """Returns `l^2 / 2`: biased, never negative. Arguments and source as `kl_k1`."""
    return (logp - logp_ref).square() / 2


def kl_k3(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """Returns `exp(-l) - 1 + l`: unbiased for KL(pi || pi_ref), never negative.

    The exponent is -l, the ratio pi_ref / pi, for tokens drawn from pi; with +l it would estimate
    something else. Arguments and source as `kl_k1`.
    """
    log_ratio = logp - logp_ref
    return torch.expm1(-log_ratio) + log_ratio


def adaptive_kl_step(coef: float, kl_seq: float, target: float, n: int, horizon: float) -> float:
    """Returns the next KL coefficient, `coef * (1 + clip(kl_seq / target - 1, -0.2, 0.2) n / h)`.

    Args:
        coef: the present coefficient, reward per nat.
        kl_seq: measured KL summed over the response, nats per response (not per token).
        target: wanted KL, nats per response.
        n: completions sampled since the last step.
        horizon: completions over which the coefficient may change by about a fifth.

    Raises:
        ConfigError: coef < 0, target <= 0 or horizon <= 0.

    Source: Ziegler et al. 2019, arXiv 1909.08593, section 2.2.
    """
    if coef < 0:
        raise ConfigError(f"the KL coefficient must be >= 0, got {coef}")
    if not (target > 0 and horizon > 0):
        raise ConfigError(f"target and horizon must be > 0, got {target} and {horizon}")
    error = min(max(kl_seq / target - 1, -0.2), 0.2)
    return coef * (1 + error * n / horizon)


def adaptive_entropy_step(
    coef: float, entropy: float, target: float, n: int, horizon: float
) -> float:
    """Returns the next entropy weight, `coef * exp(clip(1 - entropy / target, -0.2, 0.2) n / h)`.

    It rises while the entropy is below the target and falls above. As `adaptive_kl_step` it moves
    by the relative error; as SAC's temperature it moves in its logarithm, and so stays positive.

    Args:
        coef: the present weight, > 0: 0 would stay 0.
        entropy: measured, nats per token.
        target: wanted, nats per token.
        n: completions sampled since the last step.
        horizon: completions over which the weight may change by about a fifth.

    Raises:
        ConfigError: coef, target or horizon <= 0.

    Source: Haarnoja et al. 2018, arXiv 1812.05905, section 5, whose step is proportional to the
    absolute error.
    """
    if not (coef > 0 and target > 0 and horizon > 0):
        raise ConfigError(
            f"the entropy's weight, target and horizon must be > 0, got {coef}, {target} and "
            f"{horizon}"
        )
    error = min(max(1 - entropy / target, -0.2), 0.2)
    return coef * math.exp(error * n / horizon)
