"""A2C: the advantage actor-critic, which is PPO that takes each batch once.

Where a batch makes one step every importance ratio is 1, so that the clip never bites and the
gradient of PPO's loss is `-A grad log pi`.
Sources: Mnih et al. 2016, arXiv 1602.01783; Huang et al. 2022, arXiv 2205.09123.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textgym.agents.base import require
from textgym.agents.conventions import Conventions
from textgym.agents.ppo import PPO, PPOConfig


@dataclass(frozen=True)
class A2CConfig(PPOConfig):
    """Settings of A2C: those of PPO, whose `clip` has no effect.

    Attributes:
        epochs: passes over a batch, 1.
        minibatches: gradient steps per pass, 1.
    """

    epochs: int = 1

    # Advantages stay in units of reward, as in the original.
    defaults: ClassVar[Conventions] = Conventions(whitening="none", aggregation="token")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.epochs == self.minibatches == 1,
            "A2C takes a batch once: epochs and minibatches must be 1, got "
            f"{self.epochs} and {self.minibatches}; see ppo",
        )


class A2C(PPO):
    """One step per batch of fresh samples, on advantages from GAE over a separate value model."""

    config_class = A2CConfig
