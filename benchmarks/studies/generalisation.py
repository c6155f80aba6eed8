"""Generalisation: what is left of gold, KL and diversity on prompts unlike those trained on?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textgym.benchmarks.studies.generalisation_numbers import NUMBERS, Estimates, estimates
from textgym.benchmarks.studies.generalisation_told import draw, findings
from textgym.benchmarks.studies.nested import SPREAD, half_width
from textgym.benchmarks.studies.packing import packed
from textgym.benchmarks.studies.study import Point, Row, Study
from textgym.benchmarks.suite import Spec, load_suite
from textgym.tasks.base import OOD

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

TASKS = ("summarize", "toxicity", "assistant", "author", "sentiment", "caveats")
AGENTS = {
    "dpo": "dpo",
    "rloo": "rloo",
    "best of 8": "best of 8",
    "sft at 0.7": "sft, temperature 0.7",
    "sft": "sft",
}
"""What each is called in the suite `core`, whose settings are taken; the longest first."""
SPLITS = ("test", OOD)


class Generalisation(Study):
    """Every world task's agents, on prompts like those they were tuned on and on shifted ones."""

    question: ClassVar[str] = (
        "Supervised fine-tuning, reinforcement learning or best-of-n: which keeps its gold on "
        "prompts unlike those it was tuned on, and does tuning that loses diversity generalise "
        "better (Kirk et al. 2023, arXiv 2310.06452)?"
    )
    seeds: ClassVar[int] = 2
    by: ClassVar[tuple[str, ...]] = ("task", "agent")
    spread: ClassVar[str] = SPREAD

    def points(self, seed: int) -> list[Point]:
        """One point per agent and task, a task's together: a process keeps what they share."""
        return [{"task": task, "agent": a, "seed": seed} for task in TASKS for a in AGENTS]

    def run(self, point: Point, cache: Path) -> list[Row]:
        """Tunes and looks at both splits."""
        from textgym.benchmarks.studies import tuned

        spec = next(s for s in load_suite("core").agents if s.label == AGENTS[point["agent"]])
        seen = tuned.tune_and_measure(
            Spec(point["task"]), spec, point["seed"], cache, splits=SPLITS
        )
        return [
            {
                "task": point["task"],
                "agent": point["agent"],
                "split": split,
                "gold": packed(look.prompts["gold"]),
                "kl": packed(look.kl_of_prompts()),
                "ead": packed(look.prompts[tuned.EAD]),
                "reference ead": packed(look.prompts[tuned.REFERENCE_EAD]),
            }
            for split, look in seen.items()
        ]

    def summary(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Returns a row per task and agent; the tasks' `Estimates` go along as `attrs`."""
        import pandas as pd

        tasks = {t: estimates(rows[rows["task"] == t], SPLITS) for t in _in_order(rows)}
        table = pd.DataFrame([row for task, e in tasks.items() for row in _rows(task, e)])
        table.attrs["estimates"] = tasks
        return table

    def draw(self, summary: pd.DataFrame, figure: Figure) -> None:
        """Gold on both splits against the diversity that tuning has cost."""
        draw(summary, figure)

    def findings(self, summary: pd.DataFrame) -> list[str]:
        """What is kept, by task and overall."""
        return findings(summary.attrs["estimates"])


def _in_order(rows: pd.DataFrame) -> list[str]:
    there = set(rows["task"])
    return [task for task in TASKS if task in there]


def _rows(task: str, e: Estimates) -> list[Row]:
    """Returns a summary row per agent, those that do least first."""
    order = sorted(e.agents, key=list(AGENTS).index, reverse=True)
    rows = []
    for agent in order:
        at = e.agents.index(agent)
        row: Row = {"task": task, "agent": agent}
        row |= {name: float(e.here[name][at]) for name in NUMBERS}
        row |= {f"{name}_se": half_width(e.resampled[name][at]) for name in NUMBERS}
        rows.append(row)
    return rows
