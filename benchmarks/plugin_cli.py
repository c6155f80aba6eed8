"""The commands of plug-ins: write a new one, and check one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

new_app = typer.Typer(
    no_args_is_help=True, help="Write a new agent, task or reward that runs at once."
)
check_app = typer.Typer(
    no_args_is_help=True, help="Check whether a plug-in keeps to what the harness relies on."
)

Name = Annotated[
    str, typer.Argument(help="The file is NAME.py; my_idea makes a class that is called MyIdea.")
]
Out = Annotated[Path, typer.Option(help="Folder to write the file to.")]


@new_app.command("agent")
def new_agent(name: Name, out: Out = Path()) -> None:
    """Write NAME.py, a commented REINFORCE of forty lines to start an agent from."""
    from textgym.benchmarks.plugins import write_plugin

    write_plugin("agent", name, out)


@new_app.command("task")
def new_task(name: Name, out: Out = Path()) -> None:
    """Write NAME.py, a commented task with prompts, demonstrations and a reward."""
    from textgym.benchmarks.plugins import write_plugin

    write_plugin("task", name, out)


@new_app.command("reward")
def new_reward(name: Name, out: Out = Path()) -> None:
    """Write NAME.py, a commented reward function that tasks can take for their own."""
    from textgym.benchmarks.plugins import write_plugin

    write_plugin("reward", name, out)


@check_app.command("agent")
def check_agent(
    agent: Annotated[
        str, typer.Argument(help="path/to/file.py:Class or a name, with or without @option=value.")
    ],
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train an agent on a tiny task in many ways; say what it does that it must not.

    Budget, reference, task and global randomness are left alone; a seed repeats and another
    differs; samples, masks, log-probabilities and logs are right; a saved policy samples the same;
    nonsense and broken rewards are refused; it learns. Exit status 1 when a check fails, 2 for an
    agent that cannot be loaded.
    """
    from textgym.benchmarks.plugins import check_agent as run

    raise typer.Exit(run(agent, json_))
