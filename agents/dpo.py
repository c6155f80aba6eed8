"""Direct preference optimisation: no reward model, no value model, no samples of its own.

The reference answers each prompt K times, the task's reward labels pairs of answers, and a loss on
the log-ratios of the two moves the policy: DPO's, with reverse KL or another f-divergence as the
price, or IPO's. Where the labels follow Bradley-Terry, DPO's optimum is that of the regularised
reward; the usual best against worst is a comparison whose outcome is certain, which no finite
log-ratio explains (with `label_smoothing`, one does). The data are offline:
they come from the reference throughout, in fresh batches, so that the budget buys as many scored
completions as any other agent's. Only differences are trained: the probability of both answers may
fall in favour of texts the reference never gives (Razin et al. 2024, arXiv 2410.08847).
Sources: Rafailov et al. 2023, arXiv 2305.18290, eq. 7; Azar et al. 2023, arXiv 2310.12036, eq. 17;
Wang et al. 2023, arXiv 2309.16240; Mitchell 2023, "A note on DPO with noisy preferences and
relationship to IPO".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from textgym.agents.base import Agent, Setup, draw_scored, prompt_batches, require
from textgym.agents.conventions import ConventionalConfig, IPONormalisation
from textgym.errors import ConfigError
from textgym.functional import dpo_loss, implicit_reward, ipo_loss
from textgym.functional.preference import DIVERGENCES
from textgym.models.training import adamw, optimiser_step
from textgym.registry import unknown_name
from textgym.types import Rollout

if TYPE_CHECKING:
    from datasets import Dataset

WORDS = {
    "loss": ("dpo", "ipo"),
    "divergence": DIVERGENCES,
    "labels": ("best", "bradley_terry"),
}


@dataclass(frozen=True)
class DPOConfig(ConventionalConfig):
    """Settings of DPO.

    Attributes:
        lr: learning rate of AdamW, constant; smaller than for agents that sample anew: nothing in
            data of the reference's tells a policy that it has left them.
        beta: the price of a nat of KL in units of reward (the reward that explains the
            preferences); > 0. Of another divergence, the price of a unit of it.
        loss: `dpo`, the logistic loss, or `ipo`, the squared distance to a log-ratio of
            1 / (2 beta).
        label_smoothing: the share of labels taken for wrong, in [0, 1/2); above 0 DPO is cDPO.
        divergence: what DPO's beta prices: `reverse_kl`, `forward_kl`, `js` or `alpha`; see
            `functional.implicit_reward`.
        alpha: of the divergence `alpha`, in (0, 1]: towards 0 reverse KL, at 1 forward KL.
        labels: `best`, each prompt's best response against its worst; or `bradley_terry`, disjoint
            pairs in which a is chosen over b with probability sigmoid(r_a - r_b).
        ipo_normalisation: whether IPO takes a response's log-ratio as the `mean` or the `sum` over
            its tokens; None: the preset's. DPO always sums.
        prompts_per_step: N, prompts per batch of fresh samples.
        samples_per_prompt: K, samples per prompt, at least 2.
        epochs: optimiser steps on a batch, each on all of its pairs.
        max_grad_norm: the gradient's global norm is clipped to this.
    """

    lr: float = 1e-4
    beta: float = 0.1
    loss: Literal["dpo", "ipo"] = "dpo"
    label_smoothing: float = 0.0
    divergence: Literal["reverse_kl", "forward_kl", "js", "alpha"] = "reverse_kl"
    alpha: float = 0.5
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
        for name, known in WORDS.items():
            if (word := getattr(self, name)) not in known:
                raise ConfigError(str(unknown_name(name, str(word), known)))
        require(
            0 <= self.label_smoothing < 0.5,
            f"label_smoothing must be in [0, 0.5), got {self.label_smoothing}",
        )
        require(0 < self.alpha <= 1, f"alpha must be in (0, 1], got {self.alpha}")
        require(
            self.loss == "dpo" or (self.label_smoothing == 0 and self.divergence == "reverse_kl"),
            "label_smoothing and divergence are DPO's: loss 'ipo' has neither",
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
        require(self.max_grad_norm > 0, f"max_grad_norm must be > 0, got {self.max_grad_norm}")


class DPO(Agent):
    """Gradient steps on pairs of the reference's own responses."""

    config_class = DPOConfig

    def train(self, setup: Setup) -> None:
        """Spends the budget in whole batches; a batch without a pair is logged and passed over.

        Logs of each batch `pairs` (how many) and what `draw` says of the data, and of its last
        optimiser step `loss`, `grad_norm`, `margin` (mean of chosen minus rejected log-ratio,
        nats; for IPO normalised as its loss takes it), `accuracy` (share of pairs with a positive
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

        step = 0
        while setup.budget.left >= batch:
            samples, reference_logprobs, metrics = self.draw(setup, next(prompts), sampling)
            assert samples.rewards is not None, "draw() scores"
            if config.labels == "best":
                chosen, rejected = preference_pairs(samples.rewards, config.samples_per_prompt)
            else:
                chosen, rejected = bradley_terry_pairs(
                    samples.rewards, config.samples_per_prompt, annotator
                )
            metrics["pairs"] = float(len(chosen))
            rows = torch.cat([chosen, rejected])
            pairs, reference_logprobs = samples.select(rows), reference_logprobs[rows]
            for _ in range(config.epochs if len(chosen) else 0):
                logprobs = setup.policy.logprobs(pairs)
                loss, of_step = pair_loss(config, logprobs, reference_logprobs, pairs)
                grad_norm = optimiser_step(optimizer, loss, step, config.max_grad_norm)
                metrics |= {"loss": loss.item(), "grad_norm": grad_norm} | of_step
            setup.log(step, metrics)
            step += 1

    def draw(
        self, setup: Setup, rows: Dataset, generator: torch.Generator
    ) -> tuple[Rollout, Tensor, dict[str, float]]:
        """Returns a scored batch, the reference's log-probabilities [B, T], and what to log of it.

        Here the reference itself samples. It logs `reference_reward`, the mean reward of the data.
        """
        samples = draw_scored(
            setup, setup.reference, rows, self.config.samples_per_prompt, generator
        )
        assert samples.rewards is not None, "draw_scored() scores"
        return samples, samples.policy_logprobs, {"reference_reward": samples.rewards.mean().item()}


def pair_loss(
    config: DPOConfig, logprobs: Tensor, reference_logprobs: Tensor, pairs: Rollout
) -> tuple[Tensor, dict[str, float]]:
    """Returns the loss of a step, a scalar, and its metrics.

    Args:
        config: which loss.
        logprobs: [2 M, T] of the chosen responses and then of the rejected, 0 on pads, nats.
        reference_logprobs: [2 M, T] under the reference.
        pairs: the responses.
    """
    log_ratios = (logprobs - reference_logprobs).sum(1)
    if config.loss == "ipo" and config.resolved().ipo_normalisation == "mean":
        log_ratios = log_ratios / pairs.response_mask.sum(1)
    better, worse = log_ratios.chunk(2)
    if config.loss == "ipo":
        loss = ipo_loss(better, worse, config.beta)
    else:
        implicit = [implicit_reward(x, config.divergence, config.alpha) for x in (better, worse)]
        loss = dpo_loss(implicit[0], implicit[1], config.beta, config.label_smoothing)
    with torch.no_grad():
        chosen, rejected = logprobs.sum(1).chunk(2)
        margins = better - worse
        return loss, {
            "margin": margins.mean().item(),
            "accuracy": (margins > 0).float().mean().item(),
            "chosen_logprob": chosen.mean().item(),
            "rejected_logprob": rejected.mean().item(),
        }


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
