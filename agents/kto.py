"""Kahneman-Tversky optimisation: single responses marked good or bad, no pairs.

The reference answers each prompt K times, the task's reward marks each answer, and a value that
saturates both ways, as people's do for gains and losses, is raised: a good answer's log-ratio above
a reference point z0, a bad one's below. z0 stands for the KL spent so far; it is estimated from
answers paired with another prompt of the batch, and only while the policy is likelier than the
reference to give those.
What is likelier good than bad goes up, and by how much likelier is no matter: the loss is linear in
the sigmoid, so that of answers worth 51 and 49 only the first is left. beta sets how soon pushing
stops, it is no price of KL.
Source: Ethayarajh et al. 2024, arXiv 2402.01306, eq. 8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from textgym.agents.base import Agent, Setup, draw_scored, prompt_batches, require
from textgym.errors import ConfigError
from textgym.functional import kto_loss, kto_reference_point
from textgym.models.training import adamw, optimiser_step
from textgym.registry import unknown_name
from textgym.types import Rollout

LABELS = ("mean", "bradley_terry")


@dataclass(frozen=True)
class KTOConfig:
    """Settings of KTO.

    Attributes:
        lr: learning rate of AdamW, constant.
        beta: how fast the value of a log-ratio saturates, per nat; > 0.
        labels: who is good. `mean`: whose reward is above the mean of the prompt's others, and bad
            who is below; or `bradley_terry`: with probability sigmoid of that difference.
        desirable_weight: of the good responses' loss, >= 0.
        undesirable_weight: of the bad ones', >= 0; not both 0.
        prompts_per_step: N, prompts per batch of fresh samples, at least 2.
        samples_per_prompt: K, samples per prompt, at least 2.
        epochs: optimiser steps on a batch, each on all of its marked responses.
        max_grad_norm: the gradient's global norm is clipped to this.
    """

    lr: float = 3e-4
    beta: float = 0.5
    labels: Literal["mean", "bradley_terry"] = "mean"
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    prompts_per_step: int = 16
    samples_per_prompt: int = 4
    epochs: int = 2
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require(self.lr > 0, f"lr must be > 0, got {self.lr}")
        require(self.beta > 0, f"beta must be > 0, got {self.beta}")
        if self.labels not in LABELS:
            raise ConfigError(str(unknown_name("labels", str(self.labels), LABELS)))
        weights = (self.desirable_weight, self.undesirable_weight)
        require(
            min(weights) >= 0 and max(weights) > 0,
            f"weights must be >= 0 and not both 0, got {weights[0]} and {weights[1]}",
        )
        require(
            self.prompts_per_step >= 2,
            "z0 needs answers to another prompt: prompts_per_step must be >= 2, got "
            f"{self.prompts_per_step}",
        )
        require(
            self.samples_per_prompt >= 2,
            f"answers are judged beside others: samples_per_prompt must be >= 2, got "
            f"{self.samples_per_prompt}",
        )
        require(self.epochs >= 1, f"epochs must be >= 1, got {self.epochs}")
        require(self.max_grad_norm > 0, f"max_grad_norm must be > 0, got {self.max_grad_norm}")


class KTO(Agent):
    """Gradient steps on marked responses of the reference."""

    config_class = KTOConfig

    def train(self, setup: Setup) -> None:
        """Spends the budget in whole batches; one without a mark is logged and passed over.

        Logs of each batch `desirable` and `undesirable` (how many) and `reference_reward` (mean
        reward of the data), and of its last optimiser step `loss`, `grad_norm` and the metrics of
        `marked_loss`.
        """
        config: KTOConfig = self.config
        self.task, self.policy = setup.task, setup.policy
        batch = config.prompts_per_step * config.samples_per_prompt
        prompts = prompt_batches(
            setup.task.prompts("train"), config.prompts_per_step, setup.streams.numpy("prompts")
        )
        sampling = setup.streams.torch("sampling")
        annotator = setup.streams.torch("annotators")
        optimizer = adamw(setup.policy.model.parameters(), config.lr)

        step = 0
        while setup.budget.left >= batch:
            samples = draw_scored(
                setup, setup.reference, next(prompts), config.samples_per_prompt, sampling
            )
            assert samples.rewards is not None, "draw_scored() scores"
            rows, desirable = marks(
                samples.rewards,
                config.samples_per_prompt,
                annotator if config.labels == "bradley_terry" else None,
            )
            metrics = {
                "desirable": float(desirable.sum()),
                "undesirable": float((~desirable).sum()),
                "reference_reward": samples.rewards.mean().item(),
            }
            marked = samples.select(rows)
            others = mismatched(samples)
            with torch.no_grad():
                others_reference = setup.reference.logprobs(others)
            for _ in range(config.epochs if len(rows) else 0):
                with torch.no_grad():
                    elsewhere = (setup.policy.logprobs(others) - others_reference).sum(1)
                loss, of_step = marked_loss(
                    config,
                    setup.policy.logprobs(marked),
                    # The reference sampled these tokens: their log-probabilities are its own.
                    marked.policy_logprobs,
                    desirable,
                    elsewhere,
                )
                grad_norm = optimiser_step(optimizer, loss, step, config.max_grad_norm)
                metrics |= {"loss": loss.item(), "grad_norm": grad_norm} | of_step
            setup.log(step, metrics)
            step += 1


def marks(
    rewards: Tensor, k: int, annotator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Returns the rows of the marked responses, [M], and which of them are good, [M] bool.

    Each response is held against the mean reward of the K - 1 others of its prompt.

    >>> marks(torch.tensor([0.0, 2.0, 1.0, 5.0, 5.0, 5.0]), k=3)
    (tensor([0, 1]), tensor([False,  True]))

    Args:
        rewards: [B], prompt-major; for an annotator in units of log-odds.
        k: K, samples per prompt, >= 2.
        annotator: draws every mark, good with probability sigmoid of the difference. None: good
            above the mean and bad below; at the mean, to rounding, there is no mark.
    """
    # In double precision, where the mean of equal float32 rewards is exactly theirs.
    groups = rewards.double().reshape(-1, k)
    gap = (groups - groups.mean(dim=1, keepdim=True)) * (k / (k - 1))
    if annotator is not None:
        good = torch.rand(gap.shape, generator=annotator, dtype=torch.double) < torch.sigmoid(gap)
        return torch.arange(len(rewards)), good.flatten()
    marked = gap.abs() > 1e-6 * (groups.amax(1, keepdim=True) - groups.amin(1, keepdim=True))
    rows = marked.flatten().nonzero()[:, 0]
    return rows, gap.flatten()[rows] > 0


