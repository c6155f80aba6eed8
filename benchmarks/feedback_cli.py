"""The commands of feedback: collect, label, learn, report, study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from textgym.benchmarks.options import Seed, Settings, Task, one_task, options

reward_app = typer.Typer(no_args_is_help=True, help="Learn rewards from feedback, and judge them.")
feedback_app = typer.Typer(no_args_is_help=True, help="Collect feedback from programs and data.")

Policies = Annotated[list[str], typer.Option("--policy", help="Model name, folder or Hub id.")]
Store = Annotated[str, typer.Option(help="SQLite file, or an SQLAlchemy URL.")]
Sources = Annotated[
    list[str], typer.Option("--feedback", help="Store, .jsonl or .parquet file; may repeat.")
]
Batch = Annotated[str, typer.Option(help="Names the questions in the store.")]
Kind = Annotated[str, typer.Option(help="pairwise, rating or binary.")]
Asked = Annotated[int, typer.Option(min=1, help="Prompts asked about.")]
Data = Annotated[list[str] | None, typer.Option(help="Hub id or folder of the task's data.")]
TrainSplit = Annotated[str, typer.Option(help="Which split the prompts come from.")]


def label(
    policy: Annotated[
        list[str] | None, typer.Option(help="Model name, folder or Hub id; may repeat.")
    ] = None,
    task: Annotated[str, typer.Option(help="Task, `name` or `name@option=value,...`.")] = "",
    data: Data = None,
    store: Store = "feedback.db",
    batch: Batch = "default",
    kind: Kind = "pairwise",
    annotator: Annotated[
        list[str] | None, typer.Option(help="Who labels, each by an own link; may repeat: me.")
    ] = None,
    group: Annotated[str, typer.Option(help="The annotators' group.")] = "",
    prompts: Asked = 20,
    split: TrainSplit = "train",
    seed: Seed = 0,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, help="Port; 0 for any that is free.")] = 8000,
    reveal: Annotated[bool, typer.Option(help="Show who wrote what.")] = False,
    open_browser: Annotated[bool, typer.Option(help="Open the first link here.")] = False,
) -> None:
    """Let people compare or rate completions on a page in the browser. Goes on where it stopped."""
    from textgym.feedback.page.command import run_label
    from textgym.tasks import load_task

    spec = one_task(task, data) if task else None
    run_label(
        load_task(spec.name, **spec.options) if spec else None,
        policy or [],
        store,
        batch,
        kind,
        annotator or ["me"],
        prompts,
        seed,
        host,
        port,
        group=group,
        split=split,
        reveal=reveal,
        open_browser=open_browser,
    )


@feedback_app.command("collect")
def collect(
    policy: Policies,
    task: Task = "summarize",
    data: Data = None,
    by: Annotated[str, typer.Option(help="simulated, likelihood or judge.")] = "simulated",
    store: Store = "feedback.db",
    batch: Batch = "default",
    kind: Kind = "pairwise",
    prompts: Asked = 500,
    split: TrainSplit = "train",
    model: Annotated[str, typer.Option(help="The judge's language model.")] = "tiny",
    template: Annotated[Path | None, typer.Option(help="The judge's prompt, a file.")] = None,
    settings: Settings = None,
    seed: Seed = 0,
) -> None:
    """Have policies' completions answered by simulated people or a language model."""
    from rich.console import Console

    from textgym.benchmarks.feedback import run_collect

    run_collect(
        one_task(task, data),
        policy,
        by,
        store,
        batch,
        kind,
        prompts,
        split,
        model,
        template,
        options(settings),
        seed,
        Console(),
    )


@feedback_app.command("import")
def import_(
    data: Annotated[str, typer.Argument(help="Hub id or folder: TRL's format or HH-RLHF's.")],
    data_dir: Annotated[str | None, typer.Option(help="The folder inside it.")] = None,
    split: TrainSplit = "train",
    store: Store = "feedback.db",
) -> None:
    """Store a data set's human choices."""
    from rich.console import Console

    from textgym.benchmarks.feedback import run_import

    run_import(data, data_dir, split, store, Console())


@feedback_app.command("export")
def export(
    feedback: Sources,
    out: Annotated[Path, typer.Option(help="A .jsonl or .parquet file.")],
) -> None:
    """Write answers to a file."""
    from rich.console import Console

    from textgym.benchmarks.feedback import run_export

    run_export(feedback, out, Console())


@reward_app.command("train")
def train(
    feedback: Sources,
    out: Annotated[Path, typer.Option(help="Folder for the reward model.")],
    model: Annotated[str, typer.Option(help="Language model or encoder to start from.")] = "tiny",
    settings: Settings = None,
    seed: Seed = 0,
) -> None:
    """Learn a reward model from answers; some prompts are kept back for the report."""
    from rich.console import Console

    from textgym.benchmarks.feedback import run_train

    run_train(feedback, out, model, options(settings), seed, Console())


@reward_app.command("report")
def report(
    reward: Annotated[str, typer.Option(help="Folder of a reward model, or a reward's name.")],
    out: Annotated[Path, typer.Option(help="Folder for the report.")],
    feedback: Annotated[
        list[str] | None,
        typer.Option(help="Store, .jsonl or .parquet file; what the reward's training kept back."),
    ] = None,
    off: Annotated[
        list[str] | None, typer.Option(help="Further feedback, NAME=SOURCE; may repeat.")
    ] = None,
    gold: Annotated[str | None, typer.Option(help="Task whose gold judge to set beside.")] = None,
    examples: Annotated[int, typer.Option(min=0, help="Worst mistakes to quote.")] = 0,
    seed: Seed = 0,
) -> None:
    """Write a report of how far a reward can be trusted, as a page, Markdown and JSON."""
    from textgym.benchmarks.feedback import named_sources, own_answers
    from textgym.feedback.report.command import run_report

    run_report(
        reward,
        feedback or own_answers(reward),
        out,
        off_distribution=named_sources(off or []),
        gold_task=gold,
        examples=examples,
        seed=seed,
    )


def study(
    name: Annotated[str, typer.Argument(help="One of `textgym list studies`.")],
    out: Annotated[Path | None, typer.Option(help="Results folder: results/NAME.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds; the study's own.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; one per core.")] = None,
    settings: Settings = None,
) -> None:
    """Run a study: a table, a plot and what was found. Goes on where it stopped."""
    import os

    from rich.console import Console

    from textgym.benchmarks.studies.running import run_study

    folder = out or Path("results") / name
    run_study(name, folder, seeds, jobs or os.cpu_count() or 1, Console(), options(settings))
