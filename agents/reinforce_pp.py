"""REINFORCE++: PPO's clipped steps on returns normalised over the batch, without a value model.

A token's return is the task's reward minus beta times the log-ratios `log pi - log pi_ref` of the
tokens from it to the end; its advantage is that return less the mean over all the batch's tokens,
divided by their standard deviation. Prompts are not compared with themselves, so one sample each
will do.
Source: Hu et al. 2025, arXiv 2501.03262.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from textgym.agents.base import require
from textgym.agents.conventions import (
    Conventions,
    PolicyGradientConventions,
    eos_adjusted,
    kl_penalty,
)
from textgym.agents.grpo import GRPO, ClippedConfig, Credit
from textgym.functional import (
    dr_grpo_advantages,
    masked_whiten,
    returns_to_go,
    rewards_on_last_token,
)
from textgym.types import Rollout


@dataclass(frozen=True)
class ReinforcePPConfig(ClippedConfig, PolicyGradientConventions):
    """Settings of REINFORCE++.

    Attributes:
        kl_coef: beta, the price of a nat of KL in units of reward; where the KL is in the loss, of
            normalised advantage. >= 0.
        prompts_per_step: N, prompts per batch of fresh samples.
        samples_per_prompt: K, samples per prompt.
        epochs: passes over a batch.
        group_baseline: first subtract from a reward the mean over its prompt's samples, of which
            it then takes 2 or more: the paper's REINFORCE++-baseline (which has its KL in the loss:
            `kl_placement=loss,kl_estimator=k2`).
    """

    kl_coef: float = 0.05
    prompts_per_step: int = 64
    samples_per_prompt: int = 1
    epochs: int = 2
    group_baseline: bool = False

    defaults: ClassVar[Conventions] = Conventions(aggregation="token")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not self.group_baseline or self.samples_per_prompt >= 2,
            f"group_baseline needs samples_per_prompt >= 2, got {self.samples_per_prompt}",
        )


class ReinforcePP(GRPO):
    """Clipped policy steps on returns compared with those of the whole batch."""

    config_class = ReinforcePPConfig

    def advantages(self, samples: Rollout, reference_logprobs: Tensor) -> Credit:
        """Returns each token's normalised return to go, [B, T]. Arguments as `GRPO.advantages`."""
        config: ReinforcePPConfig = self.config
        conventions, mask = config.resolved(), samples.response_mask
        rewards = eos_adjusted(samples, conventions)
        if config.group_baseline:
            rewards = dr_grpo_advantages(rewards, samples.samples_per_prompt)
        penalty = kl_penalty(samples, reference_logprobs, config.kl_coef, conventions)
        returns = returns_to_go(rewards_on_last_token(rewards, mask) - penalty, mask)
        return Credit(masked_whiten(returns, mask), torch.arange(len(samples)), {})