def mismatched(samples: Rollout) -> Rollout:
    """Returns each response behind the next prompt of the batch, the last behind the first."""
    k = samples.samples_per_prompt
    return replace(
        samples,
        prompts=samples.prompts[k:] + samples.prompts[:k],
        prompt_ids=samples.prompt_ids.roll(-k, 0),
        prompt_mask=samples.prompt_mask.roll(-k, 0),
    )


def marked_loss(
    config: KTOConfig,
    logprobs: Tensor,
    reference_logprobs: Tensor,
    desirable: Tensor,
    elsewhere: Tensor,
) -> tuple[Tensor, dict[str, float]]:
    """Returns the loss of a step, a scalar, and its metrics.

    These are `z0` (nats), `margin` (mean log-ratio of the good minus that of the bad, nats),
    `accuracy` (share of responses whose log-ratio is on the right side of z0), and of each kind,
    where there is one, `desirable_log_ratio`, `undesirable_log_ratio`, `chosen_logprob` (of the
    good) and `rejected_logprob` (of the bad), nats per response.

    Args:
        config: beta and weights.
        logprobs: [M, T] of the marked responses, 0 on pads, nats.
        reference_logprobs: [M, T] under the reference.
        desirable: [M] bool.
        elsewhere: [B] log-ratios of responses behind another prompt, nats.
    """
    log_ratios = (logprobs - reference_logprobs).sum(1)
    z0 = kto_reference_point(elsewhere)
    loss = kto_loss(
        log_ratios, desirable, z0, config.beta, config.desirable_weight, config.undesirable_weight
    )
    metrics = {"z0": z0.item()}
    with torch.no_grad():
        metrics["accuracy"] = ((log_ratios > z0) == desirable).float().mean().item()
        kinds = {("desirable", "chosen"): desirable, ("undesirable", "rejected"): ~desirable}
        for (kind, name), mask in kinds.items():
            if mask.any():
                metrics[f"{kind}_log_ratio"] = log_ratios[mask].mean().item()
                metrics[f"{name}_logprob"] = logprobs[mask].sum(1).mean().item()
    if desirable.any() and not desirable.all():
        metrics["margin"] = metrics["desirable_log_ratio"] - metrics["undesirable_log_ratio"]
    return loss, metrics
