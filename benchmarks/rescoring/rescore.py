"""Adds a column to old results from the samples that they have kept; runs no policy."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from textgym.benchmarks import report
from textgym.benchmarks.cell import (
    RESULT,
    read_json,
    require_writable,
    sweep,
    whole_directory,
    write_json,
    write_table,
)
from textgym.benchmarks.commands import INTERRUPTED, LEADERBOARD, leaderboard
from textgym.benchmarks.intervals import BASELINE, DIVERSITY, intervals
from textgym.benchmarks.locks import held
from textgym.benchmarks.provenance import commit, versions
from textgym.benchmarks.rescoring.archive import COLUMNS, TOKENS, Archive, tokenizer_digest
from textgym.benchmarks.rescoring.kept import PROMPTS, OldCell
from textgym.benchmarks.rescoring.metrics import metric_scorer
from textgym.benchmarks.rescoring.records import RESCORED, RESERVED, differences
from textgym.benchmarks.rescoring.rewards import reward_scorer, toxicity_scorer
from textgym.benchmarks.rescoring.scorer import Scored, Scorer
from textgym.benchmarks.suite import parse_spec
from textgym.benchmarks.workbench import SAMPLES
from textgym.errors import ConfigError, ResultsError

Record = dict[str, Any]
Todo = list[tuple[OldCell, Record]]


def make_scorer(
    metric: str | None, reward: str | None, toxicity: str | None, column: str | None
) -> Scorer:
    """Returns what the options of `textgym rescore` ask for; exactly one of the first three.

    Raises:
        ConfigError: none or several of the three, or a column's name that cannot be.
        Whatever the scorer raises that cannot be made.
    """
    kinds = {
        "metric": (metric, metric_scorer),
        "reward": (reward, reward_scorer),
        "toxicity": (toxicity, toxicity_scorer),
    }
    given = [(text, make) for text, make in kinds.values() if text is not None]
    if len(given) != 1:
        options = ", ".join(f"--{name}" for name in kinds)
        raise ConfigError(f"expected one of {options}, got {len(given) or 'none'}")
    text, make = given[0]
    if column is not None and (not column.strip() or column.startswith(RESERVED)):
        raise ConfigError(f"a column cannot be called {column!r}")
    return make(parse_spec(text), column)


def rescore(folder: Path, scorer: Scorer, force: bool, console: Console | None = None) -> int:
    """Adds the scorer's column to every cell that has kept its samples; returns the exit status.

    Cells that have the column from the same scorer are skipped, so that a stopped run goes on.
    Each cell is rewritten whole or not at all; then the leaderboard is made anew.

    Args:
        folder: the results.
        scorer: what computes the column.
        force: whether to compute columns of another scorer or version anew.
        console: where progress goes.

    Raises:
        ResultsError: nothing to score, a name that the benchmark's own numbers have, a column from
            another scorer, or several tokenizers in a task.
        BusyError: another process is at a cell.
        Whatever the scorer raises.
    """
    console = console or report.terminal()
    if folder.is_dir():
        require_writable(folder)
        sweep(folder)
    archive = Archive(folder)
    try:
        todo, there = _plan(archive, scorer, force)
        _say(console, archive, scorer, there)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        progress = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
        with progress:
            bar = progress.add_task(scorer.column, total=len(todo))
            for cell, record in todo:
                progress.update(bar, description=cell.name)
                with held(folder, cell.folder, wait=False):
                    _write(archive, cell, scorer, record)
                progress.advance(bar)
    except KeyboardInterrupt:
        console.print("\nstopped; finished cells are kept, run the same command again to go on")
        return INTERRUPTED
    console.print(f"{len(todo)} cells rescored", highlight=False)
    with held(folder, folder / LEADERBOARD, wait=True):
        leaderboard(folder, write=True)
    return 0


def _say(console: Console, archive: Archive, scorer: Scorer, there: int) -> None:
    lines = [f"{scorer.column} by {scorer.by}"]
    without = [cell.name for cell in archive.cells if not cell.has_samples]
    if without:
        lines.append(
            f"{len(without)} of {len(archive.cells)} cells kept no samples and get no number: "
            f"{', '.join(without)}"
        )
    if there:
        lines.append(f"{there} cells have it already")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _plan(archive: Archive, scorer: Scorer, force: bool) -> tuple[Todo, int]:
    """Returns the cells to score, each with its record, and how many have the column already."""
    cells = [cell for cell in archive.cells if cell.has_samples]
    if not cells:
        raise ResultsError(f"no cell of {str(archive.out)!r} has kept its samples")
    todo: Todo = []
    for task in dict.fromkeys(cell.task for cell in cells):
        group = [cell for cell in cells if cell.task == task]
        records = _records(archive, scorer, group)
        others: list[tuple[OldCell, list[str]]] = []
        for cell, record in zip(group, records, strict=True):
            old = cell.result.get(RESCORED, {}).get(scorer.column)
            _require_free(cell, scorer, old)
            changed = [] if old is None else differences(record, old)
            others += [(cell, changed)] if changed else []
            if old is None or force:
                todo.append((cell, record))
        if others and not force:
            cell, changed = others[0]
            raise ResultsError(
                f"{len(others)} cells of {task} have {scorer.column!r} from another scorer or "
                f"version, such as {cell.name} ({'; '.join(changed)}); --force computes it anew"
            )
    return todo, len(cells) - len(todo)


def _records(archive: Archive, scorer: Scorer, cells: list[OldCell]) -> list[Record]:
    """Returns what decides the numbers of a task's cells. Raises: ResultsError for mixed tokens."""
    against = archive.held_against(cells[0].task) if scorer.is_diversity else None
    records = []
    for cell in cells:
        record: Record = {
            "by": scorer.by,
            "options": scorer.options,
            "sha256": scorer.sha256,
            "versions": versions(),
            "held_against": against,
        }
        if TOKENS in scorer.needs:
            record["tokenizer"] = tokenizer_digest(archive.tokenizer(cell))
        if COLUMNS in scorer.needs:
            record["columns_given"] = sorted(archive.columns(cell, cell.samples(), cell.k))
        records.append(record)
    tokenizers = {r.get("tokenizer"): cell for cell, r in zip(cells, records, strict=True)}
    if len(tokenizers) > 1:
        names = ", ".join(f"{c.name} ({c.result['config']['model']})" for c in tokenizers.values())
        raise ResultsError(f"{cells[0].task}: cells were sampled with several tokenizers: {names}")
    return records


