"""Rows of the embedded tasks, written by the worlds: endless, seeded, the splits disjoint."""

from __future__ import annotations

import json
import zlib
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from textgym.seeding import Streams
from textgym.tasks.base import Task, require_split
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
        part: one of `PARTS`.
        count: how many rows.
        seed: each part draws from a stream of its own.
    """
    from datasets import Dataset

    draw = Draw(Streams(seed).numpy(f"world/{part}"))
    rows: list[Row] = []
    while len(rows) < count:
        row = write(draw)
        if zlib.crc32(row["prompt"].encode()) % 8 in PARTS[part]:
            rows.append(row)
    return Dataset.from_list(rows)


def summary_row(draw: Draw) -> Row:
    """Returns a report's prompt, reference summary, facts (JSON) and topic."""
    report = reports.sample_report(draw)
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
    remark = forum.sample_remark(draw)
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

    def prompts(self, split: str) -> Dataset:
        """Returns the split's rows. Raises: DataError for an unknown split."""
        require_split(split)
        return self._part(split)

    def demonstrations(self) -> Dataset:
        """Returns `prompt` and `completion`, of prompts that no split holds."""
        rows = self._part("demonstrations").select_columns(["prompt", "reference"])
        return rows.rename_column("reference", "completion")

    def _part(self, part: str) -> Dataset:
        if part not in self._parts:
            count = getattr(self.sizes, part) or self.counts[part]
            self._parts[part] = world_rows(self.write_row, part, count, self.seed)
        return self._parts[part]
