"""Advantages: per token by generalised advantage estimation, per response by group baselines."""

from __future__ import annotations

import torch
from torch import Tensor

from textgym.errors import ConfigError
from textgym.functional.masked import check_mask


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Returns generalised advantage estimates and the returns a value head should predict.

    `d_t = r_t + gamma V_{t+1} - V_t` with V = 0 after the last response token,
    `A_t = sum_l (gamma lam)^l d_{t+l}`, returns `A + V`; over response tokens only, columns where
    the mask is False are stepped over. Gradients flow: pass detached values.

    Args:
        rewards: [B, T] per-token rewards.
        values: [B, T], V of the state before each token, in units of reward.
        mask: [B, T] bool.
        gamma: discount per token.
        lam: 1 gives Monte-Carlo returns minus the value, 0 the one-step error.

    Returns:
        Advantages and returns, [B, T] each, 0 where the mask is False.

    Raises:
        ValueError: shapes differ or the mask is not bool.

    Source: Schulman et al. 2016, arXiv 1506.02438, eq. 16.
    """
    check_mask(mask, rewards, values)
    advantages = []
    advantage = next_value = torch.zeros_like(values[:, 0])
    for t in reversed(range(mask.shape[1])):
        here = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = torch.where(here, delta + gamma * lam * advantage, advantage)
        next_value = torch.where(here, values[:, t], next_value)
        advantages.append(torch.where(here, advantage, 0))
    result = torch.stack(advantages[::-1], dim=1)
    return result, torch.where(mask, result + values, 0)


def returns_to_go(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """Returns the discounted sum of the rewards from each token on, `G_t = r_t + gamma G_{t+1}`.

    Args:
        rewards: [B, T].
        mask: [B, T] bool.
        gamma: discount per token.

    Returns:
        [B, T], 0 where the mask is False.

    Raises:
        ValueError: shapes differ or the mask is not bool.

    Source: Sutton and Barto 2018, eq. 3.9.
    """
    return gae(rewards, torch.zeros_like(rewards), mask, gamma=gamma, lam=1.0)[0]


def _groups(rewards: Tensor, k: int, at_least: int) -> Tensor:
    """Returns prompt-major rewards [B] as [N, K]."""
    if k < at_least:
        raise ConfigError(f"samples per prompt must be >= {at_least}, got {k}")
    if rewards.ndim != 1 or len(rewards) % k:
        raise ValueError(f"expected N * {k} rewards, got shape {list(rewards.shape)}")
    return rewards.reshape(-1, k)


def rloo_advantages(rewards: Tensor, k: int) -> Tensor:
    """Returns each reward minus the mean of the others', `A_i = R_i - mean_{j != i} R_j`.

    Args:
        rewards: [B], prompt-major.
        k: samples per prompt, >= 2.

    Returns:
        [B].

    Raises:
        ConfigError: k < 2.
        ValueError: B is not a multiple of k.

    Source: Ahmadian et al. 2024, arXiv 2402.14740.
    """
    _groups(rewards, k, at_least=2)
    return dr_grpo_advantages(rewards, k) * (k / (k - 1))


def grpo_advantages(rewards: Tensor, k: int, eps: float = 1e-4) -> Tensor:
    """Returns rewards standardised within each group, `(R_i - mean) / (std + eps)`.

    `std` is the sample standard deviation (K - 1 in the denominator).

    Args:
        rewards: [B], prompt-major.
        k: samples per prompt, >= 2.
        eps: in units of reward; groups of equal rewards are exactly 0.

    Returns:
        [B].

    Raises:
        ConfigError: k < 2.
        ValueError: B is not a multiple of k.

    Source: Shao et al. 2024, arXiv 2402.03300, section 4.1.2.
    """
    groups = _groups(rewards, k, at_least=2)
    # Measured from the first, equal rewards have mean 0; else eps would divide a rounding error.
    groups = groups - groups[:, :1]
    centred = groups - groups.mean(dim=1, keepdim=True)
    return (centred / (groups.std(dim=1, keepdim=True) + eps)).flatten()


def dr_grpo_advantages(rewards: Tensor, k: int) -> Tensor:
    """Returns rewards centred within each group, `R_i - mean`: RLOO times (K - 1) / K.

    Args:
        rewards: [B], prompt-major.
        k: samples per prompt, >= 1 (1 gives zeros).

    Returns:
        [B].

    Raises:
        ConfigError: k < 1.
        ValueError: B is not a multiple of k.

    Source: Liu et al. 2025, arXiv 2503.20783.
    """
    groups = _groups(rewards, k, at_least=1)
    return (groups - groups.mean(dim=1, keepdim=True)).flatten()


def zero_variance_share(rewards: Tensor, k: int) -> float:
    """Returns the share of groups whose rewards are all equal, which teach nothing; in [0, 1].

    Args:
        rewards: [B], prompt-major.
        k: samples per prompt, >= 1.

    Raises:
        ConfigError: k < 1.
        ValueError: B is not a multiple of k.
    """
    groups = _groups(rewards, k, at_least=1)
    return float((groups == groups[:, :1]).all(dim=1).float().mean())
