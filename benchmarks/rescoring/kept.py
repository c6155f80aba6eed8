"""The samples that one finished cell has kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from textgym.benchmarks.cell import is_reference
from textgym.benchmarks.workbench import SAMPLES
from textgym.errors import ResultsError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from textgym.tasks.base import Task

PROMPTS = "prompts.parquet"

Columns = dict[str, list[Any]]
"""A data set's columns, [B] each."""


@dataclass(frozen=True)
class OldCell:
    """A finished cell: its folder, its name inside the results and its `result.json`."""

    folder: Path
    name: str
    result: dict[str, Any]

    @property
    def task(self) -> str:
        """The task's label."""
        return str(self.result["config"]["task"]["label"])

    @property
    def agent(self) -> str:
        """The agent's label."""
        return str(self.result["config"]["agent"]["label"])

    @property
    def k(self) -> int:
        """K, samples per prompt."""
        return int(self.result["evaluation"]["samples_per_prompt"])

    @property
    def seed(self) -> int:
        """The cell's seed."""
        return int(self.result["seed"])

    @property
    def has_samples(self) -> bool:
        """Whether its samples were kept."""
        return (self.folder / SAMPLES).is_file()

    @property
    def is_reference(self) -> bool:
        """Whether its agent is the reference policy itself, sampled as it is."""
        return is_reference(self.result["config"])

    def samples(self) -> pd.DataFrame:
        """Returns one row per response. Raises: ResultsError."""
        return read_table(self.folder / SAMPLES)

    def prompts(self) -> pd.DataFrame:
        """Returns one row per prompt. Raises: ResultsError."""
        return read_table(self.folder / PROMPTS)


def read_table(path: Path) -> pd.DataFrame:
    """Returns a parquet file's table. Raises: ResultsError when it cannot be read."""
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ResultsError(f"cannot read {path}: {error}") from error


@dataclass
class Kept:
    """The samples of one cell and what reading them takes.

    Attributes:
        table: `samples.parquet`, B = N * K rows, prompt-major.
        k: K, samples per prompt.
        task: makes the cell's task.
        columns: the data's other columns, [B] each; empty where the data are not those any more.
        tokenizer: the reference policy's; None where nobody asks for tokens.
        length: tokens that responses are cut to for diversity; None where nobody asks.
    """

    table: pd.DataFrame
    k: int
    task: Callable[[], Task]
    columns: Columns = field(default_factory=dict)
    tokenizer: PreTrainedTokenizerBase | None = None
    length: int | None = None

    @property
    def prompts(self) -> list[str]:
        """[B], each response's prompt."""
        return [str(text) for text in self.table["prompt"]]

    @property
    def responses(self) -> list[str]:
        """[B], the texts."""
        return [str(text) for text in self.table["response"]]

    @property
    def tokens(self) -> list[list[int]]:
        """[B], the responses in the reference's tokens, not yet cut."""
        assert self.tokenizer is not None, "the caller asked for tokens"
        return in_tokens(self.responses, self.tokenizer)

    def groups(self) -> list[pd.DataFrame]:
        """Returns the rows of each of the N prompts."""
        return [self.table.iloc[i : i + self.k] for i in range(0, len(self.table), self.k)]


def in_tokens(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Returns texts in a tokenizer's tokens, whatever wrote them."""
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return ids
