"""Trajectory balance: one squared error whose only minimum is the target distribution.

With `p(y|x) = pi_ref(y|x) exp(r(x, y) / beta) / Z(x)`, every response of the target balances
`log Z(x) + log pi(y|x) = log pi_ref(y|x) + r(x, y) / beta`. The loss is the squared difference,
with log Z(x) the mean over the prompt's samples (VarGrad). On samples of the policy its gradient
is that of RLOO with the KL in the reward, times a constant that is made 1. But the balance may be
asked of any response: a share of the samples comes from the reference, so that answers which the
policy has dropped are still asked for.
Sources: Malkin et al. 2022, arXiv 2201.13259, eq. 14; Richter et al. 2020, arXiv 2010.10436; for
language models Hu et al. 2023, arXiv 2310.04363, and Bartoldson et al. 2025, arXiv 2503.18929.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from textgym.agents.base import (
    Agent,
    Setup,
    draw_scored,
    prompt_batches,
    require,
    rollout_metrics,
)
from textgym.functional import trajectory_balance_loss
from textgym.models.training import adamw, optimiser_step
from textgym.types import Rollout


@dataclass(frozen=True)
class TrajectoryBalanceConfig:
    """Settings of trajectory balance.

    Attributes:
        lr: learning rate of AdamW, constant. The loss is scaled so that it means what RLOO's does.
        beta: the price of a nat of KL in units of reward: the target is pi_ref exp(r / beta) / Z;
            > 0.
        reference_share: share of a prompt's samples drawn from the reference, the others from the
            policy; from 0, which is RLOO, to below 1. Rounded to whole samples.
        prompts_per_step: N, prompts per batch of fresh samples.
        samples_per_prompt: K, samples per prompt, >= 2: log Z is their mean.
        epochs: optimiser steps on a batch, each on all of its samples.
        max_grad_norm: the gradient's global norm is clipped to this.
    """

    lr: float = 3e-4
    beta: float = 0.1
    reference_share: float = 0.25
    prompts_per_step: int = 8
    samples_per_prompt: int = 8
    epochs: int = 1
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require(self.lr > 0, f"lr must be > 0, got {self.lr}")
        require(self.beta > 0, f"beta must be > 0, got {self.beta}")
        require(
            0 <= self.reference_share < 1,
            f"reference_share must be in [0, 1), got {self.reference_share}",
        )
        require(
            self.prompts_per_step >= 1 and self.epochs >= 1,
            f"prompts_per_step and epochs must be >= 1, got {self.prompts_per_step} and "
            f"{self.epochs}",
        )
        require(
            self.samples_per_prompt >= 2,
            f"samples_per_prompt must be >= 2 to compare, got {self.samples_per_prompt}",
        )
        require(
            self.from_policy >= 1,
            f"reference_share leaves the policy none of {self.samples_per_prompt} samples, "
            f"got {self.reference_share}",
        )
        require(self.max_grad_norm > 0, f"max_grad_norm must be > 0, got {self.max_grad_norm}")

    @property
    def from_policy(self) -> int:
        """How many of a prompt's samples the policy gives."""
        return self.samples_per_prompt - round(self.reference_share * self.samples_per_prompt)


class TrajectoryBalance(Agent):
    """Gradient steps on the spread of `log pi - log pi_ref - r / beta` among a prompt's samples."""

    config_class = TrajectoryBalanceConfig

    def train(self, setup: Setup) -> None:
        """Spends the budget in whole batches.

        Logs `rollout_metrics` (of the policy's own samples), and of the batch's last optimiser
        step, before it is taken: `log_partition` (log Z, mean over prompts, nats; over samples of
        the policy itself too low by KL(pi || p)), `residual` (by how much the balance is missed,
        root mean square, nats per response), `loss` and `grad_norm`.
        """
        config: TrajectoryBalanceConfig = self.config
        self.task, self.policy = setup.task, setup.policy
        k, own = config.samples_per_prompt, config.from_policy
        batch = config.prompts_per_step * k
        prompts = prompt_batches(
            setup.task.prompts("train"), config.prompts_per_step, setup.streams.numpy("prompts")
        )
        sampling = setup.streams.torch("sampling")
        optimizer = adamw(setup.policy.model.parameters(), config.lr)

        step = 0
        while setup.budget.left >= batch:
            rows = next(prompts)
            parts = [draw_scored(setup, setup.policy, rows, own, sampling)]
            if own < k:
                parts.append(draw_scored(setup, setup.reference, rows, k - own, sampling))
            with torch.no_grad():
                reference_logprobs = [setup.reference.logprobs(part) for part in parts]
            metrics = rollout_metrics(parts[0], reference_logprobs[0])
            for _ in range(config.epochs):
                errors = torch.cat(
                    [
                        residuals(setup.policy.logprobs(part), logp_ref, part, config.beta)
                        for part, logp_ref in zip(parts, reference_logprobs, strict=True)
                    ],
                    dim=1,
                )
                loss = trajectory_balance_loss(errors.flatten(), k, config.beta)
                grad_norm = optimiser_step(optimizer, loss, step, config.max_grad_norm)
            errors = errors.detach()
            log_z = -errors.mean(dim=1, keepdim=True)
            metrics |= {
                "log_partition": log_z.mean().item(),
                "residual": (errors + log_z).square().mean().sqrt().item(),
                "loss": loss.item(),
                "grad_norm": grad_norm,
            }
            setup.log(step, metrics)
            step += 1


def residuals(
    logprobs: Tensor, reference_logprobs: Tensor, samples: Rollout, beta: float
) -> Tensor:
    """Returns `log pi(y|x) - log pi_ref(y|x) - r(x, y) / beta` of each sample, [N, K], nats.

    Args:
        logprobs: [B, T] under the policy in training; gradients flow.
        reference_logprobs: [B, T].
        samples: B = N * K scored responses, whoever gave them.
        beta: the price of a nat of KL in units of reward.
    """
    assert samples.rewards is not None, "draw_scored() scores"
    log_ratio = torch.where(samples.response_mask, logprobs - reference_logprobs, 0).sum(1)
    return (log_ratio - samples.rewards / beta).reshape(-1, samples.samples_per_prompt)
