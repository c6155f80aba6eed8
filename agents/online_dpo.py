"""Online DPO: DPO's loop on pairs that the policy in training samples itself.

What is compared is what the policy now says, so that mass which drifts to texts the reference
never gives is seen, scored and pushed back; the reference only prices. With Bradley-Terry labels
the optimum is DPO's own, whoever samples.
Source: Guo et al. 2024, arXiv 2402.04792, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from textgym.agents.base import Setup, collect, rollout_metrics
from textgym.agents.dpo import DPO, DPOConfig
from textgym.types import Rollout

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class OnlineDPOConfig(DPOConfig):
    """Settings of online DPO, DPO's.

    Attributes:
        lr: learning rate of AdamW, constant.
        epochs: optimiser steps on a batch; from the second on its samples are no longer quite the
            policy's own.
    """

    lr: float = 3e-4
    epochs: int = 1


class OnlineDPO(DPO):
    """Gradient steps on pairs of the policy's own responses."""

    config_class = OnlineDPOConfig

    def draw(
        self, setup: Setup, rows: Dataset, generator: torch.Generator
    ) -> tuple[Rollout, Tensor, dict[str, float]]:
        """Returns a scored batch, the reference's log-probabilities [B, T], and what to log of it.

        The policy samples. It logs `rollout_metrics`.
        """
        samples, reference_logprobs = collect(
            setup, rows, self.config.samples_per_prompt, generator
        )
        return samples, reference_logprobs, rollout_metrics(samples, reference_logprobs)
