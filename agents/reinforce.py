"""REINFORCE with a price on the KL to the reference, by default inside the reward.

Maximises `E[r(x, y) - beta KL]` with the score-function gradient
`E[sum_t (G_t - b) grad log pi(a_t|s_t)]`, where `G_t` is the return from token t on: the task's
reward minus beta times the log-ratios `log pi - log pi_ref` of the tokens from t to the end (those
before t do not depend on a_t). With k1 in the reward the gradient of the KL is unbiased.
Source: Williams 1992; for language models Ahmadian et al. 2024, arXiv 2402.14740.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from textgym.agents.base import (
    Agent,
    Setup,
    collect,
    importance_weights,
    prompt_batches,
    require,
    rollout_metrics,
)
from textgym.agents.conventions import (
    Baseline,
    Conventions,
    PolicyGradientConventions,
    Whitening,
    eos_adjusted,
    kl_loss,
    kl_penalty,
    leave_one_out_advantages,
    whiten,
)
from textgym.agents.diversity import (
    DiversityOptions,
    next_entropy_coef,
    with_bonus,
    with_entropy,
)
from textgym.functional import policy_gradient_loss, returns_to_go, rewards_on_last_token
from textgym.models.training import adamw, optimiser_step
from textgym.types import Rollout


@dataclass(frozen=True)
class ReinforceConfig(PolicyGradientConventions, DiversityOptions):
    """Settings of REINFORCE.

    Attributes:
        lr: learning rate of AdamW, constant.
        kl_coef: beta, the price of a nat of KL in units of reward; >= 0.
        baseline: what is subtracted from the return: `batch` (the batch's mean return, which
            shrinks the expected gradient by (B - 1) / B), `moving` (an exponential average of
            earlier batches, unbiased), `leave_one_out` (the mean of the prompt's other samples:
            RLOO) or `none`.
        kl_in_baseline: of `leave_one_out`: take the baseline of the return with the KL in it, or
            of the task's reward alone; None: the preset's.
        baseline_decay: the weight of the past in the moving baseline.
        whitening: of the advantages: `none`, `masked` or `unmasked` (a batch is one minibatch, so
            `minibatch` is `masked`). Presets leave it: what they whiten is PPO's advantages.
        prompts_per_step: N, prompts per optimiser step.
        samples_per_prompt: K, samples per prompt.
        max_grad_norm: the gradient's global norm is clipped to this.
        importance_cap: where the policy computes in a shorter format than float32, so that the
            scorer's probabilities are not quite the sampler's, each token's loss (the KL's in it
            aside) is multiplied by their ratio, cut off at this; >= 1. None: by nothing.
    """

    lr: float = 3e-4
    kl_coef: float = 0.05
    baseline: Baseline | None = None
    kl_in_baseline: bool | None = None
    baseline_decay: float = 0.9
    whitening: Whitening = "none"
    prompts_per_step: int = 64
    samples_per_prompt: int = 1
    max_grad_norm: float = 1.0
    importance_cap: float | None = 2.0

    # The sum over tokens, mean over responses, is the policy gradient as derived.
    defaults: ClassVar[Conventions] = Conventions(baseline="batch", aggregation="sum")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.lr > 0, f"lr must be > 0, got {self.lr}")
        require(self.kl_coef >= 0, f"kl_coef must be >= 0, got {self.kl_coef}")
        require(
            0 <= self.baseline_decay < 1,
            f"baseline_decay must be in [0, 1), got {self.baseline_decay}",
        )
        require(
            self.prompts_per_step >= 1 and self.samples_per_prompt >= 1,
            "prompts_per_step and samples_per_prompt must be >= 1, got "
            f"{self.prompts_per_step} and {self.samples_per_prompt}",
        )
        require(
            self.resolved().baseline != "leave_one_out" or self.samples_per_prompt >= 2,
            f"baseline 'leave_one_out' needs samples_per_prompt >= 2, got "
            f"{self.samples_per_prompt}",
        )
        require(
            self.importance_cap is None or self.importance_cap >= 1,
            f"importance_cap must be >= 1 or none, got {self.importance_cap}",
        )


class Reinforce(Agent):
    """One gradient step per batch of fresh samples."""

    config_class = ReinforceConfig

    def train(self, setup: Setup) -> None:
        """Spends the budget in whole batches.

        Logs `rollout_metrics`, `loss`, `grad_norm`, `kl_loss` where the KL is in the loss, what
        `with_bonus` and `with_entropy` log, and where `importance_cap` applies `importance_mean`
        and `importance_max`, the mean and the greatest of the weights.
        """
        config: ReinforceConfig = self.config
        conventions = config.resolved()
        self.task, self.policy = setup.task, setup.policy
        batch = config.prompts_per_step * config.samples_per_prompt
        prompts = prompt_batches(
            setup.task.prompts("train"), config.prompts_per_step, setup.streams.numpy("prompts")
        )
        sampling = setup.streams.torch("sampling")
        optimizer = adamw(setup.policy.model.parameters(), config.lr)
        moving: Tensor | None = None
        entropy_coef = config.entropy_coef
        # In float32 sampler and scorer agree but for the order of sums: nothing to correct.
        cap = None if setup.policy.precision == torch.float32 else config.importance_cap

        step = 0
        while setup.budget.left >= batch:
            rows = next(prompts)
            samples, reference_logprobs = collect(setup, rows, config.samples_per_prompt, sampling)
            mask, metrics = samples.response_mask, rollout_metrics(samples, reference_logprobs)
            samples, bonuses = with_bonus(setup, config, samples)
            advantages, mean_return = _advantages(config, samples, reference_logprobs, moving)
            decay = config.baseline_decay
            moving = mean_return if moving is None else decay * moving + (1 - decay) * mean_return

            logprobs = setup.policy.logprobs(samples)
            if cap is not None:
                weights = importance_weights(logprobs, samples, cap)
                advantages = weights * advantages
                metrics["importance_mean"] = weights[mask].mean().item()
                metrics["importance_max"] = weights[mask].max().item()
            limit = setup.task.max_response_tokens
            loss = policy_gradient_loss(logprobs, advantages, mask, conventions.aggregation, limit)
            if conventions.kl_placement == "loss":
                kl = kl_loss(setup, samples, logprobs, reference_logprobs, conventions)
                metrics["kl_loss"] = kl.item()
                loss = loss + config.kl_coef * kl
            loss, entropies = with_entropy(loss, entropy_coef, setup.policy, samples)
            metrics |= bonuses | entropies
            grad_norm = optimiser_step(optimizer, loss, step, config.max_grad_norm)
            setup.log(step, {**metrics, "loss": loss.item(), "grad_norm": grad_norm})
            entropy_coef = next_entropy_coef(config, entropy_coef, metrics, batch)
            step += 1


def _advantages(
    config: ReinforceConfig, samples: Rollout, reference_logprobs: Tensor, moving: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Returns the advantages [B, T], whitened as configured, and the batch's mean return.

    `moving` is the average return of earlier batches, None in the first.
    """
    conventions, mask = config.resolved(), samples.response_mask
    rewards = eos_adjusted(samples, conventions)
    # The penalty is part of the reward, a number: no gradient flows through it.
    penalty = kl_penalty(samples, reference_logprobs, config.kl_coef, conventions)
    shaped = rewards_on_last_token(rewards, mask) - penalty
    advantages, mean_return = returns_to_go(shaped, mask), shaped.sum(1).mean()
    if conventions.baseline == "leave_one_out":
        advantages = leave_one_out_advantages(rewards, penalty, samples, conventions)
    elif conventions.baseline == "batch":
        advantages = advantages - mean_return
    elif conventions.baseline == "moving" and moving is not None:
        advantages = advantages - moving
    return whiten(advantages, mask, conventions), mean_return
