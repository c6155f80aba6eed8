"""RAFT: sample, keep the best of each prompt, imitate them; again from the policy so trained.

Also known as expert iteration, and with the data from the reference throughout as rejection
sampling fine-tuning. Without a price on KL nothing holds it: best-of-K of best-of-K of ... ends on
the best response that is ever sampled. With one, responses are ranked by
`r - kl_coef log(pi / pi_ref)`, which is the same for all where `pi = pi_ref exp(r / kl_coef) / Z`:
at the regularised optimum nothing is selected and the policy stays.
Source: Dong et al. 2023, arXiv 2304.06767, algorithm 1; Anthony et al. 2017, arXiv 1705.08439.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

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
from textgym.errors import ConfigError
from textgym.functional import masked_mean, zero_variance_share
from textgym.models.training import adamw, optimiser_step
from textgym.registry import unknown_name

Source = Literal["policy", "reference"]


@dataclass(frozen=True)
class RAFTConfig:
    """Settings of RAFT.

    Attributes:
        lr: learning rate of AdamW, constant.
        source: who writes the responses: the `policy` in training, or the `reference`, whose
            best-of-K the policy then imitates.
        kl_coef: lambda, the price of a nat of KL in units of reward, where responses are ranked;
            >= 0, and 0 for the reference's, whose log-ratio is 0.
        keep: responses of a prompt that are imitated, 1 to K; at K nothing is selected.
        prompts_per_step: N, prompts per batch of fresh samples.
        samples_per_prompt: K, samples per prompt.
        epochs: optimiser steps on a batch, each on all that were kept.
        max_grad_norm: the gradient's global norm is clipped to this.
    """

    lr: float = 3e-4
    source: Source = "policy"
    kl_coef: float = 0.0
    keep: int = 1
    prompts_per_step: int = 8
    samples_per_prompt: int = 8
    epochs: int = 1
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require(self.lr > 0, f"lr must be > 0, got {self.lr}")
        if self.source not in get_args(Source):
            raise ConfigError(str(unknown_name("source", str(self.source), get_args(Source))))
        require(self.kl_coef >= 0, f"kl_coef must be >= 0, got {self.kl_coef}")
        require(
            self.source == "policy" or self.kl_coef == 0,
            "kl_coef must be 0 where source is 'reference': its samples' log-ratios are 0; got "
            f"{self.kl_coef}",
        )
        counts = (self.prompts_per_step, self.samples_per_prompt, self.epochs)
        require(
            all(count >= 1 for count in counts),
            "prompts_per_step, samples_per_prompt and epochs must be >= 1, got "
            + ", ".join(map(str, counts)),
        )
        require(
            1 <= self.keep <= self.samples_per_prompt,
            f"keep must be between 1 and samples_per_prompt, {self.samples_per_prompt}, got "
            f"{self.keep}",
        )
        require(self.max_grad_norm > 0, f"max_grad_norm must be > 0, got {self.max_grad_norm}")


class RAFT(Agent):
    """Cross-entropy of the best of each prompt's fresh samples."""

    config_class = RAFTConfig

    def train(self, setup: Setup) -> None:
        """Spends the budget in whole batches.

        Logs `rollout_metrics` of the batch (its `kl_seq` is that of `source`, 0 for the
        reference), `kept_reward` (mean reward of the kept), `zero_variance_share` (of the prompts,
        whose samples all have one reward: the first sampled is imitated for nothing), and of the
        last optimiser step `loss` (nats per token) and `grad_norm`.
        """
        config: RAFTConfig = self.config
        self.task, self.policy = setup.task, setup.policy
        k = config.samples_per_prompt
        prompts = prompt_batches(
            setup.task.prompts("train"), config.prompts_per_step, setup.streams.numpy("prompts")
        )
        sampling = setup.streams.torch("sampling")
        optimizer = adamw(setup.policy.model.parameters(), config.lr)
        writer = setup.policy if config.source == "policy" else setup.reference

        step = 0
        while setup.budget.left >= config.prompts_per_step * k:
            samples = draw_scored(setup, writer, next(prompts), k, sampling)
            assert samples.rewards is not None, "draw_scored() scores"
            with torch.no_grad():
                reference_logprobs = setup.reference.logprobs(samples)
            log_ratios = (samples.policy_logprobs - reference_logprobs).sum(1)
            kept = samples.select(
                kept_rows(samples.rewards - config.kl_coef * log_ratios, k, config.keep)
            )
            assert kept.rewards is not None, "select() keeps them"
            metrics = rollout_metrics(samples, reference_logprobs)
            metrics["kept_reward"] = kept.rewards.mean().item()
            metrics["zero_variance_share"] = zero_variance_share(samples.rewards, k)
            for _ in range(config.epochs):
                loss = -masked_mean(setup.policy.logprobs(kept), kept.response_mask)
                grad_norm = optimiser_step(optimizer, loss, step, config.max_grad_norm)
                metrics |= {"loss": loss.item(), "grad_norm": grad_norm}
            setup.log(step, metrics)
            step += 1


def kept_rows(scores: Tensor, k: int, keep: int) -> Tensor:
    """Returns the rows [N * keep] of the best of each prompt, prompt-major, the best first.

    Among equals the first sampled is kept, which is a uniform choice since samples are
    exchangeable.

    >>> kept_rows(torch.tensor([0.0, 2.0, 2.0, 5.0, 1.0, 3.0]), k=3, keep=2).tolist()
    [1, 2, 3, 5]

    Args:
        scores: [B], prompt-major.
        k: K, samples per prompt.
        keep: 1 to K.
    """
    groups = scores.reshape(-1, k)
    best = groups.sort(dim=1, descending=True, stable=True).indices[:, :keep]
    return (best + k * torch.arange(len(groups))[:, None]).flatten()
