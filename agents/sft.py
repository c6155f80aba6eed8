"""Supervised fine-tuning on demonstrations: picks a register out of the pretrained mixture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textgym.agents.base import Agent, Setup, require
from textgym.models.training import train_on_completions


@dataclass(frozen=True)
class SFTConfig:
    """Settings of supervised fine-tuning.

    Attributes:
        steps: optimiser steps.
        batch_size: demonstrations per step.
        lr: peak learning rate of AdamW, warmed up and decayed on a cosine.
    """

    steps: int = 150
    batch_size: int = 32
    lr: float = 5e-4

    def __post_init__(self) -> None:
        require(self.steps >= 0, f"steps must be >= 0, got {self.steps}")
        require(self.batch_size >= 1, f"batch_size must be >= 1, got {self.batch_size}")
        require(self.lr > 0, f"lr must be > 0, got {self.lr}")


class SFT(Agent):
    """Minimises the cross-entropy of the demonstrations' completions. Uses no reward budget."""

    config_class = SFTConfig
    starts_from: ClassVar[str] = "pretrained"

    def train(self, setup: Setup) -> None:
        """Fine-tunes `setup.policy`; logs `loss` (nats per token) and `grad_norm` by step."""
        train_on_completions(
            setup.policy,
            setup.task.demonstrations(),
            steps=self.config.steps,
            batch_size=self.config.batch_size,
            lr=self.config.lr,
            max_prompt_tokens=setup.task.max_prompt_tokens,
            generator=setup.streams.torch("demonstrations"),
            log=setup.log,
        )
        self.task, self.policy = setup.task, setup.policy
