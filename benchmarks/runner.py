"""Runs the cells of a suite in processes of one thread each, and shares them with other runs."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial

from rich.console import Console

from textgym.benchmarks.cell import RESULT, Cell, Pretrained, cells, read_json, sweep
from textgym.benchmarks.exact import REGRET
from textgym.benchmarks.experiment import Outcome, prepare_reference, record_failure, run_cell
from textgym.benchmarks.live import CELLS, Costs, View
from textgym.benchmarks.locks import held
from textgym.benchmarks.measure import HEADLINE
from textgym.benchmarks.suite import Suite
from textgym.benchmarks.workbench import Workbench
from textgym.benchmarks.workers import Ended, Here, Job, Pool, Workers
from textgym.errors import BusyError, ConfigError, ProcessDiedError

POLL = 1.0
"""Seconds between looks at what another process holds."""


def run_suite(
    suite: Suite,
    bench: Workbench,
    models: Mapping[str, Pretrained],
    jobs: int,
    console: Console,
) -> list[Outcome]:
    """Runs the cells that the results folder does not hold; returns an outcome for each.

    References come first, so that the cells only read them. A cell that fails, or whose process
    dies, is recorded and does not stop the others. Numbers do not depend on `jobs`. Other
    processes may run the same cells into the same folder: each cell is run by one of them.

    Args:
        suite: what to run.
        bench: knows the results folder; runs the cells itself where `jobs` is 1.
        models: what the cells of each task (by its label) start from.
        jobs: processes, of one torch thread each; never more than cells.
        console: where progress goes.

    Raises:
        ConfigError: jobs < 1.
        TextGymError: a reference that could not be made.
        KeyboardInterrupt: Ctrl-C; finished cells are kept, nothing is half-written.
    """
    if jobs < 1:
        raise ConfigError(f"jobs must be >= 1, got {jobs}")
    every = cells(suite, models)
    costs, todo = _plan(bench, every)
    if len(todo) < len(every):
        console.print(f"{len(every) - len(todo)} of {len(every)} cells were finished before")
    if todo:
        console.print(f"{len(todo)} cells to run, {min(jobs, len(todo))} at a time")
    outcomes: list[Outcome] = []
    run = partial(run_unless_done, since=time.time())
    sweep(bench.out)
    try:
        with (
            _workers(jobs, len(todo), bench) as pool,
            View(console, todo, pool.size, costs) as view,
        ):
            for stage in _references(todo):
                for ended in share(pool, prepare_reference, stage, view):
                    _require_reference(ended, view)
            view.stage(CELLS)
            for ended in share(pool, run, todo, view):
                outcome = _outcome(bench, ended)
                outcomes.append(outcome)
                line = outcome_line(outcome)
                view.finish(ended.cell, line, outcome.seconds, failed=bool(outcome.error))
    finally:
        sweep(bench.out)
    return outcomes


def _plan(bench: Workbench, every: list[Cell]) -> tuple[Costs, list[Cell]]:
    """Returns what finished cells have cost, and the cells that are not finished."""
    costs, todo = Costs(), []
    for cell in every:
        if cell.is_finished(bench.out):
            result = read_json(bench.out / cell.name / RESULT)
            costs.add(cell, result["seconds"]["total"])
        else:
            todo.append(cell)
    return costs, todo


def _require_reference(ended: Ended, view: View) -> None:
    """Raises what the making of a reference raised; a death is left to the cells to try again."""
    if isinstance(ended.error, ProcessDiedError):
        view.say(f"reference of {ended.cell.name}: {ended.error}; its cells will try again")
    elif ended.error is not None:
        raise ended.error


def share(pool: Pool, job: Job, todo: list[Cell], view: View) -> Iterator[Ended]:
    """Runs a job on each cell, but for those that another process is at: they are put off.

    When no others are left, they are tried again and again until that process is done or dead.

    Yields: every cell once, as it ends.
    """
    fresh, put_off, running, again = deque(todo), deque[Cell](), 0, 0.0
    while fresh or put_off or running:
        if put_off and not fresh and running < pool.size and time.monotonic() >= again:
            fresh, put_off, again = put_off, deque(), time.monotonic() + POLL
        while fresh and running < pool.size:
            view.begin(fresh[0])
            pool.submit(job, fresh.popleft())
            running += 1
        if not running:
            view.waiting()
        for ended in pool.wait(POLL if put_off else None):
            running -= 1
            if isinstance(ended.error, BusyError):
                view.put_off(ended.cell)
                put_off.append(ended.cell)
            else:
                view.end(ended.cell)
                yield ended


def run_unless_done(bench: Workbench, cell: Cell, since: float) -> Outcome:
    """Runs a cell, unless another process has run it meanwhile.

    Args:
        bench: runs it.
        cell: what to run.
        since: when this run began, seconds since 1970: earlier failures are tried again.

    Raises: BusyError when another process is at it.
    """
    with held(bench.out, bench.out / cell.name, wait=False):
        return _done_elsewhere(bench, cell, since) or run_cell(bench, cell)


def _done_elsewhere(bench: Workbench, cell: Cell, since: float) -> Outcome | None:
    if cell.is_finished(bench.out):
        result = read_json(bench.out / cell.name / RESULT)
        seconds, memory = result["seconds"]["total"], result.get("peak_memory")
        return Outcome(cell.name, result["metrics"], seconds, memory=memory, elsewhere=True)
    cause = cell.failure(bench.out, since)
    return None if cause is None else Outcome(cell.name, {}, 0.0, cause, elsewhere=True)


def _outcome(bench: Workbench, ended: Ended) -> Outcome:
    """Returns the outcome of a cell; one whose job raised, or whose process died, has failed."""
    if ended.error is None:
        outcome: Outcome = ended.value
        return outcome
    # Another process that has taken the cell up, or a full disk: then this run alone knows.
    cell, error = ended.cell, ended.error
    with suppress(BusyError, OSError), held(bench.out, bench.out / cell.name, wait=False):
        done = _done_elsewhere(bench, cell, since=math.inf)
        return done or record_failure(bench.out, cell, error, ended.seconds)
    return Outcome(cell.name, {}, ended.seconds, str(error))


def outcome_line(outcome: Outcome) -> str:
    """Returns the one line shown for a finished cell."""
    if outcome.error:
        where = " (in another process)" if outcome.elsewhere else ""
        return f"FAILED {outcome.cell}: {outcome.error}{where}"
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
    warnings = [f"! {name}" for name in outcome.warnings]
    elsewhere = ["by another process"] if outcome.elsewhere else []
    time_ = f"{outcome.seconds:.0f} s"
    return "  ".join([f"{outcome.cell:<40}", *numbers, time_, *elsewhere, *warnings])


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


@contextmanager
def _workers(jobs: int, todo: int, bench: Workbench) -> Iterator[Pool]:
    """Gives what runs the jobs, this process for one; an error on the way stops running jobs."""
    # One cell that is left may be one that kills its process, so that only `jobs` decides.
    if jobs == 1:
        pool: Pool = Here(bench)
    else:
        pool = Workers(min(jobs, todo), partial(Workbench, bench.out, bench.tracking))
    try:
        yield pool
    except BaseException:
        pool.close(now=True)
        raise
    pool.close(now=False)
