"""Sensitivity: what do length limits, temperatures and reworded prompts do to an agent?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textgym.benchmarks.studies.nested import SPREAD
from textgym.benchmarks.studies.packing import packed
from textgym.benchmarks.studies.sensitivity_settings import AGENTS, TASKS
from textgym.benchmarks.studies.sensitivity_told import draw, findings, summarised
from textgym.benchmarks.studies.study import Point, Row, Study

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Sensitivity(Study):
    """The same tuned agents, asked under other limits, temperatures and wordings.

    Agents are tuned once, under the task's own limit, at temperature 1 and on its own wording;
    only the asking changes. Settings share prompts and random numbers.
    """

    question: ClassVar[str] = (
        "How far do gold and diversity depend on the limit of a response's length, on the "
        "temperature and on the wording around the same report or remark?"
    )
    seeds: ClassVar[int] = 3
    by: ClassVar[tuple[str, ...]] = ("task", "agent", "setting", "value")
    spread: ClassVar[str] = SPREAD

    def points(self, seed: int) -> list[Point]:
        """One point per agent and task, the longest first."""
        return [{"agent": a, "task": task, "seed": seed} for a in AGENTS for task in TASKS]

    def run(self, point: Point, cache: Path) -> list[Row]:
        """Tunes once and asks under every setting."""
        from textgym.benchmarks.studies.sensitivity_asked import asked

        task, agent = point["task"], point["agent"]
        return [
            {
                "task": task,
                "agent": agent,
                "setting": setting,
                "value": value,
                "gold": packed(seen.gold),
                "diversity": packed(seen.diversity),
            }
            for (setting, value), seen in asked(task, agent, point["seed"], cache).items()
        ]

    def summary(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Returns a row per task, agent and setting, with what findings need as `attrs`."""
        return summarised(rows)

    def draw(self, summary: pd.DataFrame, figure: Figure) -> None:
        """Gold and diversity against limit, temperature and wording, a row of panels per task."""
        draw(summary, figure)

    def findings(self, summary: pd.DataFrame) -> list[str]:
        """What each of the three does."""
        return findings(summary)
