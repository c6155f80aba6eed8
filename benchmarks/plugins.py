"""Plug-ins from the command line: write a new one that runs, and check whether one conforms."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import keyword
import os
import re
import sys
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from textgym.benchmarks.suite import parse_spec
from textgym.errors import ConfigError, ResultsError

if TYPE_CHECKING:
    from textgym.agents.conformance import Outcome

COMMANDS = {
    "agent": (
        "textgym check agent {plugin}",
        "textgym bench --tasks two-modes --agents reference,{plugin} --out runs/{name}",
    ),
    "task": (
        "textgym bench --tasks {plugin} --agents reference,reinforce --budget 512 "
        "--out runs/{name}",
    ),
    "reward": (
        "textgym bench --tasks summarize@reward={plugin} --agents reference,reinforce "
        "--budget 512 --out runs/{name}",
    ),
}
"""What a new plug-in of each kind can be tried with at once."""


def write_plugin(kind: str, name: str, out: Path) -> None:
    """Writes `NAME.py`, whole or not at all, and prints the commands that try it.

    Args:
        kind: `agent`, `task` or `reward`.
        name: of the file and, in capitals, of the class in it.
        out: the folder; made where there is none.

    Raises:
        ConfigError: a name that Python cannot import or that something else has, or a file that
            is there already.
        ResultsError: nothing can be written there.
    """
    template = (resources.files("textgym.benchmarks.templates") / f"{kind}.py").read_text("utf-8")
    path = out / f"{name}.py"
    own = class_name(name, template, taken=path)
    text = template.replace(f"My{kind.title()}", own).replace(f"my_{kind}", name)
    temporary = out / f".{name}.{os.getpid()}.tmp"
    try:
        if path.exists():
            raise ConfigError(f"{path} is there already; choose another name, or a folder by --out")
        out.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, "utf-8")
        temporary.rename(path)
    except OSError as error:
        raise ResultsError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    where = path if path.is_absolute() else f"./{path}"
    print(f"wrote {where}; try it:")
    for command in COMMANDS[kind]:
        print("  " + command.format(plugin=f"{where}:{own}", name=name))


def class_name(name: str, template: str, taken: Path) -> str:
    """Returns the class for a file's name: `my_agent` makes MyAgent.

    Args:
        name: of the file, without its ending.
        template: what the class is to stand in, whose other names it may not take.
        taken: the file; where it is there already, its own name is not what is wrong.

    Raises: ConfigError, with a name that would do.
    """
    better = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "plugin"
    own = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    importable = name.isascii() and name.isidentifier() and own.isidentifier()
    if not importable or keyword.iskeyword(name):
        if keyword.iskeyword(better) or not better[0].isalpha():
            better = f"my_{better}"
        raise ConfigError(f"{name!r} cannot be a module's name; try {better!r}")
    if re.search(rf"\b{own}(Config)?\b", re.sub(r"\bMy\w+", "", template)):
        raise ConfigError(f"class {own} would hide what it is made of; try 'my_{name}'")
    if not taken.exists() and importlib.util.find_spec(name) is not None:
        raise ConfigError(f"{name!r} is the name of a module that is installed; try 'my_{name}'")
    return own


def check_agent(text: str, as_json: bool) -> int:
    """Runs the conformance checks on an agent, prints what came of each, returns the exit status.

    Args:
        text: a registered name or `path/to/file.py:Class`, with or without `@option=value,...`.
        as_json: print one JSON object at the end instead of a line as each check is done.

    Raises:
        UnknownNameError: no such agent.
        PluginError: a file or class that is none.
        ConfigError: an option that the agent does not have, or outside its domain.
    """
    import torch

    from textgym.agents.conformance import conformance
    from textgym.benchmarks.workbench import load_agent_class

    spec = parse_spec(text)
    agent_class = load_agent_class(spec.name)
    torch.set_num_threads(1)  # as in a benchmark's worker; for a model this small the fastest
    start = time.perf_counter()
    outcomes: list[Outcome] = []
    stdout = sys.stdout
    # What an agent prints is no line of ours, nor part of the JSON.
    with contextlib.redirect_stdout(sys.stderr):
        for outcome in conformance(agent_class, spec.options):
            outcomes.append(outcome)
            if not as_json:
                print(_line(outcome), file=stdout, flush=True)
    seconds = time.perf_counter() - start
    _summarise(spec.label, outcomes, seconds, as_json)
    return int(any(outcome.status == "failed" for outcome in outcomes))


def _line(outcome: Outcome) -> str:
    """Returns the status, the check, and the cause, or else the claim that holds."""
    said = f"{outcome.check}: {outcome.cause or outcome.claim}"
    return f"{outcome.status:<14}  {said}"


def _summarise(label: str, outcomes: list[Outcome], seconds: float, as_json: bool) -> None:
    counts = {
        status: sum(outcome.status == status for outcome in outcomes)
        for status in ("passed", "failed", "not applicable")
    }
    if as_json:
        rows = [
            {"check": o.check, "status": o.status, "claim": o.claim, "cause": o.cause}
            for o in outcomes
        ]
        print(json.dumps({"agent": label, **counts, "seconds": seconds, "checks": rows}, indent=1))
        return
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    print(f"{label}: {told} ({seconds:.0f} s)")
