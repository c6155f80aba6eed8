"""Direct preference optimisation: no reward model, no value model, no samples of its own.

The reference answers each prompt K times, the task's reward labels pairs of answers, and a loss on
the log-ratios of the two moves the policy: DPO's, or IPO's. Where the labels follow Bradley-Terry,
DPO's optimum is that of the regularised reward; the usual best against worst is a comparison whose
outcome is certain, which no finite log-ratio explains. The data are offline:
they come from the reference throughout, in fresh batches, so that the budget buys as many scored
completions as any other agent's. Only differences are trained: the probability of both answers may
fall in favour of texts the reference never gives (Razin et al. 2024, arXiv 2410.08847).
Sources: Rafailov et al. 2023, arXiv 2305.18290, eq. 7; Azar et al. 2023, arXiv 2310.12036, eq. 17.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from textgym.agents.base import Agent, Setup, draw_scored, prompt_batches, require
from textgym.agents.conventions import ConventionalConfig, IPONormalisation
from textgym.errors import ConfigError
from textgym.functional import dpo_loss, ipo_loss
from textgym.models.training import adamw, optimiser_step
from textgym.registry import unknown_name

LOSSES = {"dpo": dpo_loss, "ipo": ipo_loss}


@dataclass(frozen=True)
class DPOConfig(ConventionalConfig):
    """Settings of DPO.

    Attributes:
        lr: learning rate of AdamW, constant.
        beta: the price of a nat of KL in units of reward (the reward that explains the
            preferences); > 0.
        loss: `dpo`, the logistic loss, or `ipo`, the squared distance to a log-ratio of
            1 / (2 beta).
        labels: `best`, each prompt's best response against its worst; or `bradley_terry`, disjoint
            pairs in which a is chosen over b with probability sigmoid(r_a - r_b).
        ipo_normalisation: whether IPO takes a response's log-ratio as the `mean` or the `sum` over
            its tokens; None: the preset's. DPO always sums.
        prompts_per_step: N, prompts per batch of fresh samples.
        samples_per_prompt: K, samples per prompt, at least 2.
        epochs: optimiser steps on a batch, each on all of its pairs.
        max_grad_norm: the gradient's global norm is clipped to this.
    """

    lr: float = 3e-4
    beta: float = 0.1
    loss: Literal["dpo", "ipo"] = "dpo"
    labels: Literal["best", "bradley_terry"] = "best"
    ipo_normalisation: IPONormalisation | None = None
    prompts_per_step: int = 16
    samples_per_prompt: int = 4
    epochs: int = 2
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.lr > 0, f"lr must be > 0, got {self.lr}")
        require(self.beta > 0, f"beta must be > 0, got {self.beta}")
        if self.loss not in LOSSES:
            raise ConfigError(str(unknown_name("loss", str(self.loss), LOSSES)))
        if self.labels not in ("best", "bradley_terry"):
            raise ConfigError(
                str(unknown_name("labels", str(self.labels), ("best", "bradley_terry")))
            )
        require(
            self.prompts_per_step >= 1 and self.epochs >= 1,
            f"prompts_per_step and epochs must be >= 1, got {self.prompts_per_step} and "
            f"{self.epochs}",
        )
        require(
            self.samples_per_prompt >= 2,
            f"a pair needs samples_per_prompt >= 2, got {self.samples_per_prompt}",
        )


class DPO(Agent):
    """Gradient steps on pairs of the reference's own responses."""

    config_class = DPOConfig

    def train(self, setup: Setup) -> None:
        """Spends the budget in whole batches; a batch without a pair is logged and passed over.

        Logs of each batch `pairs` (how many) and `reference_reward` (mean reward of the data), and
        of its last optimiser step `loss`, `grad_norm`, `margin` (mean of chosen minus rejected
        log-ratio, nats, as the loss takes them), `accuracy` (share of pairs with a positive
        margin), `chosen_logprob` and `rejected_logprob` (nats per response; both may fall while
        the margin grows).
        """
        config: DPOConfig = self.config
        self.task, self.policy = setup.task, setup.policy
        batch = config.prompts_per_step * config.samples_per_prompt
        prompts = prompt_batches(
            setup.task.prompts("train"), config.prompts_per_step, setup.streams.numpy("prompts")
        )
        sampling = setup.streams.torch("sampling")
        annotator = setup.streams.torch("annotators")
        optimizer = adamw(setup.policy.model.parameters(), config.lr)
        by_mean = config.loss == "ipo" and config.resolved().ipo_normalisation == "mean"

        step = 0
        while setup.budget.left >= batch:
            samples = draw_scored(
                setup, setup.reference, next(prompts), config.samples_per_prompt, sampling
            )
            assert samples.rewards is not None, "draw_scored() scores"
            if config.labels == "best":
                chosen, rejected = preference_pairs(samples.rewards, config.samples_per_prompt)
            else:
                chosen, rejected = bradley_terry_pairs(
                    samples.rewards, config.samples_per_prompt, annotator
                )
            pairs = samples.select(torch.cat([chosen, rejected]))
            metrics = {
                "pairs": float(len(chosen)),
                "reference_reward": samples.rewards.mean().item(),
            }
            for _ in range(config.epochs if len(chosen) else 0):
                logprobs = setup.policy.logprobs(pairs)
                # The reference sampled these tokens: their log-probabilities are its own.
                log_ratios = (logprobs - pairs.policy_logprobs).sum(1)
                if by_mean:
                    log_ratios = log_ratios / pairs.response_mask.sum(1)
                better, worse = log_ratios.chunk(2)
                loss = LOSSES[config.loss](better, worse, config.beta)
                grad_norm = optimiser_step(optimizer, loss, step, config.max_grad_norm)
                metrics |= {"loss": loss.item(), "grad_norm": grad_norm}
                metrics |= _preference_metrics(better - worse, logprobs)
            setup.log(step, metrics)
            step += 1


