"""A fair search: as many trials for every agent, drawn from its stated space, judged alike.

A suite's table `search` holds, by agent label, the options to vary: `[low, high]`, two different
numbers, is a range (on a logarithmic scale where both are above 0; of whole numbers where both
are), any other list the choices. An agent's first trial has the defaults, the others come from a
scrambled Sobol sequence (Optuna's), which covers a small space more evenly than chance and does not
depend on how the trials end: they run at once, stop and go on like any other cells. Trials are
judged on the validation split with a seed of their own, by what the leaderboard ranks by, averaged
over the suite's tasks.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import tomli_w

from textgym.benchmarks import report
from textgym.benchmarks.cell import RESULT, cells, read_json, require_writable
from textgym.benchmarks.commands import FAILED, INTERRUPTED
from textgym.benchmarks.leaderboard import ORDER
from textgym.benchmarks.preflight import preflight
from textgym.benchmarks.provenance import cores
from textgym.benchmarks.runner import run_suite
from textgym.benchmarks.suite import Options, Spec, Suite
from textgym.benchmarks.workbench import Workbench, make_agent
from textgym.errors import ConfigError, PluginError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

SPLIT = "validation"
TRIALS, TUNED = "trials.csv", "tuned.toml"


def tune(suite: Suite, out: Path, trials: int, seed: int, jobs: int | None) -> int:
    """Runs the search and writes `trials.csv` and `tuned.toml`; returns the exit status.

    Args:
        suite: its agents with an entry in `search` are tuned.
        out: folder of the trials, which are kept so that a stopped search goes on.
        trials: per agent; the first has the defaults.
        seed: of the trials' prompts, training and Sobol points.
        jobs: processes.

    Raises:
        ConfigError: nothing to search, a space that is none, or one without the default.
        PluginError: Optuna is not installed.
    """
    console = report.terminal()
    if seed in suite.seeds:
        raise ConfigError(f"seed {seed} is one that suite {suite.name!r} is judged by")
    planned = plan(suite, trials, seed)
    search = as_suite(suite, planned, seed)
    require_writable(out)
    bench = Workbench(out)
    with console.status("reading the models") as status:
        models = preflight(bench, search, status.update)
    console.print(f"{suite.name}: {len(planned)} agents x {trials} trials, into {out}")
    try:
        outcomes = run_suite(search, bench, models, jobs or cores(), console)
    except KeyboardInterrupt:
        console.print("\nstopped; finished trials are kept, run the same command again to go on")
        return INTERRUPTED
    scores = {cell.name: score(out / cell.name) for cell in cells(search, models)}
    table = tabulate(search, planned, scores, seed)
    table.to_csv(out / TRIALS, index=False, float_format="%.6g")
    best = chosen(planned, table)
    (out / TUNED).write_text(tomli_w.dumps(with_options(suite, best)), "utf-8")
    for label, options in best.items():
        console.print(f"{label}: {options}", highlight=False, markup=False, soft_wrap=True)
    return FAILED if any(outcome.error for outcome in outcomes) else 0


def plan(suite: Suite, trials: int, seed: int) -> dict[str, list[Spec]]:
    """Returns every tuned agent's trials by its label, each a spec with all of its options."""
    if suite.parts:
        raise ConfigError(f"suite {suite.name!r} has parts: tune {' or '.join(suite.parts)}")
    by_label = {spec.label: spec for spec in suite.agents}
    spaces = {label: space for label, space in suite.search.items() if label in by_label}
    if not spaces:
        raise ConfigError(f"suite {suite.name!r} has no search for {', '.join(by_label)}")
    return {
        label: [
            Spec(by_label[label].name, by_label[label].options | options, trial_label(label, i))
            for i, options in enumerate(points(by_label[label], space, trials, seed))
        ]
        for label, space in spaces.items()
    }


def trial_label(label: str, number: int) -> str:
    """Returns what a trial is called."""
    return f"{label} trial {number}"


