"""What the harness notes down of an agent's training, from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from textgym.tasks.base import Task, checked_rewards

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from textgym.benchmarks.tracking import Tracker

Look = Callable[[int], dict[str, float]]
"""Looks at an agent in training, given how many rows it has logged; returns what it saw, if it
looked at all."""


class CountedTask(Task):
    """A task that counts the completions whose reward an agent asks for."""

    def __init__(self, inner: Task) -> None:
        self.inner = inner
        self.scored = 0
        self.eval_samples_per_prompt = inner.eval_samples_per_prompt
        self.has_gold, self.floor, self.ceiling = inner.has_gold, inner.floor, inner.ceiling

    def __getattr__(self, name: str) -> Any:
        """Looks up the inner task's name, limits and whatever else it has."""
        if name == "inner":  # before __init__, as when unpickling
            raise AttributeError(name)
        return getattr(self.inner, name)

    def prompts(self, split: str) -> Dataset:
        """Returns the inner task's prompts."""
        return self.inner.prompts(split)

    def demonstrations(self) -> Dataset:
        """Returns the inner task's demonstrations."""
        return self.inner.demonstrations()

    def reward(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Returns the inner task's checked reward and counts the completions."""
        self.scored += len(completions)
        values = self.inner.reward(prompts, completions, **columns)
        return checked_rewards(values, len(completions), self.inner.name)

    def gold(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
        """Returns the inner task's gold scores."""
        return self.inner.gold(prompts, completions, **columns)

    def measures(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> dict[str, list[float]]:
        """Returns the inner task's measures."""
        return self.inner.measures(prompts, completions, **columns)

    def set_measures(
        self,
        prompts: list[str],
        completions: list[str],
        samples_per_prompt: int,
        **columns: list[Any],
    ) -> dict[str, list[float]]:
        """Returns the inner task's measures of each prompt's completions together."""
        return self.inner.set_measures(prompts, completions, samples_per_prompt, **columns)

    def modes(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[str] | None:
        """Returns the inner task's modes."""
        return self.inner.modes(prompts, completions, **columns)

    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Returns the inner task's tokenizer."""
        return self.inner.tokenizer()

    def language_model(self) -> Path | None:
        """Returns the inner task's language model."""
        return self.inner.language_model()


@dataclass
class Curve:
    """What an agent logs while it trains, one row per call.

    Attributes:
        rows: what was logged.
        look: called on every row; what it saw joins the row.
        tracker: is told of every row.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    look: Look | None = None
    tracker: Tracker | None = None

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        """Keeps one row; a Log as agents expect it."""
        row = {"step": step, **{k: float(v) for k, v in metrics.items()}}
        if self.look is not None:
            row |= self.look(len(self.rows) + 1)
        self.rows.append(row)
        if self.tracker is not None:
            self.tracker.log(step, {name: row[name] for name in row if name != "step"})

    def frame(self) -> pd.DataFrame:
        """Returns the rows as a table with at least the column `step`."""
        return pd.DataFrame(self.rows, columns=None if self.rows else ["step"])
