"""The rows every comparison needs: the reference, the pretrained model, and the human texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from textgym.agents.base import Agent, Setup
from textgym.errors import DataError, PluginError
from textgym.rollout import encode_texts
from textgym.types import Rollout, Sampling

if TYPE_CHECKING:
    from datasets import Dataset

    from textgym.models.policy import Policy


@dataclass(frozen=True)
class ReferenceConfig:
    """How the reference is sampled.

    Attributes:
        temperature: logits are divided by this. Below 1 it is the control that answers whether an
            agent did more than sharpen the reference.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose probability reaches p; 1 keeps all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        self.sampling()

    def sampling(self) -> Sampling:
        """Returns the same as a Sampling record. Raises: ConfigError outside the domains."""
        return Sampling(self.temperature, self.top_k, self.top_p)


class Reference(Agent):
    """Samples from the frozen reference policy and learns nothing."""

    config_class = ReferenceConfig

    def train(self, setup: Setup) -> None:
        """Takes the reference as it is."""
        self.task, self.policy = setup.task, setup.reference
        self.sampling = self.config.sampling()


class Pretrained(Agent):
    """Samples from the pretrained model, before any instruction tuning."""

    config_class = ReferenceConfig
    starts_from: ClassVar[str] = "pretrained"

    def train(self, setup: Setup) -> None:
        """Takes the pretrained model as it is."""
        self.task, self.policy = setup.task, setup.policy
        self.sampling = self.config.sampling()


class Human(Agent):
    """Gives the data set's own `reference` texts: the human baseline.

    There is one text per prompt where the column holds strings, so asking for K samples repeats
    it; where the column holds lists, they are cycled through. No policy scores them, so that they
    have no KL.
    """

    def train(self, setup: Setup) -> None:
        """Keeps the reference policy's tokenizer, to count tokens as for everyone."""
        self.task = setup.task
        self._reference: Policy = setup.reference

    def sample(self, rows: Dataset, samples_per_prompt: int, generator: torch.Generator) -> Rollout:
        """Returns the references as completions. Raises: DataError without such a column."""
        if self.task is None:
            raise PluginError("Human.sample called before train")
        if "reference" not in rows.column_names:
            raise DataError(f"task {self.task.name!r} has no human texts: no column 'reference'")
        completions = []
        for reference in rows["reference"]:
            texts = [reference] if isinstance(reference, str) else list(reference)
            completions += [texts[i % len(texts)] for i in range(samples_per_prompt)]
        return encode_texts(
            self._reference, self.task, rows, completions, samples_per_prompt=samples_per_prompt
        )
