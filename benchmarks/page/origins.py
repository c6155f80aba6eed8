"""Where the numbers come from: versions, machines, cost, and the commands that repeat them."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textgym.benchmarks.page.data import Results
from textgym.benchmarks.suite import Suite, configure, default_label, folder_name, load_suite
from textgym.errors import TextGymError


@dataclass(frozen=True)
class Origin:
    """One line of provenance; `mixed` where the cells differ in what should be one."""

    name: str
    value: str
    mixed: bool = False


def origins(results: Results) -> list[Origin]:
    """Returns suite, seeds, budgets, versions, commits, machines and wall time, a line each."""
    made = [run.result for run in results.runs]
    config = [result["config"] for result in made]
    lines = [
        _one("model", [_model(c) for c in config], several=True),
        _one("reference", [c.get("reference") for c in config]),
        _one("completions per run", [c.get("budget") for c in config]),
        _one("seeds", sorted({result["seed"] for result in made}), several=True),
        _one("precision", [result.get("precision", "float32") for result in made]),
        _one("commit", [result.get("commit") for result in made]),
        _one("machine", [_machine(result.get("machine")) for result in made]),
    ]
    libraries = dict.fromkeys(name for result in made for name in result.get("versions", {}))
    lines += [_one(name, [r.get("versions", {}).get(name) for r in made]) for name in libraries]
    return [*lines, _wall_time(made)]


def _one(name: str, values: Sequence[Any], several: bool = False) -> Origin:
    """Returns a line of the distinct values; `several` are no fault."""
    distinct = list(dict.fromkeys("not recorded" if v is None else str(v) for v in values))
    return Origin(name, ", ".join(distinct), mixed=len(distinct) > 1 and not several)


def _model(config: dict[str, Any]) -> str:
    return f"{config.get('model')} ({str(config.get('fingerprint'))[:12]})"


def _machine(machine: dict[str, Any] | None) -> str | None:
    if machine is None:
        return None
    return f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"


def _wall_time(made: list[dict[str, Any]]) -> Origin:
    seconds = [r["seconds"]["total"] for r in made if "total" in r.get("seconds", {})]
    if not seconds:
        return Origin("wall time", "not recorded")
    middle = float(np.median(seconds))
    text = f"{len(seconds)} cells, {duration(sum(seconds))} in all, median {duration(middle)}"
    return Origin("wall time", text)


def duration(seconds: float) -> str:
    """Returns a time as people read it.

    >>> duration(9.31), duration(125), duration(8100)
    ('9.3 s', '2 min', '2.2 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def command(results: Results) -> tuple[str, str]:
    """Returns the command that repeats the whole folder, and what it cannot say; either empty.

    The command is tried: what it would run must be the suite that the folder stores.
    """
    stored = results.suite
    if not stored:
        return "", "The folder keeps no plan of the suite, so no command is known."
    options = _options(stored)
    if options is None:
        name = stored["name"]
        return "", f"Suite {name!r} is not one of the package's: give bench its TOML file."
    parts = ["textgym", "bench", "--suite", stored["name"], *_flags(options)]
    shown = shlex.join([*parts, "--out", results.out.as_posix()])
    try:
        planned = configure(stored["name"], **options)
    except TextGymError as error:
        return "", f"No command repeats it: {error}"
    made = _plain(planned)
    differs = [n for n in stored if n not in ("description", "search") and _differ(stored, made, n)]
    note = f"Run with another {', '.join(differs)}: see suite.json." if differs else ""
    return shown, note


def _differ(stored: dict[str, Any], made: dict[str, Any], name: str) -> bool:
    """Returns whether a field differs, as far as the stored suite has it: suites grow fields."""
    own, other = stored[name], made.get(name)
    if isinstance(own, dict) and isinstance(other, dict):
        return any(own[key] != other.get(key) for key in own)
    return bool(own != other)


def _plain(suite: Suite) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(suite), default=str))
    return plain


def _options(stored: dict[str, Any]) -> dict[str, Any] | None:
    """Returns what has to be said beside the suite's name, as `configure` takes it."""
    try:
        packaged = _plain(load_suite(stored["name"]))
    except TextGymError:
        return None
    names = ("model", "precision", "lora", "budget")
    options = {n: stored[n] for n in names if n in stored and stored[n] != packaged[n]}
    if stored["seeds"] != packaged["seeds"]:
        options["seeds"] = ",".join(map(str, stored["seeds"]))
    for kind in ("tasks", "agents"):
        if stored[kind] != packaged[kind]:
            options[kind] = ",".join(_named(spec, packaged[kind]) for spec in stored[kind])
    own = stored.get("evaluation", {})
    for name, flag in (("prompts", "prompts"), ("samples_per_prompt", "samples_per_prompt")):
        if own.get(name) != packaged["evaluation"][name]:
            options[flag] = own.get(name)
    return options


def _named(spec: dict[str, Any], known: list[dict[str, Any]]) -> str:
    """Returns a spec as `--agents` and `--tasks` take it: its label, or name and options."""
    if spec in known:
        return str(spec["label"])
    chosen = [f"{key}={value}" for key, value in spec["options"].items()]
    return f"{spec['name']}@{','.join(chosen)}" if chosen else str(spec["name"])


def _flags(options: dict[str, Any]) -> list[str]:
    flags = {"samples_per_prompt": "samples"}
    return [x for name, v in options.items() for x in (f"--{flags.get(name, name)}", str(v))]


def cell_commands(results: Results) -> dict[str, str]:
    """Returns the command of each task and agent, by `TASK/AGENT` folders; none if none is known.

    It goes into a folder of its own, so that nothing that is there already is taken for it.
    """
    stored = results.suite
    options = _options(stored) if stored else None
    if options is None:
        return {}
    packaged = _plain(load_suite(stored["name"]))
    found = {}
    for task in stored["tasks"]:
        for agent in stored["agents"]:
            chosen = {
                **options,
                "tasks": _named(task, packaged["tasks"]),
                "agents": _named(agent, packaged["agents"]),
            }
            line = ["textgym", "bench", "--suite", stored["name"], *_flags(chosen)]
            cell = f"{folder_name(task['label'])}/{folder_name(agent['label'])}"
            if _can_be_named(agent, packaged["agents"]) and _can_be_named(task, packaged["tasks"]):
                found[cell] = shlex.join([*line, "--out", "again"])
    return found


def _can_be_named(spec: dict[str, Any], known: list[dict[str, Any]]) -> bool:
    return spec in known or spec["label"] == default_label(spec["name"], spec["options"])