def _require_free(cell: OldCell, scorer: Scorer, old: Record | None) -> None:
    """Raises ResultsError where the benchmark, or another scorer, has a column of that name."""
    taken = {
        *pq.read_schema(cell.folder / SAMPLES).names,
        *pq.read_schema(cell.folder / PROMPTS).names,
        *cell.result["metrics"],
    }
    ours = set() if old is None else {*old["columns"], *old["metrics"]}
    for name in scorer.columns:
        if name in taken - ours:
            raise ResultsError(
                f"{cell.name} has a {name!r} that did not come from this column; "
                "name the new one with --as"
            )


def _write(archive: Archive, cell: OldCell, scorer: Scorer, record: Record) -> None:
    """Scores a cell and puts it in its place, whole."""
    kept = archive.kept(cell, scorer.needs)
    scored = scorer.compute(kept)
    if record["held_against"] is not None and scored.prompts:
        _hold_against_reference(archive, cell, scorer, record["held_against"], scored)
    found = intervals([pd.DataFrame(scored.prompts)])
    metrics: dict[str, Any] = {
        name: {"value": i.estimate, "low": i.low, "high": i.high} for name, i in found.items()
    }
    metrics |= {n: {"value": v if np.isfinite(v) else None} for n, v in scored.metrics.items()}
    record = record | {
        "common_length": kept.length,
        "columns": sorted({*scored.samples, *scored.prompts}),
        "metrics": sorted(metrics),
        # A module says only now under which names it returns its numbers.
        "shown": [name for name in scorer.in_tables if name in metrics] or sorted(found),
        "commit": commit(),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    _rewrite(cell.folder, scorer.column, scored, metrics, record)


def _hold_against_reference(
    archive: Archive, cell: OldCell, scorer: Scorer, source: str, scored: Scored
) -> None:
    """Puts the reference's diversity on the same prompts beside the cell's."""
    reference = archive.reference(cell, source, scorer.needs)
    if reference is not None:
        for name, values in scorer.compute(reference).prompts.items():
            scored.prompts[BASELINE + name.removeprefix(DIVERSITY)] = values


def _rewrite(
    folder: Path, column: str, scored: Scored, metrics: dict[str, Any], record: Record
) -> None:
    result = read_json(folder / RESULT)
    old = result.get(RESCORED, {}).get(column, {"columns": [], "metrics": []})
    kept = {name: value for name, value in result["metrics"].items() if name not in old["metrics"]}
    result["metrics"] = kept | metrics
    result[RESCORED] = result.get(RESCORED, {}) | {column: record}
    tables = {SAMPLES: scored.samples, PROMPTS: scored.prompts}
    with whole_directory(folder) as temporary:
        for path in folder.iterdir():
            if path.name not in (RESULT, *tables):
                shutil.copy2(path, temporary)
        for name, new in tables.items():
            table = pd.read_parquet(folder / name).drop(columns=old["columns"], errors="ignore")
            write_table(table.assign(**new), temporary / name)
        write_json(temporary / RESULT, result)
