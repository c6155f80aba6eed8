"""Running a study's points in processes, and writing what they found."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from textgym.benchmarks.cell import read_json, require_writable
from textgym.benchmarks.provenance import commit, machine, versions
from textgym.benchmarks.studies.study import STUDIES, Point, Study, point_name, read_rows, shown
from textgym.benchmarks.workers import watch_parent, worker_context
from textgym.cache import cache_root
from textgym.errors import ConfigError, ResultsError
from textgym.feedback.report.plots import require_matplotlib

Made = tuple[Point, dict[str, Any]]


def run_study(
    name: str,
    out: Path,
    seeds: int | None,
    jobs: int,
    console: Console,
    settings: Mapping[str, float] | None = None,
) -> None:
    """Runs the points that the folder does not hold, then writes the study's page.

    Args:
        name: one of `STUDIES`.
        out: the results folder. Points are kept in `points/`, one file each, written whole.
        seeds: how many, from 0 on; the study's own by default.
        jobs: processes, of one thread each.
        console: where progress goes.
        settings: of what is told, see `Study.defaults`.

    Raises:
        UnknownNameError: no such study, or no such setting.
        ConfigError: seeds < 1, or no matplotlib.
        ResultsError: the folder cannot be written, or holds another study's points.
    """
    study: Study = STUDIES.load(name)(settings)
    if seeds is not None and seeds < 1:
        raise ConfigError(f"seeds must be >= 1, got {seeds}")
    require_matplotlib()
    require_writable(out)
    wanted = [point for seed in range(seeds or study.seeds) for point in study.points(seed)]
    todo = [point for point in wanted if not _is_kept(out, name, point)]
    if len(todo) < len(wanted):
        console.print(f"{len(wanted) - len(todo)} of {len(wanted)} points were finished before")
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("points"), TimeElapsedColumn())
    start = time.perf_counter()
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("points", total=len(todo))
        for point, made in _run_all(name, todo, jobs):
            _keep(out, name, point, made)
            progress.console.print(f"{point_name(point)}  {made['seconds']:.0f} s")
            progress.advance(bar)
    write_page(name, out, settings)
    console.print(f"{len(todo)} points in {time.perf_counter() - start:.0f} s; see {out}/study.md")


def write_page(name: str, out: Path, settings: Mapping[str, float] | None = None) -> None:
    """Writes `rows.csv`, `study.png` and `study.md` of the points that a folder holds.

    Raises:
        ResultsError: it holds none.
    """
    from matplotlib.figure import Figure

    study: Study = STUDIES.load(name)(settings)
    rows = read_rows(out)
    if rows.empty:
        raise ResultsError(f"{out} holds no points of a study")
    rows.to_csv(out / "rows.csv", index=False)
    summary = study.summary(rows)
    figure = Figure(figsize=(9, 4), layout="constrained")
    study.draw(summary, figure)
    figure.savefig(out / "study.png", dpi=120)
    count = rows["seed"].nunique()
    page = [
        f"# {name}",
        study.question,
        shown(summary, study.by),
        f"Mean ± {study.spread} over {count} {'seeds' if count > 1 else 'seed'}.",
        f"![{name}](study.png)",
        "\n".join(f"- {finding}" for finding in study.findings(summary)),
        *(
            [f"Settings: {', '.join(f'{k} = {v:g}' for k, v in study.settings.items())}."]
            if study.settings
            else []
        ),
        f"Made by `textgym study {name} --seeds {count}`.",
    ]
    (out / "study.md").write_text("\n\n".join(page) + "\n", "utf-8")


def _file(out: Path, point: Point) -> Path:
    return out / "points" / f"{point_name(point)}.json"


def _is_kept(out: Path, name: str, point: Point) -> bool:
    path = _file(out, point)
    if not path.is_file():
        return False
    kept = read_json(path)
    if kept.get("study") != name:
        raise ResultsError(f"{out} holds points of {kept.get('study')!r}, not of {name!r}")
    return kept.get("point") == point


def _keep(out: Path, name: str, point: Point, made: dict[str, Any]) -> None:
    """Writes a point's file, whole or not at all."""
    path = _file(out, point)
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    record = {"study": name, "point": point, **made}
    unfinished.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", "utf-8")
    unfinished.replace(path)


def _run_all(name: str, todo: list[Point], jobs: int) -> Iterator[Made]:
    if min(jobs, len(todo)) <= 1:
        torch.set_num_threads(1)
        yield from ((point, _run_point(name, point)) for point in todo)
        return
    pool = ProcessPoolExecutor(jobs, worker_context(), initializer=_start_worker)
    try:
        futures = {pool.submit(_run_point, name, point): point for point in todo}
        yield from ((futures[future], future.result()) for future in as_completed(futures))
    finally:
        _stop(pool)


def _stop(pool: ProcessPoolExecutor) -> None:
    """Ends the workers, those at work too where an error ends the study early."""
    workers: Iterable[Any] = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in workers:
        process.terminate()


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which stops us
    watch_parent()
    torch.set_num_threads(1)


def _run_point(name: str, point: Point) -> dict[str, Any]:
    start = time.perf_counter()
    study: Study = STUDIES.load(name)()
    rows = study.run(point, cache_root())
    return {
        "rows": rows,
        "seconds": time.perf_counter() - start,
        "versions": versions(),
        "commit": commit(),
        "machine": machine(),
    }
