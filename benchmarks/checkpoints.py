"""What an agent is worth while it trains, measured from outside as it is at the end.

A checkpoint asks the agent the first prompts of its evaluation, with fewer samples each. The table
of all of them tells what reward was bought at which KL, and what diversity it cost
(`textgym.benchmarks.trade_offs`).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from textgym.benchmarks.intervals import DIVERSITY, SET
from textgym.benchmarks.measure import HEADLINE
from textgym.benchmarks.sample_numbers import take_numbers

if TYPE_CHECKING:
    from datasets import Dataset

    from textgym.agents.base import Agent
    from textgym.models.policy import Policy
    from textgym.seeding import Streams
    from textgym.tasks.base import Task

CHECKPOINTS = "checkpoints"
"""Name of the table in a cell's directory."""
CHECKPOINT = "checkpoint/"
"""Prefix of what was seen at a checkpoint in the training curve, beside what the agent logs."""
KEPT = ("reward", "gold", "length", "kl_seq", "duplicate_rate")
"""Columns of a checkpoint where the task has them,"""
KEPT_DIVERSITY = ("ead", "self_bleu", "embedding", "mode_entropy")
"""and those of diversity, one of each kind: hundreds of cells keep their checkpoints. The task's
numbers of sets are kept too, of as many samples as a checkpoint has."""


def is_due(rows: int) -> bool:
    """Returns whether to look after so many logged rows: 2, 4, 8, 16, ...

    KL moves most in the first steps, and nobody knows how many there will be.

    >>> [rows for rows in range(20) if is_due(rows)]
    [2, 4, 8, 16]
    """
    return rows >= 2 and math.log2(rows).is_integer()


@dataclass
class Checkpoints:
    """Looks at one agent on one cell's prompts.

    Attributes:
        agent: what is sampled from, as it stands.
        task: scores the samples; what it is asked here is not counted as training.
        reference: KL is measured against it.
        rows: the prompts that are asked.
        samples_per_prompt: K.
        streams: each checkpoint draws from a stream of its own, so that looking changes nothing.
        start: the reference's own numbers on these prompts.
        common_length: tokens that responses are cut to for diversity.
        seconds: wall time spent looking.
        tables: what was seen, by step.
    """

    agent: Agent
    task: Task
    reference: Policy
    rows: Dataset
    samples_per_prompt: int
    streams: Streams
    start: pd.DataFrame
    common_length: int
    seconds: float = 0.0
    tables: dict[int, pd.DataFrame] = field(default_factory=dict)

    def look(self, step: int, completions: int) -> dict[str, float]:
        """Samples and measures; returns the means over prompts.

        Args:
            step: rows logged so far; a second look at a step takes the place of the first.
            completions: budget used so far.
        """
        began = time.perf_counter()
        k, generator = self.samples_per_prompt, self.streams.torch(f"checkpoint-{step}")
        samples = self.agent.sample(self.rows, k, generator)
        numbers = take_numbers(
            samples, self.task, self.agent.policy, self.reference, self.common_length
        )
        table = pd.DataFrame(numbers.per_prompt)
        self.tables[step] = _labelled(table, step, completions)
        self.seconds += time.perf_counter() - began
        names = (*KEPT, DIVERSITY + HEADLINE, *_of_sets(table))
        shown = [n for n in names if n in table and table[n].notna().any()]
        return {name: float(table[name].mean()) for name in shown}

    def frame(self, from_reference: bool) -> pd.DataFrame:
        """Returns one row per checkpoint and prompt, in the order of training.

        Args:
            from_reference: whether training began at the reference, which is step 0 then.
        """
        tables = dict(self.tables)
        if from_reference:
            tables[0] = _labelled(self.start, 0, 0)
        return pd.concat([tables[step] for step in sorted(tables)], ignore_index=True)


def _labelled(table: pd.DataFrame, step: int, completions: int) -> pd.DataFrame:
    labels = {"step": step, "completions": completions, "prompt_index": range(len(table))}
    return pd.DataFrame(labels).join(kept(table))


def kept(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the columns that checkpoints keep, in single precision."""
    names = (*KEPT, *(DIVERSITY + kind for kind in KEPT_DIVERSITY), *_of_sets(table))
    return table[[name for name in names if name in table]].astype("float32")


def _of_sets(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table if str(name).startswith(SET)]
