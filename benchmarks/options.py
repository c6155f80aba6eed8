"""Options that several commands share. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from textgym.benchmarks.suite import Options, Spec

Seed = Annotated[int, typer.Option(min=0, help="Seed of every random stream.")]
Task = Annotated[str, typer.Option(help="Task, `name` or `name@option=value,...`.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="A setting, such as tokens=1000000; may repeat.")
]

ONE_THREAD = {
    f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "RAYON")
}
"""The environment of a benchmark's processes: numbers must not depend on how many cores are free,
and libraries that count the cores would take all of them for every job."""


def one_task(task: str, data: list[str] | None) -> Spec:
    """Returns a task from its option, with the data that another names."""
    from textgym.benchmarks.suite import parse_spec, with_data

    return with_data((parse_spec(task),), data or [])[0]


def options(pairs: list[str] | None) -> Options:
    """Returns settings from `name=value` pairs."""
    from textgym.benchmarks.suite import parse_spec

    return parse_spec(f"settings@{','.join(pairs)}").options if pairs else {}
