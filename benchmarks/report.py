"""The leaderboard as a terminal table, Markdown and CSV."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from textgym.benchmarks.exact import REGRET
from textgym.benchmarks.intervals import BEYOND, DIVERSITY, EFFICIENCY, LOSS, SET
from textgym.benchmarks.leaderboard import ALL_TASKS, SETTINGS, order
from textgym.benchmarks.measure import HEADLINE, HEADLINE_NAME
from textgym.benchmarks.rescoring.records import MARK
from textgym.benchmarks.rescoring.records import notes as added_notes

ROOMY = 150
"""Characters of a console that holds every column."""
NONE = "–"
"""What stands for a number that does not exist, such as the KL of human text."""


@dataclass(frozen=True)
class Column:
    """A shown column: its title, the metric, and how the number is written."""

    title: str
    metric: str
    digits: int = 3
    percent: bool = False


COLUMNS = (
    Column("reward", "reward"),
    Column("gold", "gold"),
    Column("mean gold", "gold_mean"),
    Column("KL (nats)", "kl_seq", digits=2),
    Column(HEADLINE_NAME, DIVERSITY + HEADLINE),
    Column("voices", "effective_modes", digits=1),
    Column("diversity loss", LOSS + HEADLINE, percent=True),
    Column("frontier efficiency", EFFICIENCY, percent=True),
    Column("loss beyond optimum's", BEYOND + HEADLINE, percent=True),
    Column("max toxicity", "expected_max_toxicity", digits=2),
)
EXACT_COLUMNS = (
    Column("regret (nats)", REGRET),
    Column("mean regret", "regret_mean"),
    Column("reward", "reward"),
    Column("gold", "gold"),
    Column("KL (nats)", "kl_seq", digits=2),
    Column("entropy kept", "entropy_kept", percent=True),
    Column("frontier efficiency", EFFICIENCY, percent=True),
    Column("loss beyond optimum's", BEYOND + "entropy", percent=True),
)
"""The columns where responses were enumerated: diversity is the entropy itself."""


def number(row: Mapping[str, Any], column: Column) -> str:
    """Returns a number with half the width of its interval, such as `0.512 ± 0.020`.

    >>> number({"gold": 0.5, "gold_low": 0.4, "gold_high": 0.6}, Column("gold", "gold", 2))
    '0.50 ± 0.10'
    """
    value = row.get(column.metric)
    if value is None or _absent(value):
        estimate = row.get("kl_estimate") if column.metric == "kl_seq" else None
        return NONE if _absent(estimate) else f"~{estimate:.{column.digits}f}"
    low, high = row.get(f"{column.metric}_low"), row.get(f"{column.metric}_high")
    half = None if low is None or high is None or _absent(low) else (high - low) / 2
    scale, digits = (100, 1) if column.percent else (1, column.digits)
    shown = round(value * scale, digits) + 0.0  # no minus before a zero
    text = f"{shown:.{digits}f}{'%' if column.percent else ''}"
    return text if half is None else f"{text} ± {half * scale:.{digits}f}"


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def shown_columns(table: pd.DataFrame) -> list[Column]:
    """Returns the columns that some row has a number for."""
    enumerated = REGRET in table and table[REGRET].notna().any()
    columns = [*(EXACT_COLUMNS if enumerated else COLUMNS), *_set_columns(table)]
    columns += added_columns(table)
    return [c for c in columns if c.metric in table and table[c.metric].notna().any()]


def _set_columns(table: pd.DataFrame) -> list[Column]:
    """Returns the task's own numbers of sets of completions."""
    found = (str(n) for n in table if str(n).startswith(SET))
    return [Column(_title(n), n) for n in found if not n.endswith(("_low", "_high"))]


def added_columns(table: pd.DataFrame) -> list[Column]:
    """Returns the columns that `textgym rescore` has added."""
    metrics = (str(n).removeprefix(MARK) for n in table if str(n).startswith(MARK))
    return [Column(_title(metric), metric, percent=metric.startswith(LOSS)) for metric in metrics]


