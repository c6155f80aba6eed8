"""REINFORCE with the KL to the reference inside the reward.

Maximises `E[r(x, y) - beta KL]` with the score-function gradient
`E[sum_t (G_t - b) grad log pi(a_t|s_t)]`, where `G_t` is the return from token t on: the task's
reward minus beta times the log-ratios `log pi - log pi_ref` of the tokens from t to the end (those
before t do not depend on a_t). With k1 in the reward the gradient of the KL is unbiased.
Source: Williams 1992; for language models Ahmadian et al. 2024, arXiv 2402.14740.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from textgym.agents.base import Agent, Setup, collect, prompt_batches, require, rollout_metrics
from textgym.functional import policy_gradient_loss, returns_to_go, rewards_on_last_token
from textgym.models.training import adamw, optimiser_step


@dataclass(frozen=True)
class ReinforceConfig:
    """Settings of REINFORCE.

    Attributes:
        lr: learning rate of AdamW, constant.
        kl_coef: beta, the price of a nat of KL in units of reward; >= 0.
        baseline: what is subtracted from the return: `batch` (the batch's mean return, which
            shrinks the expected gradient by (B - 1) / B), `moving` (an exponential average of
            earlier batches, unbiased) or `none`.
        baseline_decay: the weight of the past in the moving baseline.
        prompts_per_step: N, prompts per optimiser step.
        samples_per_prompt: K, samples per prompt.
        max_grad_norm: the gradient's global norm is clipped to this.
    """

    lr: float = 3e-4
    kl_coef: float = 0.05
    baseline: Literal["batch", "moving", "none"] = "batch"
    baseline_decay: float = 0.9
    prompts_per_step: int = 64
    samples_per_prompt: int = 1
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require(self.lr > 0, f"lr must be > 0, got {self.lr}")
        require(self.kl_coef >= 0, f"kl_coef must be >= 0, got {self.kl_coef}")
        known = ("batch", "moving", "none")
        require(
            self.baseline in known,
            f"baseline must be one of {', '.join(known)}, got {self.baseline!r}",
        )
        require(
            0 <= self.baseline_decay < 1,
            f"baseline_decay must be in [0, 1), got {self.baseline_decay}",
        )
        require(
            self.prompts_per_step >= 1 and self.samples_per_prompt >= 1,
            "prompts_per_step and samples_per_prompt must be >= 1, got "
            f"{self.prompts_per_step} and {self.samples_per_prompt}",
        )


class Reinforce(Agent):
    """One gradient step per batch of fresh samples."""

    config_class = ReinforceConfig

    def train(self, setup: Setup) -> None:
        """Spends the budget in whole batches; logs `rollout_metrics`, `loss` and `grad_norm`."""
        config: ReinforceConfig = self.config
        self.task, self.policy = setup.task, setup.policy
        batch = config.prompts_per_step * config.samples_per_prompt
        prompts = prompt_batches(
            setup.task.prompts("train"), config.prompts_per_step, setup.streams.numpy("prompts")
        )
        sampling = setup.streams.torch("sampling")
        optimizer = adamw(setup.policy.model.parameters(), config.lr)
        moving: Tensor | None = None

        step = 0
        while setup.budget.left >= batch:
            rows = next(prompts)
            samples, reference_logprobs = collect(setup, rows, config.samples_per_prompt, sampling)
            mask = samples.response_mask

            # The log-ratio is part of the reward, a number: no gradient flows through it.
            penalty = config.kl_coef * (samples.policy_logprobs - reference_logprobs)
            assert samples.rewards is not None, "collect() scores"
            rewards = rewards_on_last_token(samples.rewards, mask) - penalty.masked_fill(~mask, 0)
            returns = returns_to_go(rewards, mask)

            mean_return = rewards.sum(1).mean()
            if config.baseline == "batch":
                advantages = returns - mean_return
            elif config.baseline == "moving" and moving is not None:
                advantages = returns - moving
            else:
                advantages = returns
            decay = config.baseline_decay
            moving = mean_return if moving is None else decay * moving + (1 - decay) * mean_return

            # `constant` over one token: the sum over tokens, mean over responses, as derived.
            logprobs = setup.policy.logprobs(samples)
            loss = policy_gradient_loss(logprobs, advantages, mask, "constant", max_tokens=1)
            grad_norm = optimiser_step(optimizer, loss, step, config.max_grad_norm)

            metrics = rollout_metrics(samples, reference_logprobs)
            setup.log(step, {**metrics, "loss": loss.item(), "grad_norm": grad_norm})
            step += 1
