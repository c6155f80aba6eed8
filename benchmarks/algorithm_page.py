"""Fills the page on the algorithms: `python -m textgym.benchmarks.algorithm_page`.

The prose of `docs/algorithms.md` is written by hand; what stands between its markers is put there
from the agents' configs (`settings:AGENT`) and from the results of the suite `algorithms`
(`results:AGENT`), so that it cannot drift.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from textgym.agents import AGENTS
from textgym.benchmarks import filling, report
from textgym.benchmarks.leaderboard import ALL_TASKS
from textgym.benchmarks.suite import Spec, load_suite

ORACLE = "algorithms/oracle"
PARTS = {"core": "core", ORACLE: "algorithms-oracle"}
"""Folder of the results -> the suite that made them."""
SHOWN = ("rank", "reward", "gold", "KL (nats)", "diversity loss", "frontier efficiency")


def fill(text: str, results: Path) -> str:
    """Returns the page with what stands between its markers made anew.

    Raises:
        ConfigError: a marker of an agent that there is not, or that is not closed.
        ResultsError: results that cannot be read.
    """
    tables = {part: pd.read_csv(results / part / "leaderboard.csv") for part in PARTS}
    made_from = partial(results_of, tables=tables)
    return filling.fill(text, {"settings": settings, "results": made_from})


def settings(name: str) -> str:
    """Returns an agent's settings as a Markdown table: name, default, what it is."""
    config_class = AGENTS.load(name).config_class
    says = field_sentences(config_class)
    rows = [("setting", "default", ""), ("---", "---", "---")]
    for field in dataclasses.fields(config_class):
        default = field.default
        shown = "none" if default is None else f"{default:g}" if _is_float(default) else default
        rows.append((f"`{field.name}`", f"`{shown}`", says.get(field.name, "")))
    if len(rows) == 2:
        return "It has no settings."
    return "\n".join(report.markdown_row([str(cell) for cell in row]) for row in rows)


def _is_float(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def field_sentences(config_class: type[Any]) -> dict[str, str]:
    """Returns what the docstrings of a config and its bases say of each field; the nearest wins."""
    found: dict[str, str] = {}
    for base in config_class.__mro__:
        _, _, entries = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")
        for entry in re.split(r"^    (?=\S)", entries, flags=re.MULTILINE):
            names, colon, sentence = entry.partition(": ")
            if colon and re.fullmatch(r"\w+(, \w+)*", names):
                for name in names.split(", "):
                    found.setdefault(name, " ".join(sentence.split()))
    return found


def results_of(name: str, tables: dict[str, pd.DataFrame]) -> str:
    """Returns what an agent did in each part of the suite, with the settings it had there."""
    lines: list[str] = []
    for part, suite_name in PARTS.items():
        suite = load_suite(suite_name)
        specs = [spec for spec in suite.agents if spec.name == name]
        rows = [row for spec in specs for row in _rows(tables[part], spec, part)]
        if rows:
            head = ["on", "agent", *_titles(part)]
            rule = ["---", "---", *("---:" for _ in head[2:])]
            lines += ["", report.markdown_row(head), report.markdown_row(rule), *rows]
            lines += ["", *(_setting_note(spec) for spec in specs if spec.options)]
    return "\n".join(lines).strip() or "Not in the suite."


def _titles(part: str) -> list[str]:
    return ["rank", "regret (nats)"] if part == ORACLE else list(SHOWN)


def _rows(table: pd.DataFrame, spec: Spec, part: str) -> list[str]:
    own = table[table["agent"] == spec.label]
    # Of the enumerated tasks their sum, of the others each.
    own = own[(own["task"] == ALL_TASKS) == (part == ORACLE)]
    return [_row(row, part) for row in report.rows_of(own)]


def _row(row: dict[str, Any], part: str) -> str:
    columns = report.EXACT_COLUMNS[:1] if part == ORACLE else report.COLUMNS
    by_title = {column.title: report.number(row, column) for column in columns}
    by_title["rank"] = report.NONE if pd.isna(row["rank"]) else str(int(row["rank"]))
    cells = [by_title[title] for title in _titles(part)]
    return report.markdown_row([str(row["task"]), str(row["agent"]), *cells])


def _setting_note(spec: Spec) -> str:
    options = ", ".join(f"`{key}={value}`" for key, value in spec.options.items())
    return f"`{spec.label}`: {options}  "


def main(arguments: list[str] | None = None) -> int:
    """Rewrites the page; returns the exit status."""
    about = (__doc__ or "").partition("\n")[0]
    return filling.run(about, "docs/algorithms.md", fill, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
