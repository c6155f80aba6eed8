"""What the study of author and searcher tells: numbers per prompt, gains over SFT, intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from textgym.benchmarks.intervals import RESAMPLES, SET
from textgym.benchmarks.studies.nested import mean_interval
from textgym.benchmarks.studies.packing import packed, unpacked
from textgym.metrics.sets import FloatArray
from textgym.metrics.stats import Interval, bootstrap_ratio

if TYPE_CHECKING:
    from textgym.benchmarks.studies.tuned import Seen

SFT, SHARPER = "sft", "sharper sft"
USERS = ("searcher", "author")
GOOD, NEW, KL, SHARE = "good ideas", "new ideas", "KL", "novel share"
KEPT = (KL, *USERS, GOOD, NEW)
"""What a row keeps of every prompt: new ideas are the good ones that the corpus never tells."""
ALL, STORIES, QUESTIONS = "", ", stories", ", questions"
"""Which prompts a gain is over."""
TOLD = "told"
"""Where a summary keeps what it was made from, among its `attrs`."""


def packed_row(seen: Seen) -> dict[str, Any]:
    """Returns what the study keeps of every prompt that an agent was asked.

    An agent whose samples no policy scores has its own estimate of the KL on every prompt.
    """
    table = seen.prompts
    good = table[SET + "good_ideas"].to_numpy(float)
    share = table[SET + "novel_ideas"].to_numpy(float)
    measured = "kl_seq" in table and np.isclose(table["kl_seq"].mean(), seen.kl)
    kept = {
        KL: table["kl_seq"].to_numpy(float) if measured else np.full(len(table), seen.kl),
        **{user: table[SET + user].to_numpy(float) for user in USERS},
        GOOD: good,
        NEW: np.where(good == 0, 0, good * share),
    }
    return {name: packed(values) for name, values in kept.items()}


@dataclass(frozen=True, eq=False)
class Told:
    """What is known of one way.

    Attributes:
        algorithm, setting: its names.
        values: [S, N] of each seed and prompt, by `KEPT`; ideas are NaN of questions.
    """

    algorithm: str
    setting: str
    values: dict[str, FloatArray]

    @property
    def name(self) -> str:
        """Returns algorithm and setting as one name."""
        return f"{self.algorithm}, {self.setting}" if self.setting else self.algorithm

    def mean(self, column: str) -> Interval:
        """Returns a column's mean with its 95% interval."""
        return mean_interval(self.values[column])

    def gain(self, over: Told, column: str, kind: str = ALL) -> Interval:
        """Returns the mean difference to another way on the same prompts, and its interval.

        Args:
            over: the other.
            column: one of `KEPT`.
            kind: which prompts: `ALL`, `STORIES` or `QUESTIONS`.
        """
        return mean_interval(self._of_kind(self.values[column] - over.values[column], kind))

    def searchers_lead(self, over: Told) -> Interval:
        """Returns by how much the searcher's gain exceeds the author's."""
        lead, before = (way.values["searcher"] - way.values["author"] for way in (self, over))
        return mean_interval(lead - before)

    def novel_share(self) -> Interval:
        """Returns the share of good ideas that the corpus never tells; NaN where none is good."""
        if not np.nansum(self.values[GOOD]) > 0:
            return Interval(math.nan, math.nan, math.nan)
        new, good = self.values[NEW], self.values[GOOD]
        return bootstrap_ratio(new, good, np.random.default_rng(0), RESAMPLES)

    def _of_kind(self, values: FloatArray, kind: str) -> FloatArray:
        story = np.isfinite(self.values[GOOD])
        kept = {ALL: np.ones_like(story), STORIES: story, QUESTIONS: ~story}[kind]
        return np.where(kept, values, np.nan)


def read_ways(rows: pd.DataFrame, order: Sequence[tuple[str, str]]) -> list[Told]:
    """Returns what is known of the ways that every seed has, in order.

    Args:
        rows: the points' rows, with `seed`.
        order: algorithm and setting of the ways.
    """
    found = []
    for algorithm, setting in order:
        own = rows[(rows["algorithm"] == algorithm) & (rows["setting"] == setting)]
        if len(own) < rows["seed"].nunique():
            continue
        own = own.sort_values("seed")
        values = {name: np.stack([unpacked(text) for text in own[name]]) for name in KEPT}
        found.append(Told(algorithm, setting, values))
    return found


def start_of(ways: Sequence[Told]) -> Told:
    """Returns what tuning started from, SFT."""
    return next(way for way in ways if way.algorithm == SFT)


def summary(ways: Sequence[Told]) -> pd.DataFrame:
    """Returns one row per way: each number, and as `<name>_se` half its 95% interval.

    Gains are differences to SFT on the same prompts. `attrs[TOLD]` holds the ways.
    """
    start = start_of(ways)
    found = []
    for way in ways:
        numbers = {KL: way.mean(KL), **{user: way.mean(user) for user in USERS}}
        for kind in (ALL, STORIES, QUESTIONS):
            for user in USERS:
                numbers[f"{user}'s gain{kind}"] = way.gain(start, user, kind)
        numbers |= {GOOD: way.mean(GOOD), SHARE: way.novel_share()}
        halves = {f"{name}_se": (i.high - i.low) / 2 for name, i in numbers.items()}
        means = {name: i.estimate for name, i in numbers.items()}
        found.append({"algorithm": way.algorithm, "setting": way.setting, **means, **halves})
    table = pd.DataFrame(found)
    table.attrs[TOLD] = list(ways)
    return table