def preference_pairs(rewards: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Returns the rows of the best and the worst response of each prompt, [M] each, M <= N.

    Prompts whose K rewards are all equal prefer nothing and are dropped; among equals the first
    sampled stands for all, which is a uniform choice since samples are exchangeable.

    >>> preference_pairs(torch.tensor([0.0, 2.0, 2.0, 5.0, 5.0, 5.0]), k=3)
    (tensor([1]), tensor([0]))

    Args:
        rewards: [B], prompt-major.
        k: K, samples per prompt.
    """
    groups = rewards.reshape(-1, k)
    first = k * torch.arange(len(groups))
    best, worst = groups.argmax(dim=1), groups.argmin(dim=1)
    decided = groups.amax(dim=1) > groups.amin(dim=1)
    return (first + best)[decided], (first + worst)[decided]


def bradley_terry_pairs(
    rewards: Tensor, k: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Returns the rows of the chosen and the rejected of N * (K // 2) disjoint pairs.

    Of each prompt the responses 0 and 1, 2 and 3, ... are compared; a beats b with probability
    `sigmoid(r_a - r_b)`.

    Args:
        rewards: [B], prompt-major; in units of log-odds.
        k: K, samples per prompt; the last of an odd number is left out.
        generator: the annotator's.

    Source: Bradley and Terry 1952; Christiano et al. 2017, arXiv 1706.03741, eq. 1.
    """
    rows = torch.arange(len(rewards)).reshape(-1, k)[:, : k // 2 * 2].reshape(-1, 2)
    first, second = rows.unbind(dim=1)
    chance = torch.sigmoid(rewards[first] - rewards[second])
    wins = torch.rand(len(rows), generator=generator) < chance
    return torch.where(wins, first, second), torch.where(wins, second, first)


def _preference_metrics(margins: Tensor, logprobs: Tensor) -> dict[str, float]:
    """Returns the metrics of a step from [M] margins and [2 M, T] log-probabilities."""
    with torch.no_grad():
        chosen, rejected = logprobs.sum(1).chunk(2)
        return {
            "margin": margins.mean().item(),
            "accuracy": (margins > 0).float().mean().item(),
            "chosen_logprob": chosen.mean().item(),
            "rejected_logprob": rejected.mean().item(),
        }