def points(agent: Spec, space: Options, trials: int, seed: int) -> list[Options]:
    """Returns the varied options of each trial, the agent's defaults first.

    What the suite itself sets is not looked at, so that a search gives the same before and after
    its outcome is written into the suite.

    Raises:
        ConfigError: a space that is none, or that does not hold the default.
        PluginError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise PluginError("textgym tune needs Optuna: pip install 'textgym[tune]'") from None
    config = make_agent(Spec(agent.name)).config
    distributions = {name: distribution(name, values) for name, values in space.items()}
    own = {name: getattr(config, name, None) for name in space}
    try:
        # Optuna takes the space from a finished trial; what it scored decides nothing.
        first = optuna.trial.create_trial(params=own, distributions=distributions, value=0.0)
    except (ValueError, TypeError):
        raise ConfigError(
            f"{agent.label}: its default {own} is not in the search {space}"
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.QMCSampler(scramble=True, seed=seed)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler)
    study.add_trial(first)
    drawn = [study.ask(distributions).params for _ in range(trials - 1)]
    return [own, *({name: rounded(v) for name, v in point.items()} for point in drawn)]


def distribution(name: str, values: Any) -> BaseDistribution:
    """Returns Optuna's form of an option's space. Raises: ConfigError where it is none."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if not isinstance(values, list) or len(values) < 2:
        raise ConfigError(f"search: {name} must be [low, high] or choices, got {values!r}")
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if not numbers or len(values) > 2:
        return CategoricalDistribution(values)
    low, high = values
    if not low < high:
        raise ConfigError(f"search: {name} must go from low to high, got {values}")
    kind = IntDistribution if all(isinstance(v, int) for v in values) else FloatDistribution
    return kind(low, high, log=low > 0)


def rounded(value: Any) -> Any:
    """Returns a float with three significant digits, so that a table can show what was run."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def as_suite(suite: Suite, planned: dict[str, list[Spec]], seed: int) -> Suite:
    """Returns the suite whose agents are the trials, asked on the validation split."""
    evaluation = dataclasses.replace(suite.evaluation, split=SPLIT, frontier_samples=0)
    agents = tuple(spec for specs in planned.values() for spec in specs)
    return suite.replace(agents=agents, seeds=(seed,), evaluation=evaluation)


def score(folder: Path) -> float:
    """Returns what the leaderboard ranks a cell by, more is better; NaN where it failed."""
    if not (folder / RESULT).is_file():
        return math.nan
    metrics = read_json(folder / RESULT)["metrics"]
    name, more = next((m, up) for m, up in ORDER if m in metrics)
    value = float(metrics[name]["value"])
    return value if more else -value


def tabulate(
    search: Suite, planned: dict[str, list[Spec]], scores: dict[str, float], seed: int
) -> pd.DataFrame:
    """Returns a row per trial: `agent`, `trial`, `score` (NaN if a task failed), tasks, options."""
    by_trial = {
        (task.label, spec.label): scores[name]
        for name, (task, spec) in zip(
            scores, ((t, a) for t in search.tasks for a in search.agents), strict=True
        )
    }
    rows = []
    for label, specs in planned.items():
        for number, spec in enumerate(specs):
            by_task = {t.label: by_trial[t.label, spec.label] for t in search.tasks}
            mean = sum(by_task.values()) / len(by_task)
            options = " ".join(f"{k}={v}" for k, v in spec.options.items())
            row = {"agent": label, "trial": number, "seed": seed, "score": mean}
            rows.append(row | by_task | {"options": options})
    return pd.DataFrame(rows)


def chosen(planned: dict[str, list[Spec]], table: pd.DataFrame) -> dict[str, Options]:
    """Returns each agent's options of the best trial; the first among equals, so no change."""
    best: dict[str, Options] = {}
    for label, specs in planned.items():
        scores = table.loc[table["agent"] == label, "score"].to_numpy(float)
        number = 0 if np.isnan(scores).all() else int(np.nanargmax(scores))
        best[label] = specs[number].options
    return best


def with_options(suite: Suite, best: dict[str, Options]) -> dict[str, Any]:
    """Returns the suite's file with the agents' options replaced."""

    def written(spec: Spec, options: Options) -> dict[str, Any]:
        return {"name": spec.name, "label": spec.label, "options": options}

    evaluation = {k: v for k, v in dataclasses.asdict(suite.evaluation).items() if v is not None}
    return {
        "description": suite.description,
        "model": suite.model,
        "reference": suite.reference,
        "precision": suite.precision,
        **({} if suite.lora is None else {"lora": suite.lora}),
        "budget": suite.budget,
        "seeds": list(suite.seeds),
        "tasks": [written(spec, spec.options) for spec in suite.tasks],
        "agents": [written(s, best.get(s.label, s.options)) for s in suite.agents],
        "evaluation": evaluation,
        "sft": suite.sft,
        "search": suite.search,
    }
