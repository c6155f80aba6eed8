"""Policy-gradient losses to minimise, each with the diagnostics that belong beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from textgym.errors import ConfigError
from textgym.functional.divergence import kl_k3
from textgym.functional.masked import aggregate, check_mask, masked_mean


def _per_token(advantages: Tensor, mask: Tensor) -> Tensor:
    """Returns advantages [B, T], or [B] spread over the tokens, without gradient; 0 on pads."""
    if advantages.shape == mask.shape[:1]:
        advantages = advantages[:, None].expand(mask.shape)
    check_mask(mask, advantages)
    return torch.where(mask, advantages.detach(), 0)


def policy_gradient_loss(
    logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    aggregation: str = "token",
    max_tokens: int | None = None,
) -> Tensor:
    """Returns the loss whose negative gradient is the policy gradient, `-A_t log pi(a_t|s_t)`.

    Args:
        logp: [B, T] log-probabilities of the sampled tokens, nats.
        advantages: [B, T], or [B] for one per response; no gradient flows into them.
        mask: [B, T] bool.
        aggregation: see `aggregate`; `sum` is REINFORCE as derived.
        max_tokens: see `aggregate`.

    Raises:
        ConfigError: an unknown aggregation.
        ValueError: shapes differ.

    Source: Williams 1992.
    """
    advantages = _per_token(advantages, mask)
    check_mask(mask, logp)
    return aggregate(-advantages * logp, mask, aggregation, max_tokens)


def ppo_policy_loss(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float = 0.2,
    aggregation: str = "token",
    max_tokens: int | None = None,
    clip_high: float | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Returns PPO's clipped policy loss, `max(-A rho, -A clip(rho, 1 - e, 1 + e))`, aggregated.

    `rho = pi(a|s) / pi_old(a|s)`.

    Args:
        logp: [B, T] under the policy in training, nats.
        old_logp: [B, T] under the policy that sampled.
        advantages: [B, T], or [B] for one per response; no gradient flows into them.
        mask: [B, T] bool.
        clip: e, > 0.
        aggregation: see `aggregate`.
        max_tokens: see `aggregate`.
        clip_high: the e above 1, > 0; None: as below (Yu et al. 2025, arXiv 2503.14476, eq. 10).

    Returns:
        The scalar loss, and over the response tokens: `ratio_mean`, `ratio_deviation` (the largest
        `|rho - 1|`), `clip_fraction` (share of tokens whose gradient the clip removes),
        `approx_kl` (k3 of KL(pi_old || pi), nats per token).

    Raises:
        ConfigError: clip or clip_high <= 0, or an unknown aggregation.
        ValueError: shapes differ.

    Source: Schulman et al. 2017, arXiv 1707.06347, eq. 7.
    """
    clip_high = clip if clip_high is None else clip_high
    if not (clip > 0 and clip_high > 0):
        raise ConfigError(f"clip must be > 0, got {clip} below and {clip_high} above")
    advantages = _per_token(advantages, mask)
    check_mask(mask, logp, old_logp)
    # Padding is cut off before the exponential: inf there would turn the gradient into NaN.
    log_ratio = torch.where(mask, logp - old_logp, 0)
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip_high)
    loss = aggregate(torch.maximum(unclipped, clipped), mask, aggregation, max_tokens)
    with torch.no_grad():
        diagnostics = {
            "ratio_mean": float(masked_mean(ratio, mask)),
            "ratio_deviation": float((ratio - 1).abs().max()),
            "clip_fraction": float(masked_mean((clipped > unclipped).float(), mask)),
            "approx_kl": float(masked_mean(kl_k3(-log_ratio, torch.zeros_like(ratio)), mask)),
        }
    return loss, diagnostics


def ppo_value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    clip: float | None = 0.2,
    aggregation: str = "token",
    max_tokens: int | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Returns PPO's value loss, `0.5 max((V - R)^2, (clip(V, V_old +- e) - R)^2)`, aggregated.

    Args:
        values: [B, T] predicted now, in units of reward.
        old_values: [B, T] predicted when sampling.
        returns: [B, T] targets; no gradient flows into them.
        mask: [B, T] bool.
        clip: e, > 0, in units of reward; None leaves the plain squared error.
        aggregation: see `aggregate`.
        max_tokens: see `aggregate`.

    Returns:
        The scalar loss, and over the response tokens: `value_clip_fraction` (share of tokens
        where the clipped error is the larger), `explained_variance` (`1 - Var(R - V) / Var(R)`,
        NaN if all returns are equal).

    Raises:
        ConfigError: clip <= 0, or an unknown aggregation.
        ValueError: shapes differ.

    Source: the code of Schulman et al. 2017 (the paper has no value clipping); analysed in Huang
    et al. 2022, "The 37 implementation details of PPO", number 9.
    """
    if clip is not None and not clip > 0:
        raise ConfigError(f"the value clip must be > 0 or None, got {clip}")
    check_mask(mask, values, old_values, returns)
    # The pads become 0 here and not after squaring, as in `ppo_policy_loss`.
    values, old_values, returns = (
        torch.where(mask, x, 0) for x in (values, old_values.detach(), returns.detach())
    )
    squared = clipped = (values - returns).square()
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        clipped = (near - returns).square()
    loss = 0.5 * aggregate(torch.maximum(squared, clipped), mask, aggregation, max_tokens)
    with torch.no_grad():
        left, total = (returns - values)[mask], returns[mask]
        unexplained = left.var(correction=0) / total.var(correction=0)
        diagnostics = {
            "value_clip_fraction": float(masked_mean((clipped > squared).float(), mask)),
            "explained_variance": float(1 - unexplained),
        }
    return loss, diagnostics
