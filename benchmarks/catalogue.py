"""What can be named on the command line, described without importing it."""

from __future__ import annotations

import ast
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

from textgym.benchmarks.suite import load_suite, suite_names
from textgym.registry import Registry, unknown_name

Entries = dict[str, str]
"""Name -> one line about it."""


def catalogue(kind: str = "") -> dict[str, Entries]:
    """Returns the entries of each kind, or of the one asked for. Raises: UnknownNameError."""
    if kind and kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    return {name: entries() for name, entries in KINDS.items() if kind in ("", name)}


def show(entries: dict[str, Entries], as_json: bool) -> None:
    """Prints the entries as JSON, or as aligned text."""
    if as_json:
        print(json.dumps(entries, indent=1))
        return
    for kind, rows in entries.items():
        print(f"{kind}:")
        width = max((len(name) for name in rows), default=0)
        for name, line in rows.items():
            print(f"  {name:<{width}}  {line}".rstrip())


def summary(target: str) -> str:
    """Returns the first docstring line of a "module" or "module:Object", read from its source."""
    module, _, name = target.partition(":")
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:
        return ""
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return ""
    tree = ast.parse(Path(spec.origin).read_text("utf-8"))
    named = (ast.ClassDef, ast.FunctionDef)
    nodes = (node for node in tree.body if isinstance(node, named) and node.name == name)
    docstring = ast.get_docstring(next(nodes, tree)) or ""
    return docstring.partition("\n")[0].removeprefix("Returns ")


def _registry(registry: Registry) -> Entries:
    return {name: summary(registry.target(name)) for name in registry}


def _tasks() -> Entries:
    from textgym.tasks import TASKS

    # A task's module says its question; its factory would only say that it makes the task.
    return {name: summary(TASKS.target(name).partition(":")[0]) for name in TASKS}


def _agents() -> Entries:
    from textgym.agents import AGENTS

    return _registry(AGENTS)


def _envs() -> Entries:
    from textgym.envs import ENVS, GAMES

    texts = {
        env_id: ", ".join(f"{k}={v}" for k, v in options.items()) or "any task"
        for env_id, options in ENVS.items()
    }
    return texts | {env_id: summary(target) for env_id, target in GAMES.items()}


def _suites() -> Entries:
    return {name: load_suite(name).description for name in suite_names()}


def _metrics() -> Entries:
    from textgym.metrics import METRICS

    return _registry(METRICS)


def _rewards() -> Entries:
    from textgym.rewards import REWARDS

    return _registry(REWARDS)


def _studies() -> Entries:
    from textgym.benchmarks.studies.study import STUDIES

    return _registry(STUDIES)


def _checks() -> Entries:
    from textgym.benchmarks.health_checks import CHECKS

    return {check.name: check.cause for check in CHECKS}


KINDS: dict[str, Callable[[], Entries]] = {
    "tasks": _tasks,
    "agents": _agents,
    "envs": _envs,
    "suites": _suites,
    "metrics": _metrics,
    "rewards": _rewards,
    "studies": _studies,
    "checks": _checks,
}
