"""Rows of the embedded tasks, written by the worlds: endless, seeded, the splits disjoint."""

from __future__ import annotations

import json
import zlib
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from textgym.errors import ConfigError, DataError
from textgym.seeding import Streams
from textgym.tasks.base import OOD, Task, require_split
from textgym.tasks.sizes import Sizes
from textgym.worlds import forum, reports
from textgym.worlds.corpus import reply_prompt, summary_prompt
from textgym.worlds.grammar import Draw

if TYPE_CHECKING:
    from datasets import Dataset

PARTS = {"validation": (0,), "test": (1,), "demonstrations": (2, 3), "train": (4, 5, 6, 7)}
"""Eighths of the world's texts, by checksum: no report or remark is in two parts."""

Row = dict[str, Any]


def world_rows(write: Callable[[Draw], Row], part: str, count: int, seed: int) -> Dataset:
    """Returns `count` rows of a part, the same for the same seed.

    Args:
        write: draws one row; its `prompt` decides the part it belongs to.
        part: one of `PARTS`, or `OOD`, whose texts are in none of them whatever their checksum.
        count: how many rows.
        seed: each part draws from a stream of its own.
    """
    from datasets import Dataset

    draw = Draw(Streams(seed).numpy(f"world/{part}"))
    rows: list[Row] = []
    while len(rows) < count:
        row = write(draw)
        if part == OOD or zlib.crc32(row["prompt"].encode()) % 8 in PARTS[part]:
            rows.append(row)
    return Dataset.from_list(rows)


def summary_row(draw: Draw) -> Row:
    """Returns a report's prompt, reference summary, facts (JSON) and topic."""
    return _summary_row(reports.sample_report(draw), draw)


def shifted_summary_row(draw: Draw) -> Row:
    """Returns a `summary_row` of a longer report with an unseen topic, person or place."""
    return _summary_row(reports.sample_shifted_report(draw), draw)


def _summary_row(report: reports.Report, draw: Draw) -> Row:
    writer = draw.weighted(reports.DEMONSTRATION_WRITERS)
    return {
        "prompt": summary_prompt(report.text),
        "reference": " " + reports.write_summary(report, writer, draw),
        "facts": json.dumps(report.facts),
        "topic": report.facts["event"],
    }


def report_text(prompt: str) -> str:
    """Returns the report inside a summary's prompt."""
    head, tail = summary_prompt("\0").split("\0")
    return prompt.removeprefix(head).removesuffix(tail)


def reply_row(draw: Draw) -> Row:
    """Returns a remark's prompt, reference reply, thing, place and tone."""
    return _reply_row(forum.sample_remark(draw), draw)


def shifted_reply_row(draw: Draw) -> Row:
    """Returns a `reply_row` of a harsher remark, on an unseen thing."""
    return _reply_row(forum.sample_shifted_remark(draw), draw)


def _reply_row(remark: forum.Remark, draw: Draw) -> Row:
    voice = draw.weighted(forum.DEMONSTRATION_VOICES[remark.tone])
    return {
        "prompt": reply_prompt(remark.text),
        "reference": " " + forum.write_reply(remark, voice, draw),
        "thing": remark.thing,
        "where": remark.where,
        "hostile": remark.hostile,
    }


class WorldTask(Task):
    """What the embedded tasks share: splits and demonstrations written by a world.

    Attributes:
        counts: how many rows each part has unless `sizes` says otherwise.
    """

    counts: ClassVar[dict[str, int]] = {
        "train": 2048,
        "validation": 256,
        "test": 256,
        OOD: 256,
        "demonstrations": 2048,
    }

    def __init__(self, seed: int = 0, sizes: Sizes | None = None) -> None:
        """Writes nothing yet; `seed` decides what will be written, `sizes` how much."""
        self.seed = seed
        self.sizes = sizes or Sizes()
        self.max_prompt_tokens = self.sizes.max_prompt_tokens or self.max_prompt_tokens
        self.max_response_tokens = self.sizes.max_response_tokens or self.max_response_tokens
        self._parts: dict[str, Dataset] = {}

    @abstractmethod
    def write_row(self, draw: Draw) -> Row:
        """Draws one row: `prompt`, `reference` and what the judges need."""

    def write_shifted_row(self, draw: Draw) -> Row:
        """Draws one row of the out-of-distribution split, with the same columns.

        Its prompt must be one that neither `write_row` nor the pretraining corpus can write.

        Raises: DataError where a task has no such split.
        """
        raise DataError(f"task {self.name!r} has no out-of-distribution split")

    def write_completions(self, row: Row, count: int, draw: Draw) -> list[str]:
        """Returns completions of a row by writers of the world, as often as in its corpus.

        A reward model is taught by comparing them, see `textgym.tasks.world_reward`.

        Raises: ConfigError where a task has none.
        """
        raise ConfigError(f"no world writes completions of task {self.name!r}")

    def worth(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Returns what completions are worth to whoever compares them, in [0, 1]; gold if no other.

        A reward model is taught by these comparisons, see `textgym.tasks.world_reward`.
        """
        return self.gold(prompts, completions, **columns)

    def prompts(self, split: str) -> Dataset:
        """Returns the split's rows. Raises: DataError for an unknown split."""
        require_split(split, ood=True)
        return self._part(split)

    def demonstrations(self) -> Dataset:
        """Returns `prompt` and `completion`, of prompts that no split holds."""
        rows = self._part("demonstrations").select_columns(["prompt", "reference"])
        return rows.rename_column("reference", "completion")

    def _part(self, part: str) -> Dataset:
        if part not in self._parts:
            size = "test" if part == OOD else part
            write = self.write_shifted_row if part == OOD else self.write_row
            count = getattr(self.sizes, size) or self.counts[part]
            self._parts[part] = world_rows(write, part, count, self.seed)
        return self._parts[part]
