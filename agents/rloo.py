"""RLOO: REINFORCE whose baseline is the mean reward of the prompt's other samples.

Source: Ahmadian et al. 2024, arXiv 2402.14740.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textgym.agents.conventions import Conventions
from textgym.agents.reinforce import Reinforce, ReinforceConfig


@dataclass(frozen=True)
class RLOOConfig(ReinforceConfig):
    """Settings of RLOO: those of REINFORCE, with the baseline `leave_one_out` and K to need it.

    Attributes:
        prompts_per_step: N, prompts per optimiser step.
        samples_per_prompt: K, samples per prompt, >= 2.
    """

    prompts_per_step: int = 8
    samples_per_prompt: int = 8

    defaults: ClassVar[Conventions] = Conventions(baseline="leave_one_out", aggregation="sum")


class RLOO(Reinforce):
    """One gradient step per batch of fresh samples, several to a prompt."""

    config_class = RLOOConfig
