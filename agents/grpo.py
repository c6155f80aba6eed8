"""Group relative policy optimisation: PPO's clipped steps without a value model.

A response's advantage is its reward compared with those of the other responses to the same prompt,
one number for all its tokens, and the KL to the reference is in the loss (k3), not in the reward.
Source: Shao et al. 2024, arXiv 2402.03300, section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

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
    Aggregation,
    Conventions,
    EOSRule,
    KLEstimator,
    KLPlacement,
    eos_adjusted,
    kl_loss,
)
from textgym.agents.diversity import (
    DiversityOptions,
    next_entropy_coef,
    with_bonus,
    with_entropy,
)
from textgym.errors import ConfigError
from textgym.functional import (
    dr_grpo_advantages,
    grpo_advantages,
    ppo_policy_loss,
    zero_variance_share,
)
from textgym.models.training import adamw, optimiser_step
from textgym.registry import unknown_name
from textgym.types import Rollout

Scale = Literal["group", "none"]


class Credit(NamedTuple):
    """What a batch of B responses is trained on.

    Attributes:
        advantages: [B], or [B, T] where tokens differ.
        used: int64, the rows to train on.
        log: what to report of them.
    """

    advantages: Tensor
    used: Tensor
    log: dict[str, float]


# The command line reads `none` as None.
ADVANTAGES = {"group": grpo_advantages, "none": dr_grpo_advantages, None: dr_grpo_advantages}


@dataclass(frozen=True)
class ClippedConfig(DiversityOptions):
    """Settings of every agent that makes PPO's clipped steps without a value model.

    Attributes:
        lr: learning rate of AdamW, constant.
        kl_coef: beta, the price of a nat of KL; >= 0.
        clip: importance ratios are clipped from below to 1 - this.
        clip_high: and from above to 1 + this; None: as `clip`.
        prompts_per_step: N, prompts per batch of fresh samples.
        samples_per_prompt: K, samples per prompt.
        epochs: mu, passes over a batch.
        minibatches: gradient steps per pass.
        max_grad_norm: the gradient's global norm is clipped to this.
    """

    lr: float = 3e-4
    kl_coef: float = 0.04
    clip: float = 0.2
    clip_high: float | None = None
    prompts_per_step: int = 8
    samples_per_prompt: int = 8
    epochs: int = 1
    minibatches: int = 1
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.lr > 0, f"lr must be > 0, got {self.lr}")
        require(self.kl_coef >= 0, f"kl_coef must be >= 0, got {self.kl_coef}")
        require(0 < self.clip < 1, f"clip must be in (0, 1), got {self.clip}")
        require(
            self.clip_high is None or self.clip_high > 0,
            f"clip_high must be > 0 or none, got {self.clip_high}",
        )
        require(
            self.samples_per_prompt >= 1,
            f"samples_per_prompt must be >= 1, got {self.samples_per_prompt}",
        )
        counts = (self.prompts_per_step, self.epochs, self.minibatches)
        require(
            all(count >= 1 for count in counts),
            "prompts_per_step, epochs and minibatches must be >= 1, got "
            + ", ".join(map(str, counts)),
        )
        require(
            self.minibatches <= self.prompts_per_step * self.samples_per_prompt,
            f"minibatches must not exceed the batch, got {self.minibatches}",
        )
        require(self.max_grad_norm > 0, f"max_grad_norm must be > 0, got {self.max_grad_norm}")


@dataclass(frozen=True)
class GRPOConfig(ClippedConfig):
    """Settings of GRPO.

    Attributes:
        kl_coef: beta, the weight of the KL in the loss, advantage per nat; >= 0. With `scale` at
            `group` a nat so costs beta standard deviations of the reward within a prompt.
        scale: what the centred rewards are divided by: `group` (the standard deviation within the
            prompt) or `none` (Dr. GRPO, which divides the loss by a constant as well: aggregation
            `constant`).
        samples_per_prompt: K, samples per prompt, >= 2.
        drop_zero_variance: whether prompts whose samples all have one reward are left out of the
            batch that is trained on, which shrinks what its means are divided by; nothing is
            sampled in their place.
        aggregation: of the policy's loss and of the KL: `sequence` (the mean over responses of
            per-token means, as in the paper), `token`, `constant` or `sum`; None: the preset's.
        kl_ratio_correction: whether k3 is multiplied by pi / pi_old, which makes its gradient that
            of KL(pi || pi_ref); None: the preset's. The paper has it not, and so follows
            KL(pi_ref || pi); TRL has it, as DeepSeek-V3.2 (arXiv 2512.02556).
        eos_rule: for responses cut by the length limit: `none`, `subtract`, `scale`, `override`.
        eos_penalty: what the rule takes away, >= 0: a reward, for `scale` a share.
        kl_placement: of the class: the KL is in the loss, whatever the preset.
        kl_estimator: of the class: k3.
    """

    scale: Scale | None = "group"
    drop_zero_variance: bool = False
    aggregation: Aggregation | None = None
    kl_ratio_correction: bool | None = None
    eos_rule: EOSRule | None = None
    eos_penalty: float | None = None

    kl_placement: ClassVar[KLPlacement] = "loss"
    kl_estimator: ClassVar[KLEstimator] = "k3"
    # The correction is checked against the KL's place and kind, so all three are named.
    defaults: ClassVar[Conventions] = Conventions(
        kl_placement="loss", kl_estimator="k3", kl_ratio_correction=True, aggregation="sequence"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale not in ADVANTAGES:
            raise ConfigError(str(unknown_name("scale", str(self.scale), get_args(Scale))))
        require(
            self.samples_per_prompt >= 2,
            f"samples_per_prompt must be >= 2 to compare, got {self.samples_per_prompt}",
        )


class GRPO(Agent):
    """Clipped policy steps on rewards compared within each prompt's samples.

    Agents that make the same steps on other advantages override `advantages`.
    """

    config_class: ClassVar[type[ClippedConfig]] = GRPOConfig

    def train(self, setup: Setup) -> None:
        """Spends the budget in whole batches.

        Logs `rollout_metrics`, what `advantages`, `with_bonus` and `with_entropy` log, and as
        means over a batch's minibatches `policy_loss`, `kl_loss` (where the KL is in the loss),
        `grad_norm`, `clip_fraction`, `approx_kl`, `ratio_mean` and `ratio_deviation`; of the first
        minibatch `first_ratio_deviation`. A batch of which nothing is used makes no step and logs
        none of these.

        Raises:
            TrainingError: the loss is not finite, or the importance ratio at the first minibatch
                is not 1: then sampler and scorer disagree.
        """
        config: ClippedConfig = self.config
        self.task, self.policy = setup.task, setup.policy
        batch = config.prompts_per_step * config.samples_per_prompt
        prompts = prompt_batches(
            setup.task.prompts("train"), config.prompts_per_step, setup.streams.numpy("prompts")
        )
        sampling = setup.streams.torch("sampling")
        shuffling = setup.streams.torch("minibatches")
        optimizer = adamw(setup.policy.model.parameters(), config.lr)
        entropy_coef = config.entropy_coef

        step = 0
        while setup.budget.left >= batch:
            rows = next(prompts)
            samples, reference_logprobs = collect(setup, rows, config.samples_per_prompt, sampling)
            metrics = rollout_metrics(samples, reference_logprobs)
            samples, bonuses = with_bonus(setup, config, samples)
            credit = self.advantages(samples, reference_logprobs)

            logs: list[dict[str, float]] = []
            for _ in range(config.epochs):
                order = credit.used[torch.randperm(len(credit.used), generator=shuffling)]
                for part in order.tensor_split(config.minibatches):
                    if len(part) == 0:
                        continue
                    some, reference = samples.select(part), reference_logprobs[part]
                    loss, log = _loss(setup, config, some, reference, credit.advantages[part])
                    if not logs:
                        deviation = log["ratio_deviation"]
                        require_on_policy(deviation, step, setup.policy.precision)
                        metrics["first_ratio_deviation"] = deviation
                    loss, entropies = with_entropy(loss, entropy_coef, setup.policy, some)
                    grad_norm = optimiser_step(optimizer, loss, step, config.max_grad_norm)
                    logs.append({**log, **entropies, "grad_norm": grad_norm})

            means = {name: fmean(log[name] for log in logs) for name in (logs[0] if logs else ())}
            metrics |= {**credit.log, **bonuses, **means}
            setup.log(step, metrics)
            entropy_coef = next_entropy_coef(config, entropy_coef, metrics, batch)
            step += 1

    def advantages(self, samples: Rollout, reference_logprobs: Tensor) -> Credit:
        """Returns what each response of a batch is worth beside the others to its prompt.

        Logs `zero_variance_share` (of the prompts, whose samples all have one reward: they teach
        nothing but the KL).

        Args:
            samples: B scored responses.
            reference_logprobs: [B, T] under the reference, nats.
        """
        config: GRPOConfig = self.config
        k = samples.samples_per_prompt
        rewards = eos_adjusted(samples, config.resolved())
        advantages = ADVANTAGES[config.scale](rewards, k)
        log = {"zero_variance_share": zero_variance_share(rewards, k)}
        used = torch.arange(len(samples))
        if config.drop_zero_variance:
            groups = rewards.reshape(-1, k)
            used = used[(groups != groups[:, :1]).any(dim=1).repeat_interleave(k)]
        return Credit(advantages, used, log)


def _loss(
    setup: Setup,
    config: ClippedConfig,
    samples: Rollout,
    reference_logprobs: Tensor,
    advantages: Tensor,
) -> tuple[Tensor, dict[str, float]]:
    """Returns the clipped policy loss, plus beta times the KL if it belongs here, and what to log.

    Args:
        setup: holds the policy in training.
        config: the agent's.
        samples: B responses, with the log-probabilities they were sampled at.
        reference_logprobs: [B, T] under the reference, nats.
        advantages: [B] or [B, T].

    Source: Shao et al. 2024, eq. 3 and 4; the higher upper clip, Yu et al. 2025, arXiv 2503.14476.
    """
    conventions = config.resolved()
    logprobs = setup.policy.logprobs(samples)
    loss, log = ppo_policy_loss(
        logprobs,
        samples.policy_logprobs,
        advantages,
        samples.response_mask,
        config.clip,
        conventions.aggregation,
        setup.task.max_response_tokens,
        clip_high=config.clip_high,
    )
    log["policy_loss"] = loss.item()
    if conventions.kl_placement == "loss":
        kl = kl_loss(setup, samples, logprobs, reference_logprobs, conventions)
        log["kl_loss"] = kl.item()
        loss = loss + config.kl_coef * kl
    return loss, log
