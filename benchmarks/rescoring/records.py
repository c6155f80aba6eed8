"""What results say of the columns that `textgym rescore` has added, and what tables make of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

RESCORED = "rescored"
"""Key in `result.json`: column -> what it was computed by."""
MARK = "rescored/"
"""Prefix of the leaderboard's columns that name the scorer of a metric."""
RESERVED = ("reference/", "frontier/", "diversity_loss/", "across/", "loss_beyond_optimum/", MARK)
"""What the name of an added column cannot begin with: tables read a meaning from it."""
IDENTITY = ("by", "options", "sha256", "tokenizer", "columns_given", "held_against", "versions")
"""What two columns must share to be compared."""

Record = Mapping[str, Any]


def identity(record: Record) -> dict[str, Any]:
    """Returns the part of a record that decides whether two columns can be compared."""
    return {name: record.get(name) for name in IDENTITY}


def differences(one: Record, other: Record) -> list[str]:
    """Returns what differs between two records, one short text each."""
    found = []
    for name in IDENTITY:
        ours, theirs = one.get(name), other.get(name)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            keys = [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
            found += [f"{key} {theirs.get(key)} there, {ours.get(key)} now" for key in keys]
        elif ours != theirs:
            size = 8 if name in ("sha256", "tokenizer") else None
            found.append(f"{name} {str(theirs)[:size]} there, {str(ours)[:size]} now")
    return found


def describe(record: Record) -> str:
    """Returns what a metric was computed by, with a digest of all that decides its numbers."""
    against = record.get("held_against")
    text = json.dumps(identity(record), sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{record['by']}{f' against {against}' if against else ''} ({digest})"


def marks(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Returns, for each metric that tables show, what it was computed by: `MARK` + metric -> text.

    Args:
        results: one `result.json` per seed of a row.
    """
    found: dict[str, dict[str, None]] = {}
    for record in (r for result in results for r in result.get(RESCORED, {}).values()):
        for metric in record["shown"]:
            found.setdefault(MARK + metric, {})[describe(record)] = None
    return {name: " / ".join(texts) for name, texts in found.items()}


def holes(results: Sequence[Mapping[str, Any]]) -> set[str]:
    """Returns the metrics that some seed lacks, or has from another scorer: no mean is taken."""
    found: dict[str, list[str]] = {}
    for record in (r for result in results for r in result.get(RESCORED, {}).values()):
        for metric in record["metrics"]:
            found.setdefault(metric, []).append(describe(record))
    return {m for m, by in found.items() if len(by) < len(results) or len(set(by)) > 1}


def notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns what a reader must know of the added columns: whose they are, and who differs.

    Args:
        rows: the leaderboard's, of one task.
    """
    lines: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for row in rows for name in row if name.startswith(MARK)):
        agents: dict[str, list[str]] = {}
        for row in rows:
            if isinstance(row.get(name), str):  # a row that lacks the column holds a NaN
                agents.setdefault(row[name], []).append(str(row["agent"]))
        if len(agents) > 1:
            groups = "; ".join(f"{by}: {', '.join(who)}" for by, who in agents.items())
            line = f"Not a fair comparison: {{}} of different scorers or versions: {groups}."
        elif agents:  # else it is another task's column
            line = f"{{}} computed later, from the kept samples, by {next(iter(agents))}."
        else:
            continue
        lines.setdefault(line, []).append(name.removeprefix(MARK))
    return [line.format(", ".join(metrics)) for line, metrics in lines.items()]
