"""Summarize: how many of a report's facts does a summary carry, and what does it cost in voices?"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textgym.rewards import load_reward, packaged_reward
from textgym.rewards.rouge import rouge_scores
from textgym.tasks.base import Task
from textgym.tasks.columns import column
from textgym.tasks.sizes import Sizes, make_sizes
from textgym.tasks.world_data import Row, WorldTask, report_text, shifted_summary_row, summary_row
from textgym.worlds.grammar import Draw
from textgym.worlds.reports import (
    CORPUS_WRITERS,
    Report,
    SummaryVerdict,
    judge_summary,
    write_summary,
)

if TYPE_CHECKING:
    from textgym.types import RewardFunction


def make_summarize(
    data: str | Path | None = None,
    data_dir: str | None = None,
    reward: str | Path | RewardFunction | None = None,
    backbone: str = "tiny",
    seed: int = 0,
    cache: str | Path | None = None,
    **sizes: int | None,
) -> Task:
    """Returns the summarize task, on the embedded world or on human-written data.

    Args:
        data: None for the world; a Hub id or folder laid out as DialogSum (columns `dialogue`,
            `summary`), such as "knkarthick/dialogsum".
        data_dir: the folder inside `data` to read.
        reward: replaces the proxy, see `textgym.rewards.load_reward`.
        backbone: the language model that a reward model for `data` starts from and whose
            tokenizer measures the prompts' windows.
        seed: what the world writes and how a reward model is trained follow from it.
        cache: where trained reward models are kept, see `textgym.cache.cache_root`.
        sizes: see `textgym.tasks.sizes.Sizes`.

    Raises:
        ConfigError: an option there is not, or outside its domain.
        DataError: a data set that cannot be read, lacks a column or has an empty split.
    """
    made = make_sizes(sizes)
    if data is None:
        return WorldSummarize(reward, seed, made)
    from textgym.tasks.data_source import load_splits, require_columns
    from textgym.tasks.dialogsum import DialogSum

    splits = load_splits(data, data_dir)
    require_columns(splits, DialogSum.needed, data)
    return DialogSum(data, splits, reward, backbone, seed, cache, made)


class WorldSummarize(WorldTask):
    """Summaries of the world's reports.

    The proxy is a Bradley-Terry reward model trained on simulated noisy comparisons (shipped);
    the gold judge counts facts. References and demonstrations come from a mix of writers that
    scores below the attainable best, so that learning from feedback can beat them (Stiennon et
    al. 2020, arXiv 2009.01325).
    """

    name: ClassVar[str] = "summarize"
    question: ClassVar[str] = (
        "Does optimising a learned reward put more of a report's facts into summaries, "
        "and how many of the writers' voices survive it?"
    )
    max_prompt_tokens = 192
    max_response_tokens = 64
    floor = 0.0
    ceiling = 1.0

    def __init__(
        self,
        reward: str | Path | RewardFunction | None = None,
        seed: int = 0,
        sizes: Sizes | None = None,
    ) -> None:
        """Takes what `make_summarize` does; nothing is written or loaded yet."""
        super().__init__(seed, sizes)
        self._reward = reward

    def write_row(self, draw: Draw) -> Row:
        """Draws a report's prompt, reference, facts (JSON) and topic."""
        return summary_row(draw)

    def write_shifted_row(self, draw: Draw) -> Row:
        """Draws the same of a longer report with an unseen topic, person or place."""
        return shifted_summary_row(draw)

    def write_completions(self, row: Row, count: int, draw: Draw) -> list[str]:
        """Returns summaries of a report by its world's writers, as often as in its corpus."""
        report = Report(report_text(row["prompt"]), json.loads(row["facts"]))
        writers = [draw.weighted(CORPUS_WRITERS) for _ in range(count)]
        return [" " + write_summary(report, writer, draw) for writer in writers]

    @cached_property
    def proxy(self) -> RewardFunction:
        """The reward function behind `reward`, loaded on first use."""
        if self._reward is not None:
            return load_reward(self._reward)
        return packaged_reward(SHIPPED_REWARD)

    def reward(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Returns the reward model's score, 0 on average for the pretrained model's summaries."""
        return self.proxy(prompts, completions, **columns)

    def gold(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
        """Returns facts covered less facts invented, over five, shrunk for length, in [0, 1]."""
        return [verdict.score for verdict in _verdicts(completions, columns)]

    def measures(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> dict[str, list[float]]:
        """Returns facts covered, facts invented and, given references, ROUGE F1."""
        verdicts = _verdicts(completions, columns)
        found = {
            "covered": [float(verdict.covered) for verdict in verdicts],
            "invented": [float(verdict.invented) for verdict in verdicts],
            "well_formed": [float(verdict.well_formed) for verdict in verdicts],
        }
        if "reference" in columns:
            found |= rouge_scores(completions, columns["reference"])
        return found

    def modes(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[str] | None:
        """Returns the writer whose voice each summary is in, "other" for none."""
        return [verdict.writer for verdict in _verdicts(completions, columns)]


SHIPPED_REWARD = "summarize_reward"
"""The folder of the packaged reward model, made by `textgym.tasks.world_reward`."""


def _verdicts(completions: list[str], columns: dict[str, list[Any]]) -> list[SummaryVerdict]:
    facts = column(columns, "facts")
    return [judge_summary(json.loads(f), text) for f, text in zip(facts, completions, strict=True)]
