"""From the cells' directories to one row per task and agent, with intervals and shared ranks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from textgym.benchmarks.cell import ERROR, RESULT, SUITE, read_json
from textgym.benchmarks.exact import REGRET
from textgym.benchmarks.health_checks import warnings
from textgym.benchmarks.intervals import BEYOND, EFFICIENCY, intervals
from textgym.benchmarks.rescoring.records import holes, marks
from textgym.errors import ResultsError
from textgym.metrics.stats import Interval, shared_ranks, stratified_bootstrap

SETTINGS = ("model", "reference", "budget", "precision", "lora", "prompts")
"""What a fair comparison holds equal in all rows of a task."""
ALL_TASKS = "all tasks"
"""The table that sums up the others."""
SUMMED = (REGRET, "gold")
"""What several tasks are summed up by, the first that more than one of them has."""
ORDER = (("regret", False), ("gold", True), ("reward", True))
"""What a task is ranked by, the first that it has, and whether more is better."""


@dataclass
class Entry:
    """The cells of one task and agent.

    Attributes:
        task, agent: their labels.
        results: one `result.json` per finished seed.
        prompts: one table per finished seed, a row per evaluation prompt.
        failures: one line per seed that failed or was not run.
    """

    task: str
    agent: str
    results: list[dict[str, Any]] = field(default_factory=list)
    prompts: list[pd.DataFrame] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def read_entries(out: Path) -> list[Entry]:
    """Returns what the results folder holds, tasks and agents in the suite's order.

    Raises: ResultsError when the folder holds no cell.
    """
    if not out.is_dir():
        raise ResultsError(f"no results folder {str(out)!r}")
    entries: dict[tuple[str, str], Entry] = {}
    for folder in _cell_folders(out):
        found = folder / (RESULT if (folder / RESULT).is_file() else ERROR)
        task, agent, seed = folder.relative_to(out).parts
        entry = entries.setdefault((task, agent), Entry(task, agent))
        if not found.is_file():
            entry.failures.append(f"{seed} was not run")
            continue
        record = read_json(found)
        # A label may hold what a folder's name cannot.
        entry.task, entry.agent = (record["config"][kind]["label"] for kind in ("task", "agent"))
        if found.name == ERROR:
            step = "" if record["step"] is None else f"step {record['step']}: "
            entry.failures.append(f"seed {record['seed']}: {step}{record['cause']}")
        else:
            entry.results.append(record)
            entry.prompts.append(pd.read_parquet(folder / "prompts.parquet"))
    if not entries:
        raise ResultsError(f"{str(out)!r} holds no results")
    return list(entries.values())


def _cell_folders(out: Path) -> list[Path]:
    """Returns the folders of the last suite run, finished or not, then others that are there."""
    planned = read_json(out / SUITE)["cells"] if (out / SUITE).is_file() else []
    there = {path.parent for name in (RESULT, ERROR) for path in out.glob(f"*/*/seed-*/{name}")}
    there -= set(out.glob("references/*/*"))
    listed = [out / name for name in planned]
    return [*listed, *sorted(there - set(listed))]


def build(entries: Iterable[Entry]) -> pd.DataFrame:
    """Returns the leaderboard: one row per task and agent, best first within each task.

    Columns: `task`, `rank`, `agent`, `seeds`, `failed_seeds`, `prompts`, `samples_per_prompt`,
    `budget_used`, then every metric, with `METRIC_low` and `METRIC_high` where its interval can
    be computed: a 95% bootstrap over prompts nested in seeds. Diversity losses are paired by
    prompt. `warnings` names the health checks that fired, if any did. Rows are ordered by `ORDER`,
    best first, and share a rank while their intervals overlap. Several tasks with one kind of score
    are summed up in a further table, `ALL_TASKS`.
    """
    entries = list(entries)
    rows = []
    for entry in entries:
        row: dict[str, Any] = {
            "task": entry.task,
            "agent": entry.agent,
            "seeds": len(entry.results),
            "failed_seeds": len(entry.failures),
            "failures": "; ".join(entry.failures),
        }
        if entry.results:
            row |= _summary(entry)
        rows.append(row)
    table = pd.DataFrame(rows + _all_tasks(entries))
    ranked = [_ranked(group) for _, group in table.groupby("task", sort=False)]
    front = ["task", "rank", "agent"]
    return pd.concat(ranked, ignore_index=True).pipe(
        lambda t: t[[*front, *(c for c in t.columns if c not in front)]]
    )


def _summary(entry: Entry) -> dict[str, Any]:
    results = entry.results
    row: dict[str, Any] = {
        **{name: results[0]["config"][name] for name in ("model", "reference", "budget")},
        "precision": results[0].get("precision", "float32"),
        "lora": str(results[0]["config"].get("lora") or "none"),
        "prompts": min(len(table) for table in entry.prompts),
        "samples_per_prompt": results[0]["evaluation"]["samples_per_prompt"],
        "budget_used": float(np.mean([r["budget"]["used"] for r in results])),
        "budget_scored": float(np.mean([r["budget"]["scored"] for r in results])),
        "train_seconds": float(np.mean([r["seconds"]["train"] for r in results])),
    }
    if fired := warnings(results):
        row["warnings"] = fired
    for name, interval in intervals(entry.prompts).items():
        row[name] = interval.estimate
        row[f"{name}_low"], row[f"{name}_high"] = interval.low, interval.high
    for name in dict.fromkeys(name for result in results for name in result["metrics"]):
        found = [result["metrics"].get(name, {}).get("value") for result in results]
        known = [value for value in found if value is not None]
        # What the frontier cannot tell of one seed it cannot tell of their mean.
        hole = name.startswith((EFFICIENCY, BEYOND)) and len(known) < len(results)
        if name not in row and known and not hole:
            row[name] = float(np.mean(known))
    for name in holes(results):
        for column in (name, f"{name}_low", f"{name}_high"):
            row.pop(column, None)
    return row | marks(results)


def _all_tasks(entries: list[Entry]) -> list[dict[str, Any]]:
    """Returns one row per agent that sums up the tasks, if several can be summed up.

    The score is the regret of the tasks that have one, else gold, which lies in [0, 1]: its
    interquartile mean over seeds and tasks, with a bootstrap over seeds within each task, and
    under `SCORE_mean` the plain mean. An agent that lacks a task has no numbers; one seed leaves
    nothing to resample, and so no table.
    """
    for score in SUMMED:
        found = scores_by_seed(entries, score)
        tasks = list(dict.fromkeys(task for scores in found.values() for task in scores))
        seeds = max((len(v) for scores in found.values() for v in scores.values()), default=0)
        if len(tasks) > 1 and seeds > 1:
            return [_over_tasks(agent, found, tasks, score) for agent in found]
    return []


def scores_by_seed(entries: Iterable[Entry], score: str) -> dict[str, dict[str, list[float]]]:
    """Returns each agent's mean score on each task by seed, where the task has such a score."""
    found: dict[str, dict[str, list[float]]] = {}
    for entry in entries:
        seeds = [float(table[score].mean()) for table in entry.prompts if score in table]
        if seeds:
            found.setdefault(entry.agent, {})[entry.task] = seeds
    return found


