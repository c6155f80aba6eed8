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
"""What every task has."""
OOD = "ood"
"""A second test split, out of distribution: what training never meets. Some tasks have one."""


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

        Raises: DataError for an unknown split, `OOD` where the task has none among them.
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
        """Returns the task's further per-completion numbers by name (ROUGE, toxicity, ...).

        NaN stands for a completion that a number does not apply to.
        """
        return {}

    def set_measures(
        self,
        prompts: list[str],
        completions: list[str],
        samples_per_prompt: int,
        **columns: list[Any],
    ) -> dict[str, list[float]]:
        """Returns numbers of each prompt's completions together, [N] by name.

        Args:
            prompts: B = N * K, prompt-major.
            completions: B.
            samples_per_prompt: K.
            columns: the data set's other columns, B values each.

        Returns:
            NaN stands for a prompt that a number does not apply to.
        """
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


def require_split(split: str, *, ood: bool = False) -> None:
    """Raises DataError unless `split` is one of train, validation, test, or of ood if there is one.

    Args:
        split: what is asked for.
        ood: whether there is an out-of-distribution split.
    """
    known = (*SPLITS, OOD) if ood else SPLITS
    if split == OOD and not ood:
        raise DataError(f"no out-of-distribution split here; expected one of {', '.join(known)}")
    if split not in known:
        raise DataError(f"unknown split {split!r}; expected one of {', '.join(known)}")


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
