"""One cell from start to end: make the agent, train it, sample from outside, measure, write."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from textgym.agents.base import Agent, Setup
from textgym.agents.reference import Human
from textgym.benchmarks.cell import Cell, write_cell, write_error
from textgym.benchmarks.checkpoints import CHECKPOINT, CHECKPOINTS, Checkpoints, is_due
from textgym.benchmarks.exact import measure_exactly, probe
from textgym.benchmarks.health import gather, health
from textgym.benchmarks.health_checks import fired
from textgym.benchmarks.measure import Baseline, measure
from textgym.benchmarks.provenance import commit, machine, peak_memory, versions
from textgym.benchmarks.recording import CountedTask, Curve
from textgym.benchmarks.tracking import Tracker, tracked
from textgym.benchmarks.workbench import (
    Workbench,
    evaluation_rows,
    make_agent,
    samples_per_prompt,
)
from textgym.errors import PluginError, ProcessDiedError, TextGymError, TrainingError
from textgym.models.precision import describe
from textgym.seeding import Streams
from textgym.types import Budget, Rollout

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class Outcome:
    """What the runner hears of a cell.

    Attributes:
        cell: its name.
        metrics: the result's, or empty when it failed.
        seconds: wall time.
        error: one line, or empty.
        bad_input: whether the error is the user's to mend rather than a diverged training.
        memory: the most bytes that the process of the cell has held, or None.
        warnings: the health checks that fired.
        elsewhere: whether another process ran the cell.
    """

    cell: str
    metrics: dict[str, dict[str, Any]]
    seconds: float
    error: str = ""
    bad_input: bool = False
    memory: int | None = None
    warnings: list[str] = field(default_factory=list)
    elsewhere: bool = False


def prepare_reference(bench: Workbench, cell: Cell) -> None:
    """Makes the cell's reference and its samples, so that cells running at once only read them.

    Raises: BusyError when another process is making them.
    """
    bench.baseline(cell, wait=False)


def run_cell(bench: Workbench, cell: Cell) -> Outcome:
    """Runs a cell and writes its directory; a failure is written too, as `error.json`."""
    start = time.perf_counter()
    try:
        with tracked(bench.tracking, bench.out, cell) as tracker:
            result, tables = _run(bench, cell, tracker)
            tracker.finish(result["metrics"])
    except (Exception, SystemExit) as error:
        return record_failure(bench.out, cell, error, time.perf_counter() - start)
    result["seconds"]["total"] = seconds = time.perf_counter() - start
    result["peak_memory"] = memory = peak_memory()
    write_cell(bench.out / cell.name, result, tables)
    return Outcome(cell.name, result["metrics"], seconds, memory=memory, warnings=fired(result))


def record_failure(out: Path, cell: Cell, error: BaseException, seconds: float) -> Outcome:
    """Writes a cell's `error.json`; returns its outcome."""
    write_error(out / cell.name, _describe(error, cell, seconds))
    no_input = (TrainingError, ProcessDiedError)
    bad_input = isinstance(error, TextGymError) and not isinstance(error, no_input)
    message = str(error) if isinstance(error, TextGymError) else _one_line(error)
    return Outcome(cell.name, {}, seconds, message, bad_input)


