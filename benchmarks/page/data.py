"""What a results folder holds, as the records that the page is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from textgym.agents import AGENTS
from textgym.benchmarks.algorithm_figures import COLOURS, GRADIENT
from textgym.benchmarks.algorithm_figures import family as algorithm_family
from textgym.benchmarks.cell import SUITE, is_reference, read_json
from textgym.benchmarks.checkpoints import CHECKPOINTS
from textgym.benchmarks.intervals import DIVERSITY
from textgym.benchmarks.leaderboard import Entry, build, read_entries
from textgym.benchmarks.measure import HEADLINE
from textgym.benchmarks.pools import POOLS, START
from textgym.benchmarks.report import rows_of
from textgym.benchmarks.suite import folder_name
from textgym.benchmarks.trade_offs import FROM_POOL, TradePath, pool_paths, read_paths

TRL, PLUGIN = "TRL", "plug-in"
FAMILIES = {
    "untrained": ("INK", "circle"),
    "selection": (COLOURS["selection"], "square"),
    GRADIENT: (COLOURS[GRADIENT], "diamond"),
    "preferences": (COLOURS["preferences"], "triangle-up"),
    "distribution matching": (COLOURS["distribution matching"], "triangle-down"),
    TRL: ("#D55E00", "cross"),
    PLUGIN: ("#56B4E9", "triangle-right"),
}
"""Okabe and Ito's colour and a shape for each family of agents; INK is the text's own colour."""
FEWEST = 3
"""Points that make a path: the reference and one more are a dot."""
Progress = Callable[[str], None]
"""Hears what is being done."""


def family(name: str) -> str:
    """Returns the family of an agent by its registered name or file.

    >>> family("trl:dpo"), family("dpo"), family("mine.py:Mine"), family("ppo")
    ('TRL', 'preferences', 'plug-in', 'policy gradient')
    """
    if name.startswith("trl:"):
        return TRL
    return algorithm_family(name) if name in AGENTS else PLUGIN


@dataclass(frozen=True)
class Run:
    """One finished cell.

    Attributes:
        task, agent: their labels.
        seed: of the run.
        folder: where its files lie.
        result: its `result.json`.
        prompts: a row per evaluation prompt.
    """

    task: str
    agent: str
    seed: int
    folder: Path
    result: dict[str, Any]
    prompts: pd.DataFrame

    def table(self, name: str) -> pd.DataFrame | None:
        """Returns a parquet file of the cell, or None where it was not kept or holds no row."""
        path = self.folder / f"{name}.parquet"
        if not path.is_file():
            return None
        found = pd.read_parquet(path)
        return found if len(found) else None

    @property
    def is_reference(self) -> bool:
        """Whether the agent is the reference itself, as it is."""
        return is_reference(self.result["config"])


@dataclass
class Results:
    """A results folder.

    Attributes:
        out: the folder.
        suite: what was planned, as stored; empty where no plan is kept.
        entries: the cells by task and agent.
        board: the leaderboard, best first within each task.
    """

    out: Path
    suite: dict[str, Any]
    entries: list[Entry]
    board: pd.DataFrame

    @cached_property
    def runs(self) -> list[Run]:
        """Every finished cell."""
        return [
            Run(e.task, e.agent, r["seed"], self._folder(e, r["seed"]), r, prompts)
            for e in self.entries
            for r, prompts in zip(e.results, e.prompts, strict=True)
        ]

    def _folder(self, entry: Entry, seed: int) -> Path:
        return self.out / folder_name(entry.task) / folder_name(entry.agent) / f"seed-{seed}"

    @cached_property
    def tasks(self) -> list[str]:
        """Labels of the tasks, in the suite's order."""
        return list(dict.fromkeys(entry.task for entry in self.entries))

    @cached_property
    def kinds(self) -> dict[str, str]:
        """The family of every agent, by label."""
        specs = [*self.suite.get("agents", ()), *(r.result["config"]["agent"] for r in self.runs)]
        found = {spec["label"]: family(spec["name"]) for spec in specs}
        return {e.agent: found.get(e.agent, PLUGIN) for e in self.entries} | found

    def of(self, task: str) -> list[Run]:
        """Returns a task's runs."""
        return [run for run in self.runs if run.task == task]

    def rows(self, task: str) -> list[dict[str, Any]]:
        """Returns the leaderboard's rows of a task that have numbers, best first."""
        return rows_of(self.board[(self.board["task"] == task) & (self.board["seeds"] > 0)])

    def reference(self, task: str) -> list[Run]:
        """Returns the runs of the agent that is the reference, as it is; often none."""
        return [run for run in self.of(task) if run.is_reference]

    @cached_property
    def paths(self) -> list[TradePath]:
        """Every agent's way through training, swept controls and best-of-n from pools too."""
        found = read_paths(self.out, self.entries)
        tasks = list(dict.fromkeys(path.task for path in found))
        return found + pool_paths(self.out, tasks)

    def family(self, agent: str) -> str:
        """Returns the family of an agent's label, or of a sweep's such as `best_of_n over n`."""
        if agent == FROM_POOL:
            return family("best_of_n")
        return self.kinds.get(agent) or family(agent.partition(" over ")[0])

    def ways(self, task: str) -> list[dict[str, Any]]:
        """Returns the points of the paths of a task: a row per agent and checkpoint.

        Each has `agent`, `family`, `step` (the point's place), `completions` and what was
        measured: `kl_seq`, `reward`, `gold`, `kept`.
        """
        rows = []
        for path in self.paths:
            if path.task != task or len(path.completions) < FEWEST:
                continue
            for i, completions in enumerate(path.completions):
                own = {name: float(values[i]) for name, values in path.values.items()}
                labels = {"agent": path.agent, "family": self.family(path.agent), "step": i}
                rows.append({**labels, "completions": float(completions), **own})
        return rows

    def checkpoints(self, task: str) -> pd.DataFrame:
        """Returns the checkpoints of a task run by run: a row per agent, seed and checkpoint.

        Columns: `agent`, `seed`, `step`, `completions`, the means over prompts of what was
        measured, and `kept`, the share of the reference's EAD. Empty where none were written.
        """
        found = [self._checkpoints(run) for run in self.of(task)]
        tables = [table for table in found if table is not None]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    def _checkpoints(self, run: Run) -> pd.DataFrame | None:
        table = run.table(CHECKPOINTS)
        if table is None:
            return None
        means = table.groupby("step", as_index=False).mean(numeric_only=True)
        means = means.assign(agent=run.agent, seed=run.seed)
        start = self.pools(run.task, f"{START}-seed-{run.seed}")
        name = DIVERSITY + HEADLINE
        if name in means and start and name in start[0]:
            means["kept"] = means[name] / start[0][name].mean()
        return means

    def pools(self, task: str, pattern: str) -> list[pd.DataFrame]:
        """Returns what is known of the reference: the tables whose names match, seed by seed."""
        folder = self.out / POOLS / folder_name(task)
        return [pd.read_parquet(path) for path in sorted(folder.glob(f"{pattern}.parquet"))]


def read_results(out: Path) -> Results:
    """Reads a results folder and builds its leaderboard.

    Raises: ResultsError when the folder holds no cell or a file cannot be read.
    """
    suite = read_json(out / SUITE).get("suite", {}) if (out / SUITE).is_file() else {}
    entries = read_entries(out)
    return Results(out, suite, entries, build(entries))


def records(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns rows for JSON: four significant digits, None for what is no number.

    >>> records([{"a": 0.123456, "b": float("nan"), "c": "x"}])
    [{'a': 0.1235, 'b': None, 'c': 'x'}]
    """
    return [{name: plain(value) for name, value in row.items()} for row in rows]


def plain(value: Any) -> Any:
    """Returns a value for JSON: numbers to four significant digits, None for what is none."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.4g}") if np.isfinite(value) else None
    return None if value is pd.NA else value