def score_matrix(
    scores: dict[str, list[float]], tasks: Iterable[str], seeds: int
) -> np.ndarray | None:
    """Returns [S, M], an agent's scores by seed and task; None where one is missing."""
    if any(len(scores.get(task, ())) < seeds for task in tasks):
        return None
    return np.array([scores[task] for task in tasks]).T


def _over_tasks(
    agent: str, found: dict[str, dict[str, list[float]]], tasks: list[str], score: str
) -> dict[str, Any]:
    seeds = max(len(values) for scores in found.values() for values in scores.values())
    matrix = score_matrix(found[agent], tasks, seeds)
    missing = [task for task in tasks if len(found[agent].get(task, ())) < seeds]
    row: dict[str, Any] = {
        "task": ALL_TASKS,
        "agent": agent,
        "tasks": len(tasks),
        "seeds": 0 if missing else seeds,
        "failed_seeds": len(missing),
        "failures": f"seeds are missing on {', '.join(missing)}" if missing else "",
    }
    if matrix is None:
        return row
    summed = stratified_bootstrap(matrix, np.random.default_rng(0))
    row |= {score: summed.estimate, f"{score}_mean": float(matrix.mean())}
    return row | {f"{score}_low": summed.low, f"{score}_high": summed.high}


def order(rows: pd.DataFrame) -> tuple[str, bool] | None:
    """Returns what one task's rows are ranked by, and whether more of it is better."""
    return next(((m, up) for m, up in ORDER if m in rows and rows[m].notna().any()), None)


def _ranked(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns one task's rows with their `rank`, best first; rows without a score come last."""
    rank = pd.Series(pd.NA, index=rows.index, dtype="Int64")
    by = order(rows)
    if by is None:
        return rows.assign(rank=rank)
    score, more_is_better = by
    scored = rows[rows[score].notna()]
    ends = zip(scored[score], scored[f"{score}_low"], scored[f"{score}_high"], strict=True)
    rank[scored.index] = shared_ranks([Interval(*end) for end in ends], more_is_better)
    return rows.assign(rank=rank).sort_values(
        score, ascending=not more_is_better, na_position="last"
    )
