"""What a task is: prompts with splits, a proxy reward, a gold judge, references, metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from textgym.errors import DataError, RewardError

if TYPE_CHECKING:
    from pathlib import Path

    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from textgym.seeding import Streams

SPLITS = ("train", "validation", "test")


class Task(ABC):
    """A question to a policy, with the data to ask it and the judges to score the answers.

    A task knows no agent and no policy. Data sets are in TRL's formats. Everything heavy (reward
    models, classifiers) is built on first use.

    Attributes:
        name: the task's name in the registry.
        question: the scientific question the task asks, one sentence.
        max_prompt_tokens: window kept for the prompt, tokens.
        max_response_tokens: length limit of a response, tokens.
        eval_samples_per_prompt: K that its evaluation uses (RealToxicityPrompts asks for 25).
        has_gold: whether `gold` judges (otherwise it raises).
        floor, ceiling: gold scores of a trivial and of the best attainable response, where known.
    """

    name: ClassVar[str]
    question: ClassVar[str]
    max_prompt_tokens: int
    max_response_tokens: int
    eval_samples_per_prompt: int = 8
    has_gold: bool = True
    floor: float | None = None
    ceiling: float | None = None

    @abstractmethod
    def prompts(self, split: str) -> Dataset:
        """Returns the split's rows: a `prompt` column and whatever the judges need.

        A `reference` column, where there is one, holds the human completion.
        """

    @abstractmethod
    def demonstrations(self) -> Dataset:
        """Returns training rows `prompt`, `completion` for supervised fine-tuning."""

    @abstractmethod
    def reward(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """The proxy reward that agents train on."""

    def gold(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
        """The gold score in [0, 1] that agents are judged by."""
        raise RewardError(f"task {self.name!r} has no gold judge for this data")

    def measures(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> dict[str, list[float]]:
        """Returns the task's further per-completion numbers by name (ROUGE, toxicity, ...)."""
        return {}

    def modes(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[str] | None:
        """Returns the voice each completion is written in, or None where no one can tell."""
        return None

    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Returns the tokenizer of the task's own language, or None where any will do."""
        return None

    def language_model(self) -> Path | None:
        """Returns the folder of the language model that the task brings, made on first use.

        None where the task can be asked of any.
        """
        return None

    def for_run(self, streams: Streams) -> Task:
        """Returns the task as one training run meets it: a random reward draws from `streams`."""
        return self


def require_split(split: str) -> None:
    """Raises DataError unless `split` is one of train, validation, test."""
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")


def checked_rewards(values: list[float], expected: int, name: str) -> list[float]:
    """Returns `values` as floats, or raises RewardError for a wrong length, NaN or infinity."""
    import math

    values = [float(v) for v in values]
    if len(values) != expected:
        raise RewardError(f"reward {name!r} returned {len(values)} values for {expected} texts")
    bad = next((i for i, v in enumerate(values) if not math.isfinite(v)), None)
    if bad is not None:
        raise RewardError(f"reward {name!r} returned {values[bad]} for completion {bad}")
    return values
