"""Runs the cells of a suite in processes of one thread each, and shows how far it is."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from textgym.benchmarks.cell import Cell, Pretrained, cells, sweep
from textgym.benchmarks.exact import REGRET
from textgym.benchmarks.experiment import Outcome, prepare_reference, run_cell
from textgym.benchmarks.measure import HEADLINE
from textgym.benchmarks.suite import Suite
from textgym.benchmarks.workbench import Workbench

PRELOADED = (
    "textgym.benchmarks.experiment",
    "transformers.models.llama.modeling_llama",
    "datasets",
)
"""Slow imports that every worker needs."""

Job = Callable[[Workbench, Cell], Any]
Execute = Callable[[Job, list[Cell]], Iterator[tuple[Cell, Callable[[], Any]]]]
"""Runs a job on each cell and yields (cell, a call that returns or raises) as they end."""


def run_suite(
    suite: Suite,
    bench: Workbench,
    models: Mapping[str, Pretrained],
    jobs: int,
    console: Console,
) -> list[Outcome]:
    """Runs the cells that the results folder does not hold; returns an outcome for each.

    References come first, so that the cells only read them. A cell that fails is recorded and
    does not stop the others. Numbers do not depend on `jobs`.

    Args:
        suite: what to run.
        bench: knows the results folder; runs the cells itself where `jobs` is 1.
        models: what the cells of each task (by its label) start from.
        jobs: processes, of one torch thread each.
        console: where progress goes.

    Raises:
        TextGymError: a reference that could not be made.
        KeyboardInterrupt: Ctrl-C; finished cells are kept, nothing is half-written.
    """
    every = cells(suite, models)
    todo = [cell for cell in every if not cell.is_finished(bench.out)]
    if len(todo) < len(every):
        console.print(f"{len(every) - len(todo)} of {len(every)} cells were finished before")
    outcomes: list[Outcome] = []
    try:
        with _workers(min(jobs, len(todo)), bench) as execute, _progress(console) as progress:
            bar = progress.add_task("references", total=len(todo))
            for stage in _references(todo):
                for _, result in execute(prepare_reference, stage):
                    result()
            progress.update(bar, description="cells")
            for cell, result in execute(run_cell, todo):
                outcomes.append(_outcome(cell, result))
                line = outcome_line(outcomes[-1])
                progress.console.print(line, highlight=False, markup=False, soft_wrap=True)
                progress.advance(bar)
    finally:
        sweep(bench.out)
    return outcomes


def outcome_line(outcome: Outcome) -> str:
    """Returns the one line shown for a finished cell."""
    if outcome.error:
        return f"FAILED {outcome.cell}: {outcome.error}"
    shown = {"reward": "reward", "gold": "gold", "KL": "kl_seq", "diversity loss": HEADLINE_LOSS}
    if REGRET in outcome.metrics:
        shown = {
            "regret": REGRET,
            "reward": "reward",
            "KL": "kl_seq",
            "entropy kept": "entropy_kept",
        }
    values = {label: outcome.metrics.get(name, {}).get("value") for label, name in shown.items()}
    numbers = [f"{k} {'-' if v is None else format(v, '.3f'):>6}" for k, v in values.items()]
    return "  ".join([f"{outcome.cell:<40}", *numbers, f"{outcome.seconds:.0f} s"])


HEADLINE_LOSS = f"diversity_loss/{HEADLINE}"


def _references(todo: list[Cell]) -> list[list[Cell]]:
    """Returns one cell per task (its reference is trained), then one per other (task, seed)."""
    firsts: dict[str, Cell] = {}
    others: dict[tuple[str, int], Cell] = {}
    for cell in todo:
        first = firsts.setdefault(cell.task.label, cell)
        if cell.seed != first.seed:
            others.setdefault((cell.task.label, cell.seed), cell)
    return [list(firsts.values()), list(others.values())]


def _outcome(cell: Cell, result: Callable[[], Any]) -> Outcome:
    try:
        outcome: Outcome = result()
    except BrokenProcessPool:
        return Outcome(cell.name, {}, 0.0, "its process died (out of memory?)")
    return outcome


def _progress(console: Console) -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    return Progress(*columns, TimeElapsedColumn(), console=console, transient=True)


@contextmanager
def _workers(jobs: int, bench: Workbench) -> Iterator[Execute]:
    """Gives `execute`, in this process for one job; an error on the way stops running jobs."""
    if jobs <= 1:
        torch.set_num_threads(1)
        yield partial(_execute_here, bench)
        return
    context = worker_context()
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, context, initializer=_start_worker, initargs=(bench.out,))
    try:
        yield partial(_execute_in, pool)
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def worker_context() -> BaseContext:
    """Returns how workers are started; on Linux from a process that has imported what they need.

    That process runs nothing, so that no thread of PyTorch's is lost in the copy. Calling this
    early lets it import beside other work.
    """
    # Batches differ in size from step to step, and oneDNN keeps a plan for every size it has met.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    forkserver.ensure_running()
    return context


def _execute_here(
    bench: Workbench, job: Job, todo: list[Cell]
) -> Iterator[tuple[Cell, Callable[[], Any]]]:
    for cell in todo:
        yield cell, partial(job, bench, cell)


def _execute_in(
    pool: ProcessPoolExecutor, job: Job, todo: list[Cell]
) -> Iterator[tuple[Cell, Callable[[], Any]]]:
    futures = {pool.submit(_in_worker, job, cell): cell for cell in todo}
    for future in as_completed(futures):
        yield futures[future], future.result


_BENCH: list[Workbench] = []
"""The worker process's own, set when it starts."""


def _start_worker(out: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which stops us
    torch.set_num_threads(1)
    _BENCH.append(Workbench(out))


def _in_worker(job: Job, cell: Cell) -> Any:
    try:
        return job(_BENCH[0], cell)
    finally:
        _give_memory_back()


def _give_memory_back() -> None:
    """Returns freed memory to the system, where the C library would keep it (glibc)."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
