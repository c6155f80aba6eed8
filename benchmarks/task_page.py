"""Fills the page on the tasks: `python -m textgym.benchmarks.task_page`.

The prose of `docs/tasks.md` is written by hand; what stands between its markers is put there from
the tasks themselves (`facts:TASK`) and from committed leaderboards (`results:TASK`), so that it
cannot drift.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd

from textgym.benchmarks import filling, report
from textgym.benchmarks.intervals import LOSS, SET
from textgym.benchmarks.measure import HEADLINE
from textgym.benchmarks.report import Column
from textgym.tasks import load_task
from textgym.tasks.base import OOD, SPLITS, Task

WORLD_TASKS = ("summarize", "toxicity", "assistant", "author", "sentiment", "caveats")

PARTS = ("core", "tasks")
"""Folders of the results that have leaderboards of these tasks."""

SHOWN = (
    Column("gold", "gold"),
    Column("reward", "reward"),
    Column("KL (nats)", "kl_seq", digits=2),
    Column("diversity loss", LOSS + HEADLINE, percent=True),
)

OWN: dict[str, tuple[Column, ...]] = {
    "summarize": (Column("facts", "covered", 2), Column("invented", "invented", 2)),
    "toxicity": (Column("insults", "insult", 2), Column("relevance", "relevance", 2)),
    "assistant": (
        Column("helpful", "helpful", 2),
        Column("honest", "honest", 2),
        Column("harmless", "harmless", 2),
        Column("asks back", "deflection", 2),
    ),
    "author": (
        Column("searcher", f"{SET}searcher", 2),
        Column("author", f"{SET}author", 2),
        Column("good ideas", f"{SET}good_ideas", 1),
        Column("novel", f"{SET}novel_ideas", 2),
    ),
    "sentiment": (Column("on topic", "on_topic", 2), Column("well formed", "well_formed", 2)),
    "caveats": (
        Column("caveat where due", "caveat_due", 2),
        Column("where not", "caveat_idle", 2),
        Column("facts kept", "kept", 2),
    ),
}
"""What each task's table shows of its own measures."""


def fill(text: str, results: Path) -> str:
    """Returns the page with what stands between its markers made anew.

    Raises:
        ConfigError: a marker that is not closed.
        UnknownNameError: a marker of a task that there is not.
    """
    tables = [pd.read_csv(results / part / "leaderboard.csv") for part in PARTS]
    return filling.fill(text, {"facts": facts, "results": partial(results_of, tables=tables)})


def facts(name: str) -> str:
    """Returns what a task says of itself, as a Markdown table."""
    task = load_task(name)
    rows = [
        ("question", task.question),
        ("prompts", ", ".join(f"{len(task.prompts(s))} {s}" for s in (*SPLITS, OOD))),
        ("demonstrations", str(len(task.demonstrations()))),
        ("windows", f"{task.max_prompt_tokens} + {task.max_response_tokens} tokens"),
        ("samples per prompt", str(task.eval_samples_per_prompt)),
        ("gold", _range(task)),
    ]
    lines = [report.markdown_row(["", ""]), report.markdown_row(["---", "---"])]
    return "\n".join([*lines, *(report.markdown_row(list(row)) for row in rows)])


def _range(task: Task) -> str:
    return f"floor {task.floor:g}, ceiling {task.ceiling:g}" if task.has_gold else "none"


def results_of(name: str, tables: list[pd.DataFrame]) -> str:
    """Returns a task's table of agents, the best gold first."""
    columns = [*SHOWN, *OWN[name]]
    found = pd.concat([table[table["task"] == name] for table in tables], ignore_index=True)
    found = found.sort_values("gold", ascending=False)
    lines = [
        report.markdown_row(["agent", *(column.title for column in columns)]),
        report.markdown_row(["---", *("---:" for _ in columns)]),
    ]
    for row in report.rows_of(found):
        numbers = [report.number(row, column) for column in columns]
        lines.append(report.markdown_row([str(row["agent"]), *numbers]))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Rewrites the page; returns the exit status."""
    about = (__doc__ or "").partition("\n")[0]
    return filling.run(about, "docs/tasks.md", fill, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
