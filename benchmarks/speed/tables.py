"""What a speed run leaves behind: files with where they were measured, and tables for readers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from textgym.benchmarks.provenance import commit, machine, versions
from textgym.benchmarks.speed.timing import Ratio


def write(out: Path, section: str, tables: dict[str, Sequence[Ratio] | pd.DataFrame]) -> None:
    """Writes `<section>.json`: the tables by name, and the machine they were measured on."""
    rows = {
        name: (
            table.to_dict("records")
            if isinstance(table, pd.DataFrame)
            else [asdict(ratio) for ratio in table]
        )
        for name, table in tables.items()
    }
    found = {
        "machine": machine() | _accelerator(),
        "threads": torch.get_num_threads(),
        "versions": versions() | _peers(),
        "commit": commit(),
        "tables": _plain(rows),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{section}.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")


def markdown(path: Path) -> str:
    """Returns the tables of a written section as Markdown; lists of numbers stay in the file."""
    parts = []
    for name, rows in json.loads(path.read_text())["tables"].items():
        is_ratio = bool(rows) and {"ours", "peer", "ratio"} <= set(rows[0])
        parts.append(_of_ratios(name, rows) if is_ratio else _of_frame(name, rows))
    return "\n\n".join(parts)


def show(document: Path, results: Path) -> list[str]:
    """Puts written sections between their marks in a document; returns the sections it found.

    A section's marks are `<!-- speed:NAME -->` and `<!-- /speed:NAME -->`.
    """
    text = document.read_text()
    found = re.findall(r"<!-- speed:(\w+) -->", text)
    for section in found:
        head, rest = text.split(f"<!-- speed:{section} -->", 1)
        _, tail = rest.split(f"<!-- /speed:{section} -->", 1)
        table = markdown(results / f"{section}.json")
        text = f"{head}<!-- speed:{section} -->\n{table}\n<!-- /speed:{section} -->{tail}"
    document.write_text(text)
    return found


def _of_ratios(name: str, rows: list[dict[str, Any]]) -> str:
    lines = [
        f"| {name} | TextGym | peer | ratio | least to greatest | goal |",
        "| --- | --: | --: | --: | --- | --: |",
    ]
    for row in rows:
        goal = "" if row["goal"] is None else f"{row['goal']:g}"
        ratio = f"**{row['ratio']:.2f}**" if row["ratio"] < 100 else f"**{row['ratio']:.0f}**"
        spread = f"{row['low']:.3g} to {row['high']:.3g}"
        times = f"{_time(row['ours'])} | {_time(row['peer'])}"
        lines.append(f"| {row['name']} | {times} | {ratio} | {spread} | {goal} |")
    return "\n".join(lines)


def _of_frame(name: str, rows: list[dict[str, Any]]) -> str:
    columns = [column for column in rows[0] if not isinstance(rows[0][column], list)]
    lines = [f"*{name}*", "", f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    lines += [f"| {' | '.join(_cell(row[column]) for column in columns)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


def _plain(value: Any) -> Any:
    """Returns JSON values: NaN and infinities as null, numbers of NumPy as Python's."""
    if isinstance(value, dict):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _accelerator() -> dict[str, str]:
    return {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}


def _peers() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return {"trl": version("trl")}
    except PackageNotFoundError:
        return {}
