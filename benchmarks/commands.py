"""What the commands do: the heavy half of the command line."""

from __future__ import annotations

import dataclasses
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from textgym.benchmarks import report, trade_off_tables
from textgym.benchmarks.cell import OWN_MODEL, SUITE, cells, require_writable, write_json
from textgym.benchmarks.experiment import Outcome
from textgym.benchmarks.leaderboard import build, read_entries
from textgym.benchmarks.locks import held
from textgym.benchmarks.measure import Measured, measure
from textgym.benchmarks.preflight import preflight
from textgym.benchmarks.provenance import cores
from textgym.benchmarks.runner import run_suite
from textgym.benchmarks.suite import Evaluation, Spec, Suite
from textgym.benchmarks.tracking import Tracking
from textgym.benchmarks.workbench import Workbench, evaluation_rows, samples_per_prompt
from textgym.benchmarks.workers import worker_context
from textgym.errors import ConfigError
from textgym.models.policy import Policy
from textgym.models.precision import AUTO, describe
from textgym.rollout import rollout, score
from textgym.seeding import Streams
from textgym.types import Rollout, Sampling

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit statuses: cells that failed, input the user must mend, Ctrl-C."""
LEADERBOARD = "leaderboard"
"""What is locked while the leaderboard is written."""


def bench_all(suites: dict[Path, Suite], jobs: int | None, trackers: tuple[str, ...] = ()) -> int:
    """Runs suites one after the other, each into its folder; returns the worst exit status."""
    worst = 0
    for out, suite in suites.items():
        worst = max(worst, bench(suite, out, jobs, trackers))
        if worst == INTERRUPTED:
            break
    return worst


def bench(suite: Suite, out: Path, jobs: int | None, trackers: tuple[str, ...] = ()) -> int:
    """Runs the suite and prints its leaderboard; returns the exit status.

    Args:
        suite: what to run.
        out: its results folder, which other processes may be filling too.
        jobs: processes of one thread each, so that numbers do not depend on it; None for as many
            as there are cores.
        trackers: who is told of the training, see `textgym.benchmarks.tracking`.
    """
    console = report.terminal()
    try:
        workbench = Workbench(out, Tracking(trackers, suite.name))
        return _bench(suite, workbench, jobs or cores(), console)
    except KeyboardInterrupt:
        console.print("\nstopped; finished cells are kept, run the same command again to go on")
        return INTERRUPTED


def _bench(suite: Suite, workbench: Workbench, jobs: int, console: Console) -> int:
    out, start = workbench.out, time.perf_counter()
    torch.set_num_threads(1)  # as in the worker processes: a preflight may train reward models
    require_writable(out)
    if jobs > 1:
        worker_context()  # begins to import beside what follows
    try:
        with console.status("reading the models") as status:
            models = preflight(workbench, suite, status.update)
    except BaseException:
        with suppress(OSError):
            out.rmdir()  # only if it is empty
        raise
    planned = cells(suite, models)
    own = [label for label, model in models.items() if model.name == OWN_MODEL]
    if own:
        line = f"{', '.join(own)}: start from the language model that the task brings"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    suite_record = {"suite": dataclasses.asdict(suite), "cells": [cell.name for cell in planned]}
    with held(out, out / SUITE, wait=True):
        write_json(out / SUITE, suite_record)
    console.print(
        f"{suite.name}: tasks {len(suite.tasks)} x agents {len(suite.agents)} x "
        f"seeds {len(suite.seeds)}, {suite.budget} completions each, into {out}"
    )
    outcomes = run_suite(suite, workbench, models, jobs, console)
    with held(out, out / LEADERBOARD, wait=True):
        leaderboard(out, write=True)
    console.print(_cost(outcomes, time.perf_counter() - start), highlight=False)
    failed = [outcome for outcome in outcomes if outcome.error]
    if not failed:
        return 0
    names = ", ".join(outcome.cell for outcome in failed)
    line = f"{len(failed)} of {len(planned)} cells failed: {names}"
    console.print(line, highlight=False, soft_wrap=True)
    return BAD_INPUT if any(outcome.bad_input for outcome in failed) else FAILED


def _cost(outcomes: list[Outcome], seconds: float) -> str:
    """Returns one line: how long it took and how much memory a job held at most."""
    minutes, rest = divmod(round(seconds), 60)
    most = max((o.memory for o in outcomes if o.memory is not None), default=None)
    memory = "" if most is None else f", at most {most / 1e9:.1f} GB in a job"
    elsewhere = sum(outcome.elsewhere for outcome in outcomes)
    others = f", {elsewhere} of them by other processes" if elsewhere else ""
    return f"{len(outcomes)} cells in {minutes} min {rest} s{others}{memory}"


def leaderboard(folder: Path, write: bool) -> None:
    """Prints the leaderboard of a results folder and writes it beside the results."""
    entries, console = read_entries(folder), report.terminal()
    table = build(entries)
    report.print_table(table, console)
    if write:
        require_writable(folder)
        report.write(table, folder)
        if trade_off_tables.write(folder, entries):
            line = f"diversity at matched KL and reward: {folder / trade_off_tables.FOLDER}"
            console.print(line, highlight=False, soft_wrap=True)


def sample(
    models: list[str],
    spec: Spec,
    prompts: int,
    samples: int,
    temperature: float,
    split: str,
    seed: int,
) -> None:
    """Prints completions of each model to the same prompts, with rewards and gold scores."""
    sampling = Sampling(temperature=temperature)
    bench = Workbench(Path())
    policies = [bench.policy(name) for name in models]
    task = bench.task(spec, models[0])
    rows = evaluation_rows(task, Evaluation(prompts, samples, split), seed)
    columns = []
    for policy in policies:
        generator = Streams(seed).torch("evaluation")
        drawn = rollout(
            policy,
            task,
            rows,
            samples_per_prompt=samples,
            generator=generator,
            sampling=sampling,
        )
        columns.append(_scored_texts(score(drawn, task), task))
    console = report.terminal()
    for n, prompt in enumerate(rows["prompt"]):
        console.print(f"\n[{n + 1}] {prompt}", style="bold", markup=False, highlight=False)
        table = Table(show_lines=True)
        for name in models:
            table.add_column(name, ratio=1)
        for j in range(n * samples, (n + 1) * samples):
            table.add_row(*(texts[j] for texts in columns))
        console.print(table, markup=False)


def _scored_texts(samples: Rollout, task: Any) -> list[str]:
    assert samples.rewards is not None, "score() sets them"
    notes = [f"reward {value:.3f}" for value in samples.rewards.tolist()]
    if task.has_gold:
        gold = task.gold(samples.prompts, samples.completions, **samples.columns)
        notes = [f"{note}, gold {value:.3f}" for note, value in zip(notes, gold, strict=True)]
    texts = (text.strip() for text in samples.completions)
    return [f"{text}\n({note})" for text, note in zip(texts, notes, strict=True)]


def evaluate(
    policy_name: str,
    reference_name: str,
    spec: Spec,
    prompts: int,
    samples: int | None,
    split: str,
    seed: int,
    precision: str | None,
    as_json: bool,
) -> None:
    """Prints what separates a policy from a reference on a task; trains nothing."""
    bench = Workbench(Path())
    names = (policy_name, reference_name)
    policy, reference = (bench.policy(name, precision or AUTO) for name in names)
    _require_same_tokens(policy, reference)
    task = bench.task(spec, reference_name)
    evaluation = Evaluation(prompts, samples, split)
    rows, k = evaluation_rows(task, evaluation, seed), samples_per_prompt(task, evaluation)
    streams = Streams(seed)
    found: list[Measured] = []
    for model, stream in ((reference, "reference-evaluation"), (policy, "evaluation")):
        drawn = rollout(model, task, rows, samples_per_prompt=k, generator=streams.torch(stream))
        baseline = found[0].baseline() if found else None
        found.append(measure(drawn, task, model, reference, baseline=baseline))
    of_reference, of_policy = (measured.metrics for measured in found)
    if as_json:
        record: dict[str, Any] = {"task": spec.label, "prompts": len(rows)}
        models = {"policy": policy, "reference": reference}
        computed = {name: describe(model.precision) for name, model in models.items()}
        record |= {"samples_per_prompt": k, "precision": computed}
        print(json.dumps({**record, "reference": of_reference, "policy": of_policy}, indent=1))
        return
    table = Table(title=f"{spec.label}: {len(rows)} prompts x {k} samples, 95% intervals")
    table.add_column("metric")
    table.add_column(f"policy {policy_name}", justify="right")
    table.add_column(f"reference {reference_name}", justify="right")
    for name in of_policy:
        table.add_row(name, _shown(of_policy, name), _shown(of_reference, name))
    report.terminal().print(table)


def _shown(metrics: dict[str, dict[str, float | None]], name: str) -> str:
    entry = metrics.get(name, {})
    value, low, high = (entry.get(part) for part in ("value", "low", "high"))
    if value is None:
        return report.NONE
    return f"{value:.4g}" if low is None or high is None else f"{value:.4g} ({low:.4g}, {high:.4g})"


def _require_same_tokens(policy: Policy, reference: Policy) -> None:
    if policy.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
        raise ConfigError(
            f"KL needs one vocabulary, and those of {policy.name} ({policy.vocab_size} tokens) and "
            f"{reference.name} ({reference.vocab_size}) differ"
        )