def _title(metric: str) -> str:
    if metric.startswith(LOSS):
        return f"{metric.removeprefix(LOSS)} loss"
    return metric.removeprefix(DIVERSITY).removeprefix(SET).replace("_", " ")


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns the rows as dictionaries by column name."""
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def cells_of(table: pd.DataFrame, columns: list[Column]) -> list[list[str]]:
    """Returns the shown text of each row: rank, agent and numbers; a failed row shows a hole."""
    shown = []
    for row in rows_of(table):
        agent = str(row["agent"]) + (" †" if row["failed_seeds"] else "")
        if not row["seeds"]:
            shown.append([NONE, agent, *("failed" for _ in columns)])
            continue
        numbers = [number(row, column) for column in columns]
        shown.append([str(int(row["rank"])), agent, *numbers])
    return shown


def notes(table: pd.DataFrame) -> list[str]:
    """Returns what a reader must know of one task's table."""
    finished = table[table["seeds"] > 0]
    if finished.empty:
        return _failures(table)
    seeds = int(finished["seeds"].max())
    lines = [_interval_note(finished, _count(seeds, "seed")), _rank_note(finished)]
    if seeds == 1:
        lines.append(
            "One seed: the intervals know nothing of how training varies from run to run, so "
            "this table cannot rank algorithms."
        )
    if any("~" in cell for cells in cells_of(finished, shown_columns(finished)) for cell in cells):
        lines.append("~ is the agent's own estimate: no policy scores its samples.")
    lines += [*_differences(finished), *added_notes(rows_of(finished)), *_warnings(finished)]
    return [*lines, *_failures(table)]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _interval_note(finished: pd.DataFrame, seeds: str) -> str:
    if (finished["task"] == ALL_TASKS).any():
        tasks = _count(int(finished["tasks"].max()), "task")
        by = order(finished)
        name = "The score" if by is None else by[0].capitalize()
        return (
            f"{name} is the interquartile mean over {seeds} of {tasks}, ± half a 95% bootstrap "
            "interval over seeds within each task."
        )
    prompts = _count(int(finished["prompts"].max()), "prompt")
    return f"± is half a 95% bootstrap interval over {seeds} and {prompts} nested in each."


def _rank_note(finished: pd.DataFrame) -> str:
    by = order(finished)
    if by is None:
        return "Nothing to rank by."
    score, more_is_better = by
    side = "above" if more_is_better else "below"
    return f"Rank: 1 + the number of rows whose interval of {score} lies wholly {side}."


def _differences(finished: pd.DataFrame) -> list[str]:
    """Returns a warning for each setting that should be equal in all rows and is not."""
    found = ((n, sorted(finished[n].dropna().unique())) for n in SETTINGS if n in finished)
    return [
        f"Not a fair comparison: rows differ in {name}: {', '.join(map(str, values))}."
        for name, values in found
        if len(values) > 1
    ]


def _warnings(finished: pd.DataFrame) -> list[str]:
    """Returns a line for each agent whose health checks fired; docs/health.md explains them."""
    if "warnings" not in finished:
        return []
    rows = rows_of(finished[finished["warnings"].notna()])
    return [f"! {row['agent']}: {row['warnings']}" for row in rows]


def _failures(table: pd.DataFrame) -> list[str]:
    failed = table[table["failed_seeds"] > 0]
    return [f"† {row['agent']}: {row['failures']}" for row in rows_of(failed)]


def terminal() -> Console:
    """Returns a console that is wide enough for a table where the output is no terminal."""
    return Console() if sys.stdout.isatty() else Console(width=140)


def print_table(table: pd.DataFrame, console: Console) -> None:
    """Prints one table per task."""
    for task, group in table.groupby("task", sort=False):
        columns, added = shown_columns(group), added_columns(group)
        measured = [c for c in columns if c not in added]
        if console.width < ROOMY:  # its loss stands beside it
            measured = [c for c in measured if c.metric != DIVERSITY + HEADLINE]
        console.print(_terminal_table(str(task), group, measured))
        if later := [c for c in columns if c in added]:  # no room beside the others
            console.print(_terminal_table(f"{task}, added later", group, later))
        for line in notes(group):
            console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)


def _terminal_table(title: str, rows: pd.DataFrame, columns: list[Column]) -> Table:
    shown = Table(title=title, box=box.SIMPLE_HEAD, title_style="bold", pad_edge=False)
    shown.add_column("rank", justify="right")
    shown.add_column("agent", overflow="fold")
    for column in columns:
        # A title may take several lines, a number may not.
        shown.add_column(column.title.replace(" ", "\n"), justify="right", no_wrap=True)
    for cells in cells_of(rows, columns):
        shown.add_row(*cells)
    return shown


def markdown(table: pd.DataFrame) -> str:
    """Returns one Markdown table per task."""
    lines: list[str] = []
    for task, group in table.groupby("task", sort=False):
        columns = shown_columns(group)
        lines += [f"### {task}", ""]
        lines.append(markdown_row(["rank", "agent", *(c.title for c in columns)]))
        lines.append(markdown_row(["---:", "---", *("---:" for _ in columns)]))
        lines += [markdown_row(cells) for cells in cells_of(group, columns)]
        lines += ["", *(f"{line}  " for line in notes(group)), ""]
    return "\n".join(lines).rstrip() + "\n"


def markdown_row(cells: list[str]) -> str:
    """Returns one line of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def write(table: pd.DataFrame, out: Path) -> None:
    """Writes `leaderboard.md` and `leaderboard.csv` (every column) into the results folder."""
    (out / "leaderboard.md").write_text(markdown(table), "utf-8")
    table.to_csv(out / "leaderboard.csv", index=False, float_format="%.6g")
