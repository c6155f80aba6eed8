"""The layers import one way, the packages are all declared, and what must be light is light."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "textgym": ("textgym.agents", "textgym.benchmarks"),
    "agents": ("textgym.benchmarks",),
    "benchmarks": (),
}


def modules(layer: str) -> list[Path]:
    links = [ROOT / "textgym" / name for name in ("agents", "benchmarks")]
    found = (ROOT / layer).rglob("*.py")
    return sorted(p for p in found if not any(p.is_relative_to(link) for link in links))


def imported(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def violations(layer: str, source: str) -> list[str]:
    return [
        n for n in imported(source) for bad in FORBIDDEN[layer] if f"{n}.".startswith(f"{bad}.")
    ]


def test_a_violation_is_found():
    assert violations("textgym", "from textgym.agents.base import Agent")
    assert violations("textgym", "from textgym import benchmarks")
    assert violations("agents", "def f():\n    import textgym.benchmarks.suite")
    assert not violations("agents", "from textgym.agents.base import Agent")
    assert not violations("textgym", "import textgym.agents_and_more")


@pytest.mark.parametrize("layer", list(FORBIDDEN))
def test_imports_run_one_way(layer):
    paths = modules(layer)
    assert len(paths) > 3
    found = {str(p): violations(layer, p.read_text("utf-8")) for p in paths}
    assert {path: names for path, names in found.items() if names} == {}


def test_no_module_names_its_own_top_folder():
    # `import agents` works from the repository's root and nowhere else.
    for layer in FORBIDDEN:
        for path in modules(layer):
            tops = {name.partition(".")[0] for name in imported(path.read_text("utf-8"))}
            assert not tops & {"agents", "benchmarks"}, path


def test_declared_packages_are_the_folders():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "packages"
    ]
    there = set()
    for layer in FORBIDDEN:
        for path in modules(layer):
            package = path.parent.relative_to(ROOT).as_posix().replace("/", ".")
            there.add(package if package.startswith("textgym") else f"textgym.{package}")
    assert sorted(declared) == sorted(there)


HEAVY = {"torch", "transformers", "datasets", "pandas", "evaluate"}


@pytest.mark.parametrize(
    "code",
    [
        "import textgym",
        "import textgym.benchmarks.cli",
        "import textgym.agents, textgym.tasks, textgym.rewards, textgym.metrics, textgym.envs",
        "from textgym.benchmarks.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from textgym.benchmarks.cli import main\ntry: main(['list'])\nexcept SystemExit: pass",
    ],
    ids=["textgym", "cli", "registries", "--help", "list"],
)
def test_light(code):
    script = f"import sys\n{code}\nprint('\\n' + ' '.join(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert HEAVY & set(done.stderr.splitlines()[-1].split()) == set()
