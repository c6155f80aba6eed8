"""Proximal policy optimisation over tokens, with a value model and a price on the KL.

Source: Schulman et al. 2017, arXiv 1707.06347; for language models Ziegler et al. 2019,
arXiv 1909.08593, and Stiennon et al. 2020, arXiv 2009.01325.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from textgym.agents.base import (
    Agent,
    Setup,
    collect,
    prompt_batches,
    require,
    require_on_policy,
    rollout_metrics,
)
from textgym.agents.conventions import (
    Conventions,
    PolicyGradientConventions,
    RewardToken,
    Whitening,
    eos_adjusted,
    kl_loss,
    kl_penalty,
    value_rollout,
    whiten,
)
from textgym.agents.diversity import (
    DiversityOptions,
    next_entropy_coef,
    with_bonus,
    with_entropy,
)
from textgym.functional import (
    adaptive_kl_step,
    gae,
    ppo_policy_loss,
    ppo_value_loss,
    rewards_on_last_token,
)
from textgym.models.training import adamw, optimiser_step
from textgym.models.value_head import ValueModel
from textgym.types import Rollout


@dataclass(frozen=True)
class PPOConfig(PolicyGradientConventions, DiversityOptions):
    """Settings of PPO.

    Attributes:
        lr: learning rate of AdamW for the policy, constant.
        value_lr: learning rate of AdamW for the value model.
        kl_coef: beta, the price of a nat of KL in units of reward; >= 0.
        kl_target: nats per response that an adaptive coefficient steers toward; None keeps it.
        kl_horizon: completions over which the adaptive coefficient moves by its own size.
        clip: importance ratios are clipped to 1 -+ this.
        value_clip: value predictions are clipped to the old ones -+ this; None: not at all.
        gamma: discount per token.
        gae_lambda: GAE's lambda; 1 is the plain return, smaller trusts the value model. The field's
            0.95 needs a better value model than a thousand short responses make: on the embedded
            tasks it reaches less gold for more KL (`textgym bench --agents
            ppo,ppo@gae_lambda=0.95`).
        prompts_per_step: N, prompts per batch of fresh samples.
        samples_per_prompt: K, samples per prompt.
        epochs: passes over a batch.
        minibatches: gradient steps per pass.
        max_grad_norm: each gradient's global norm is clipped to this.
        value_warmup: first batches that train the value model alone, so that the first policy
            steps are not taken on noise.
        whitening: of the advantages: `none`, `masked`, `minibatch` or `unmasked`; None: the
            preset's. It fixes their scale, and so what `kl_coef` buys where the KL is in the loss.
        reward_token: where the task's reward sits: on the `last` token of the response or on the
            `first_pad` after it; None: the preset's.
    """

    lr: float = 3e-4
    value_lr: float = 1e-3
    kl_coef: float = 0.05
    kl_target: float | None = None
    kl_horizon: float = 2000.0
    clip: float = 0.2
    value_clip: float | None = None
    gamma: float = 1.0
    gae_lambda: float = 1.0
    prompts_per_step: int = 64
    samples_per_prompt: int = 1
    epochs: int = 2
    minibatches: int = 1
    max_grad_norm: float = 1.0
    value_warmup: int = 1
    whitening: Whitening | None = None
    reward_token: RewardToken | None = None

    defaults: ClassVar[Conventions] = Conventions(whitening="masked", aggregation="token")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.lr > 0 and self.value_lr > 0, "lr and value_lr must be > 0")
        require(self.kl_coef >= 0, f"kl_coef must be >= 0, got {self.kl_coef}")
        require(
            self.kl_target is None or self.kl_target > 0,
            f"kl_target must be > 0 or none, got {self.kl_target}",
        )
        require(self.clip > 0, f"clip must be > 0, got {self.clip}")
        require(0 <= self.gamma <= 1, f"gamma must be in [0, 1], got {self.gamma}")
        require(0 <= self.gae_lambda <= 1, f"gae_lambda must be in [0, 1], got {self.gae_lambda}")
        counts = (self.prompts_per_step, self.samples_per_prompt, self.epochs, self.minibatches)
        require(
            all(count >= 1 for count in counts),
            "prompts_per_step, samples_per_prompt, epochs and minibatches must be >= 1, got "
            + ", ".join(map(str, counts)),
        )
        require(
            self.minibatches <= self.prompts_per_step * self.samples_per_prompt,
            f"minibatches must not exceed the batch, got {self.minibatches}",
        )


class PPO(Agent):
    """Clipped policy steps on advantages from GAE over a separate value model."""

    config_class = PPOConfig

    def train(self, setup: Setup) -> None:
        """Spends the budget in whole batches.

        Logs `rollout_metrics`, `kl_coef`, `explained_variance`, `policy_loss`, `value_loss`,
        `grad_norm`, `clip_fraction`, `approx_kl` (means over a batch's minibatches), `kl_loss`
        where the KL is in the loss, `first_ratio_deviation` (the first minibatch's, of fresh
        samples), and what `with_bonus` and `with_entropy` log.

        Raises:
            TrainingError: a loss is not finite, or the importance ratio at the first minibatch is
                not 1 (in bfloat16, not near 1): then sampler and scorer disagree.
        """
        config: PPOConfig = self.config
        conventions = config.resolved()
        self.task, self.policy = setup.task, setup.policy
        batch = config.prompts_per_step * config.samples_per_prompt
        prompts = prompt_batches(
            setup.task.prompts("train"), config.prompts_per_step, setup.streams.numpy("prompts")
        )
        sampling = setup.streams.torch("sampling")
        shuffling = setup.streams.torch("minibatches")
        value_model = ValueModel(setup.policy, setup.streams.torch("initialisation"))
        policy_optimizer = adamw(setup.policy.model.parameters(), config.lr)
        value_optimizer = adamw(value_model.parameters(), config.value_lr)
        kl_coef, entropy_coef = config.kl_coef, config.entropy_coef
        limit = setup.task.max_response_tokens
        by_minibatch = conventions.whitening == "minibatch"

        step = 0
        while setup.budget.left >= batch:
            rows = next(prompts)
            samples, reference_logprobs = collect(setup, rows, config.samples_per_prompt, sampling)
            metrics = rollout_metrics(samples, reference_logprobs)
            samples, bonuses = with_bonus(setup, config, samples)
            mask = samples.response_mask
            visited = value_rollout(samples, limit, conventions)
            with torch.set_grad_enabled(config.minibatches == 1):
                values = value_model(visited)  # where the first step is on all rows, its pass too
            old_values = values.detach()
            advantages, returns = _advantages(
                config, kl_coef, samples, reference_logprobs, visited, old_values
            )
            if not by_minibatch:
                advantages = whiten(advantages, mask, conventions)

            logs: list[dict[str, float]] = []
            for epoch in range(config.epochs):
                for i, part in enumerate(_minibatches(batch, config.minibatches, shuffling)):
                    states = visited.select(part)
                    passed = epoch == 0 and config.minibatches == 1
                    value_loss, value_log = ppo_value_loss(
                        values[part] if passed else value_model(states),
                        old_values[part],
                        returns[part],
                        states.response_mask,
                        config.value_clip,
                    )
                    optimiser_step(value_optimizer, value_loss, step, config.max_grad_norm)
                    logs.append({"value_loss": value_loss.item(), **value_log})
                    if step < config.value_warmup:
                        continue
                    some, credit = samples.select(part), advantages[part]
                    if by_minibatch:
                        credit = whiten(credit, mask[part], conventions)
                    logprobs = setup.policy.logprobs(some)
                    policy_loss, policy_log = ppo_policy_loss(
                        logprobs,
                        some.policy_logprobs,
                        credit,
                        mask[part],
                        config.clip,
                        conventions.aggregation,
                        limit,
                    )
                    if epoch == 0 and i == 0:
                        deviation = policy_log["ratio_deviation"]
                        require_on_policy(deviation, step, setup.policy.precision)
                        metrics["first_ratio_deviation"] = deviation
                    if conventions.kl_placement == "loss":
                        kl = kl_loss(setup, some, logprobs, reference_logprobs[part], conventions)
                        logs[-1]["kl_loss"] = kl.item()
                        policy_loss = policy_loss + kl_coef * kl
                    policy_loss, entropies = with_entropy(
                        policy_loss, entropy_coef, setup.policy, some
                    )
                    grad_norm = optimiser_step(
                        policy_optimizer, policy_loss, step, config.max_grad_norm
                    )
                    logs[-1] |= {"policy_loss": policy_loss.item(), "grad_norm": grad_norm}
                    logs[-1] |= policy_log | entropies

            metrics |= {"kl_coef": kl_coef, **bonuses, **_mean(logs)}
            setup.log(step, metrics)
            entropy_coef = next_entropy_coef(config, entropy_coef, metrics, batch)
            if config.kl_target is not None:
                kl_coef = adaptive_kl_step(
                    kl_coef, metrics["kl_seq"], config.kl_target, batch, config.kl_horizon
                )
            step += 1


def _advantages(
    config: PPOConfig,
    kl_coef: float,
    samples: Rollout,
    reference_logprobs: Tensor,
    visited: Rollout,
    values: Tensor,
) -> tuple[Tensor, Tensor]:
    """Returns advantages [B, T] of the response tokens, not whitened, and the values' targets.

    Values and targets are of the states visited: [B, T], or [B, T + 1] with the first pad.
    """
    conventions, mask = config.resolved(), samples.response_mask
    rewards = eos_adjusted(samples, conventions)
    penalty = kl_penalty(samples, reference_logprobs, kl_coef, conventions)
    penalty = pad(penalty, (0, values.shape[1] - mask.shape[1]))
    reach = visited.response_mask
    shaped = rewards_on_last_token(rewards, reach) - penalty
    advantages, returns = gae(shaped, values, reach, config.gamma, config.gae_lambda)
    return advantages[:, : mask.shape[1]].masked_fill(~mask, 0), returns


def _minibatches(size: int, parts: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yields the rows 0 ... size - 1 in random order, cut into `parts`."""
    yield from torch.randperm(size, generator=generator).tensor_split(parts)


def _mean(logs: list[dict[str, float]]) -> dict[str, float]:
    """Returns each key's mean over the dictionaries that have it."""
    keys = {key: None for log in logs for key in log}
    return {
        key: sum(log[key] for log in logs if key in log) / sum(key in log for log in logs)
        for key in keys
    }
