"""BOND: trains one policy to sample what best-of-n of the reference would choose.

Minimises a mixture of the two KL divergences between the policy and best-of-n, pi_n,

    w KL(pi_n || pi) + (1 - w) KL(pi || pi_n),

half of Jeffreys' divergence at w = 1/2. The forward part is the cross-entropy of best-of-n's
responses; it covers all that pi_n gives. The backward part is reinforcement learning with the
reward `log pi_n(y) - log pi_ref(y)`, a function of the reward's rank under the reference alone (up
to a constant (n - 1) log F where nothing ties), and a price of 1 on the KL to the reference; it
seeks pi_n's mode. Both need only samples of the reference to the same prompt. The reward's scale is
forgotten: no transformation that keeps the order changes anything. Unlike J-BOND, the anchor stays
the reference, so that pi_n is known.
Source: Sessa et al. 2024, arXiv 2407.14622; the backward part alone, Amini et al. 2024 (vBoN),
arXiv 2407.06057; the forward part, Gui et al. 2024 (BoNBoN), arXiv 2406.00832.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from textgym.agents.base import (
    Agent,
    Setup,
    collect,
    draw_scored,
    prompt_batches,
    require,
    rollout_metrics,
)
from textgym.functional import (
    best_of_n_log_ratio,
    best_of_n_weights,
    policy_gradient_loss,
    rloo_advantages,
)
from textgym.models.policy import Policy
from textgym.models.training import adamw, optimiser_step
from textgym.types import Rollout


@dataclass(frozen=True)
class BONDConfig:
    """Settings of BOND.

    Attributes:
        lr: learning rate of AdamW, constant.
        n: draws of the best-of-n to imitate, >= 1.
        forward_weight: w, the forward KL's share, 0 to 1; 0.5 is Jeffreys' divergence, 0 vBoN, 1
            supervised fine-tuning on best-of-n.
        reference_samples: m, samples of the reference per prompt, >= n, from which the reward's
            distribution is estimated and the best of n are taken; booked in the budget.
        prompts_per_step: N, prompts per optimiser step.
        samples_per_prompt: K, samples of the policy per prompt, >= 2.
        max_grad_norm: the gradient's global norm is clipped to this.
    """

    lr: float = 2e-4
    n: int = 8
    forward_weight: float = 0.5
    reference_samples: int = 8
    prompts_per_step: int = 4
    samples_per_prompt: int = 4
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require(self.lr > 0, f"lr must be > 0, got {self.lr}")
        require(self.n >= 1, f"n must be >= 1, got {self.n}")
        require(
            0 <= self.forward_weight <= 1,
            f"forward_weight must be between 0 and 1, got {self.forward_weight}",
        )
        require(
            self.reference_samples >= self.n,
            f"reference_samples must be >= n, {self.n}, got {self.reference_samples}",
        )
        require(
            self.prompts_per_step >= 1,
            f"prompts_per_step must be >= 1, got {self.prompts_per_step}",
        )
        require(
            self.samples_per_prompt >= 2,
            f"samples_per_prompt must be >= 2 to compare, got {self.samples_per_prompt}",
        )
        require(self.max_grad_norm > 0, f"max_grad_norm must be > 0, got {self.max_grad_norm}")


class BOND(Agent):
    """One gradient step per batch of fresh samples of the policy and of the reference."""

    config_class = BONDConfig

    def train(self, setup: Setup) -> None:
        """Spends the budget in whole batches, N * (K + m) completions each.

        Logs `rollout_metrics` of the policy's samples, `reference_reward`, `log_ratio` (mean
        estimate of log pi_n / pi_ref over the policy's samples, nats), `kl_best_of_n` (estimate of
        KL(pi || pi_n), `kl_seq - log_ratio`, nats), `forward_loss` (cross-entropy of best-of-n's
        responses, nats per response), `loss` and `grad_norm`.
        """
        config: BONDConfig = self.config
        self.task, self.policy = setup.task, setup.policy
        k, m = config.samples_per_prompt, config.reference_samples
        prompts = prompt_batches(
            setup.task.prompts("train"), config.prompts_per_step, setup.streams.numpy("prompts")
        )
        sampling = setup.streams.torch("sampling")
        optimizer = adamw(setup.policy.model.parameters(), config.lr)

        step = 0
        while setup.budget.left >= config.prompts_per_step * (k + m):
            rows = next(prompts)
            samples, reference_logprobs = collect(setup, rows, k, sampling)
            known = draw_scored(setup, setup.reference, rows, m, sampling)
            assert known.rewards is not None, "draw_scored() scores"
            metrics = rollout_metrics(samples, reference_logprobs)
            metrics["reference_reward"] = known.rewards.mean().item()
            log_ratio = target_log_ratios(samples, known, config.n)
            metrics["log_ratio"] = log_ratio.mean().item()
            metrics["kl_best_of_n"] = metrics["kl_seq"] - metrics["log_ratio"]

            backward = backward_loss(setup.policy, samples, reference_logprobs, log_ratio)
            forward = forward_loss(setup.policy, known, config.n)
            loss = config.forward_weight * forward + (1 - config.forward_weight) * backward
            grad_norm = optimiser_step(optimizer, loss, step, config.max_grad_norm)
            metrics |= {"forward_loss": forward.item(), "loss": loss.item(), "grad_norm": grad_norm}
            setup.log(step, metrics)
            step += 1


def target_log_ratios(samples: Rollout, known: Rollout, n: int) -> Tensor:
    """Returns [B], `log pi_n - log pi_ref` of the policy's samples by the reference's, nats.

    Args:
        samples: N * K scored responses of the policy.
        known: N * m scored responses of the reference to the same prompts.
        n: draws of best-of-n.
    """
    assert samples.rewards is not None, "collect() scores"
    assert known.rewards is not None, "draw_scored() scores"
    pairs = zip(
        samples.rewards.reshape(-1, samples.samples_per_prompt).numpy(),
        known.rewards.reshape(-1, known.samples_per_prompt).numpy(),
        strict=True,
    )
    ratios = [best_of_n_log_ratio(rewards, reference, n) for rewards, reference in pairs]
    return torch.from_numpy(np.concatenate(ratios)).float()


def backward_loss(
    policy: Policy, samples: Rollout, reference_logprobs: Tensor, log_ratio: Tensor
) -> Tensor:
    """Returns a loss whose gradient estimates that of KL(pi || pi_n); its value means nothing.

    The reward of a response is `log pi_n / pi_ref - log pi / pi_ref`, its baseline the mean of the
    prompt's other responses.

    Args:
        policy: in training, pi.
        samples: N * K responses of its own.
        reference_logprobs: [B, T] under the reference, nats.
        log_ratio: [B] from `target_log_ratios`.

    Source: Sessa et al. 2024, section 4; the baseline, Ahmadian et al. 2024, arXiv 2402.14740.
    """
    spent = (samples.policy_logprobs - reference_logprobs).sum(1)
    advantages = rloo_advantages(log_ratio - spent, samples.samples_per_prompt)
    logprobs = policy.logprobs(samples)
    return policy_gradient_loss(logprobs, advantages, samples.response_mask, "sum")


def forward_loss(policy: Policy, known: Rollout, n: int) -> Tensor:
    """Returns the cross-entropy of best-of-n's responses, nats per response.

    Of each prompt's m responses of the reference each counts as often as it is the best of n of
    them: the mean over all subsets, and so unbiased for best-of-n of the reference.

    Args:
        policy: in training, pi.
        known: N * m scored responses of the reference.
        n: draws of best-of-n, at most m.
    """
    assert known.rewards is not None, "draw_scored() scores"
    groups = known.rewards.reshape(-1, known.samples_per_prompt).numpy()
    weights = torch.from_numpy(np.concatenate([best_of_n_weights(r, n) for r in groups])).float()
    rows = weights.nonzero().flatten()
    return -(weights[rows] @ policy.logprobs(known.select(rows)).sum(1)) / len(groups)