def _run(
    bench: Workbench, cell: Cell, tracker: Tracker
) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    budget, streams, curve = Budget(cell.budget), Streams(cell.seed), Curve(tracker=tracker)
    task = CountedTask(bench.task(cell.task, cell.model).for_run(streams))
    reference, baseline = bench.reference(cell), bench.baseline(cell)
    agent = make_agent(cell.agent)
    rows = evaluation_rows(task, cell.evaluation, cell.seed)
    policy = bench.trainable(reference, cell, streams)
    setup = Setup(task, policy, reference, budget, streams, curve)
    curve.look = probe(setup, list(rows["prompt"]))
    checkpoints = _checkpoints(agent, cell, setup, rows, baseline)
    if checkpoints is not None:
        curve.look = partial(_look, checkpoints, task, budget)
    start = time.perf_counter()
    train(agent, cell, bench, setup)
    looking = 0.0 if checkpoints is None else checkpoints.seconds
    seconds = {"train": time.perf_counter() - start - looking}
    scored = task.scored
    # Data hold one human text per prompt: repeating it would make people look uniform.
    k = 1 if isinstance(agent, Human) else samples_per_prompt(task, cell.evaluation)
    start = time.perf_counter()
    samples = agent.sample(rows, k, streams.torch("evaluation"))
    _check_samples(samples, len(rows), agent)
    exact, summaries = measure_exactly(agent, reference, task, list(rows["prompt"]))
    measured = measure(
        samples,
        task.inner,
        agent.policy,
        reference,
        baseline=baseline,
        kl_estimates=agent.kl_estimates(),
        exact=exact,
    )
    seconds["evaluate"] = time.perf_counter() - start
    tables = {
        "curve": curve.frame(),
        "samples": measured.samples,
        "prompts": measured.prompts,
    }
    if checkpoints is not None:
        checkpoints.look(len(curve.rows), budget.used)
        trained_from_reference = bool(curve.rows) and agent.starts_from == "reference"
        tables[CHECKPOINTS] = checkpoints.frame(trained_from_reference)
        seconds["checkpoints"] = checkpoints.seconds
    evidence = gather(samples, measured, baseline, tables["curve"], setup.policy.precision)
    result = {
        "config": cell.config,
        "seed": cell.seed,
        "precision": describe(setup.policy.precision),
        "budget": {
            "completions": cell.budget,
            "used": budget.used,
            "scored": scored,
            "logged_steps": len(curve.rows),
        },
        "evaluation": {"prompts": len(rows), "samples_per_prompt": samples.samples_per_prompt},
        "common_length": measured.common_length,
        "metrics": measured.metrics | {name: {"value": v} for name, v in summaries.items()},
        "health": health(evidence),
        "seconds": seconds,
        "versions": versions(),
        "commit": commit(),
        "machine": machine(),
    }
    return result, tables


def _checkpoints(
    agent: Agent, cell: Cell, setup: Setup, rows: Dataset, baseline: Baseline
) -> Checkpoints | None:
    """Returns what looks at the agent while it trains; None where nobody asked or nothing can."""
    if baseline.start is None or isinstance(agent, Human):
        return None
    assert isinstance(setup.task, CountedTask), "every run's is"
    return Checkpoints(
        agent,
        setup.task.inner,
        setup.reference,
        rows.select(range(len(baseline.start))),
        cell.evaluation.checkpoint_samples,
        setup.streams,
        baseline.start,
        baseline.common_length,
    )


def _look(
    checkpoints: Checkpoints, task: CountedTask, budget: Budget, rows: int
) -> dict[str, float]:
    """Looks at the agent where a checkpoint is due, at no cost to what it has scored.

    An agent that names its policy only when it has trained cannot be looked at before.
    """
    if not is_due(rows) or checkpoints.agent.policy is None:
        return {}
    scored = task.scored
    seen = checkpoints.look(rows, budget.used)
    task.scored = scored
    return {f"{CHECKPOINT}{name}": value for name, value in seen.items()}


def train(agent: Agent, cell: Cell, bench: Workbench, setup: Setup) -> None:
    """Trains the agent, from the pretrained model for the agents that say so.

    The `sft` agent without options of its own is the reference, which is not trained twice.
    """
    if cell.agent.name == "sft" and not cell.agent.options and cell.reference == "sft":
        agent.task, agent.policy = setup.task, setup.reference
        return
    if agent.starts_from == "pretrained":
        setup.policy = bench.trainable(bench.pretrained(cell), cell, setup.streams)
    agent.train(setup)


def _check_samples(samples: Rollout, prompts: int, agent: Agent) -> None:
    expected = prompts * samples.samples_per_prompt
    if len(samples) != expected:
        raise PluginError(
            f"{type(agent).__name__}.sample returned {len(samples)} rows; expected {expected}"
            f" ({prompts} prompts x {samples.samples_per_prompt})"
        )


def _describe(error: BaseException, cell: Cell, seconds: float) -> dict[str, Any]:
    return {
        "config": cell.config,
        "seed": cell.seed,
        "error": type(error).__name__,
        "step": getattr(error, "step", None),
        "cause": getattr(error, "cause", None) or _one_line(error),
        "traceback": traceback.format_exception(error),
        "seconds": {"total": seconds},
        "versions": versions(),
        "machine": machine(),
    }


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
