"""Author against searcher: the same prompts under two users, before and after tuning."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textgym.benchmarks.studies import author_shown as shown
from textgym.benchmarks.studies import author_told as told
from textgym.benchmarks.studies.nested import SPREAD
from textgym.benchmarks.studies.study import Point, Row, Study
from textgym.benchmarks.studies.tuned import tune_and_measure
from textgym.benchmarks.suite import Options, Spec
from textgym.tasks.author import SEEN

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

TASK = Spec("author")
PROMPTS = 64
BUDGET = 768
"""Completions that a policy is trained on."""


@dataclass(frozen=True)
class Way:
    """An algorithm at one price of KL, or a control.

    Attributes:
        algorithm: what the table calls it.
        setting: the price, or what else varies.
        agent: the registered name.
        options: its own.
    """

    algorithm: str
    setting: str
    agent: str
    options: Options = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Returns what its points' files are called by."""
        return re.sub(r"[^a-z0-9.]+", "-", f"{self.algorithm} {self.setting}".strip().lower())


def _priced(
    algorithm: str, agent: str, option: str, prices: tuple[float, ...], **others: float
) -> tuple[Way, ...]:
    name = {"kl_coef": "KL price"}.get(option, option)
    return tuple(
        Way(algorithm, f"{name} {price:g}", agent, {option: price, **others}) for price in prices
    )


WAYS = (
    Way(told.SFT, "", "sft"),
    Way("pretrained", "", "pretrained"),
    *_priced(told.SHARPER, "reference", "temperature", (0.7, 0.5)),
    *_priced("best of n", "best_of_n", "n", (2, 4)),
    *_priced("dpo", "dpo", "beta", (0.1, 0.02), lr=1e-4),
    *_priced("gdc", "gdc", "beta", (0.5, 0.1), lr=3e-4),
    *_priced("grpo", "grpo", "kl_coef", (0.1, 0.02), lr=3.75e-4),
    *_priced("rloo", "rloo", "kl_coef", (0.05, 0.01), lr=3e-4),
    *_priced("rloo + novelty", "rloo", "kl_coef", (0.05, 0.01), lr=3e-4, novelty_coef=0.5),
    *_priced("ppo", "ppo", "kl_coef", (0.05, 0.01), lr=3e-4),
)
"""What is compared, the quickest to train first."""


class AuthorSearcher(Study):
    """Two users of every algorithm: one who sees one completion, one who sees ten."""

    question: ClassVar[str] = (
        "The searcher sees one completion and wants it good; the author sees ten and wants the "
        "best and the different. For whom does tuning help?"
    )
    by: ClassVar[tuple[str, ...]] = ("algorithm", "setting")
    seeds: ClassVar[int] = 2
    spread: ClassVar[str] = SPREAD

    def points(self, seed: int) -> list[Point]:
        """One point per way."""
        return [{"way": way.key, "seed": seed} for way in reversed(WAYS)]

    def run(self, point: Point, cache: Path) -> list[Row]:
        """Tunes, then asks the test prompts ten times each."""
        way = next(way for way in WAYS if way.key == point["way"])
        seen = tune_and_measure(
            TASK,
            Spec(way.agent, way.options),
            point["seed"],
            cache,
            prompts=PROMPTS,
            samples=SEEN,
            budget=BUDGET,
        )["test"]
        return [{"algorithm": way.algorithm, "setting": way.setting, **told.packed_row(seen)}]

    def summary(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Returns each way's numbers and, as `<name>_se`, half their 95% intervals."""
        return told.summary(told.read_ways(rows, [(w.algorithm, w.setting) for w in WAYS]))

    def draw(self, summary: pd.DataFrame, figure: Figure) -> None:
        """Both users against each other, and against KL."""
        shown.draw(summary, figure)

    def findings(self, summary: pd.DataFrame) -> list[str]:
        """For whom tuning helped, and what it did to the ideas."""
        return shown.findings(summary)
