"""The leaderboard on the page: what each row shows, what it is sorted by, and its runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from textgym.benchmarks.leaderboard import order
from textgym.benchmarks.page.data import Results, Run, plain
from textgym.benchmarks.page.glossary import anchor
from textgym.benchmarks.report import Column, notes, number, rows_of, shown_columns
from textgym.benchmarks.suite import folder_name

LOWER_IS_BETTER = ("kl_", "diversity_loss/", "loss_beyond", "regret", "expected_max_toxicity")


@dataclass(frozen=True)
class Header:
    """A column: its title, the metric, its glossary entry and the ends of its common scale."""

    title: str
    metric: str
    anchor: str
    low: float
    high: float
    descending: bool


@dataclass(frozen=True)
class Number:
    """A number in a row.

    Attributes:
        metric: which.
        text: as shown, such as `0.512 ± 0.020`.
        value: what it is sorted by; None for a hole.
        bar: left end, width and place of the value on the column's scale, in percent; empty
            where there is no interval.
    """

    metric: str
    text: str
    value: float | None
    bar: tuple[float, ...] = ()


@dataclass(frozen=True)
class Row:
    """One agent of a task; `warnings` names the health checks that fired."""

    agent: str
    family: str
    rank: int | None
    seeds: int
    failed: int
    warnings: str
    numbers: list[Number]


@dataclass
class Board:
    """One task's table."""

    task: str
    headers: list[Header]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)


def boards(results: Results) -> list[Board]:
    """Returns one table per task, rows in the leaderboard's order."""
    groups = results.board.groupby("task", sort=False)
    return [_board(results, str(task), group) for task, group in groups]


def _board(results: Results, task: str, group: pd.DataFrame) -> Board:
    columns = shown_columns(group)
    headers = [_header(group, column) for column in columns]
    rows = []
    for row in rows_of(group):
        numbers = [
            _number(row, column, header) for column, header in zip(columns, headers, strict=True)
        ]
        rank = None if pd.isna(row["rank"]) else int(row["rank"])
        agent = str(row["agent"])
        kind, seeds, failed = results.kinds[agent], int(row["seeds"]), int(row["failed_seeds"])
        fired = row.get("warnings")
        warnings = fired if isinstance(fired, str) else ""
        rows.append(Row(agent, kind, rank, seeds, failed, warnings, numbers))
    return Board(task, headers, rows, notes(group))


def _header(group: pd.DataFrame, column: Column) -> Header:
    metric = column.metric
    names = [n for n in (metric, f"{metric}_low", f"{metric}_high") if n in group]
    values = group[names].to_numpy(float)
    low, high = float(pd.DataFrame(values).min().min()), float(pd.DataFrame(values).max().max())
    if low >= 0:
        low = 0.0
    up = not metric.startswith(LOWER_IS_BETTER)
    return Header(column.title, metric, anchor(metric), low, max(high, low + 1e-9), up)


def _number(row: dict[str, Any], column: Column, header: Header) -> Number:
    metric = column.metric
    if not row["seeds"]:
        return Number(metric, "failed", None)
    text = number(row, column)
    value, low, high = (plain(row.get(metric + end)) for end in ("", "_low", "_high"))
    if value is None and metric == "kl_seq":
        value = plain(row.get("kl_estimate"))
    if value is None or low is None or high is None:
        return Number(metric, text, value)
    scale = 100 / (header.high - header.low)
    left = (low - header.low) * scale
    bar = (left, (high - low) * scale, (value - header.low) * scale)
    return Number(metric, text, value, tuple(round(end, 1) for end in bar))


def runs(results: Results, commands: dict[str, str]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Returns what is behind each number: the runs by task and agent, for the page's script.

    Args:
        results: the folder.
        commands: how to repeat the cells of one task and agent, by `TASK/AGENT` folders.
    """
    shown = {
        str(task): [column.metric for column in shown_columns(group)]
        for task, group in results.board.groupby("task", sort=False)
    }
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for entry in results.entries:
        found.setdefault(entry.task, {}).setdefault(entry.agent, []).extend(
            {"failure": line} for line in entry.failures
        )
    for run in results.runs:
        found[run.task][run.agent].append(_run(run, shown[run.task], results, commands))
    return found


def _run(
    run: Run, metrics: list[str], results: Results, commands: dict[str, str]
) -> dict[str, Any]:
    measured = run.result.get("metrics", {})
    cell = f"{folder_name(run.task)}/{folder_name(run.agent)}"
    return {
        "seed": run.seed,
        "folder": run.folder.relative_to(results.out).as_posix(),
        "seconds": plain(run.result.get("seconds", {}).get("total")),
        "commit": run.result.get("commit"),
        "budget": run.result.get("budget", {}).get("used"),
        "health": [_warning(w) for w in run.result.get("health", ())],
        "command": commands.get(cell, ""),
        "metrics": {m: _measured(measured, m) for m in metrics if _measured(measured, m)},
    }


def _measured(metrics: dict[str, Any], name: str) -> list[float | None] | None:
    """Returns value, low and high of one run's metric."""
    if name not in metrics and name == "kl_seq":
        name = "kl_estimate"
    if metrics.get(name, {}).get("value") is None:
        return None
    return [plain(metrics[name].get(end)) for end in ("value", "low", "high")]


def _warning(warning: Any) -> str:
    """Returns a health warning as one line, whatever its record holds."""
    if not isinstance(warning, dict):
        return str(warning)
    parts = [str(warning[k]) for k in ("check", "seen", "cause", "hint") if warning.get(k)]
    return ": ".join([parts[0], " ".join(parts[1:])]) if parts else "warning"


def ranked_by(results: Results, task: str) -> tuple[str, bool] | None:
    """Returns what a task is ranked by, and whether more of it is better."""
    return order(results.board[results.board["task"] == task])
