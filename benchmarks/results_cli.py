"""The commands that work on the results of a bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def rescore(
    folder: Annotated[Path, typer.Argument(help="Results folder of a bench.")],
    metric: Annotated[
        str | None,
        typer.Option(
            help="Metric of `textgym list metrics`, folder of an `evaluate` module, or "
            "path/to/file.py:function of a prompt's rows; options as NAME@n=3."
        ),
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(
            help="Reward of `textgym list rewards`, folder of a saved one, "
            "path/to/file.py:function, or `task` for the task's own."
        ),
    ] = None,
    toxicity: Annotated[
        str | None,
        typer.Option(help="Classifier of Detoxify's: tiny (the packaged), original, or a folder."),
    ] = None,
    column: Annotated[
        str | None, typer.Option("--as", help="Name of the column; by default the scorer's.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compute a column of another scorer or version anew.")
    ] = False,
) -> None:
    """Add a column to old results from the samples they kept. Runs no policy."""
    from textgym.benchmarks.rescoring.rescore import make_scorer
    from textgym.benchmarks.rescoring.rescore import rescore as run

    raise typer.Exit(run(folder, make_scorer(metric, reward, toxicity, column), force))


def report(
    folder: Annotated[Path, typer.Argument(help="Results folder of a bench.")],
    out: Annotated[Path | None, typer.Option(help="The page; report.html in the folder.")] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts shown of each task.")] = 8,
    samples: Annotated[int, typer.Option(min=1, help="Samples of each agent to a prompt.")] = 2,
    figures: Annotated[bool, typer.Option(help="Also write every chart as a PNG file.")] = True,
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Write one HTML page of a results folder: leaderboard, charts, samples, provenance."""
    from textgym.benchmarks.page.command import report as run

    run(folder, out, prompts, samples, figures, show)
