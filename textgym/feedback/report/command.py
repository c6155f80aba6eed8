"""`textgym reward report`: reads feedback, measures a reward, writes the report."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from textgym.errors import ConfigError
from textgym.feedback.report.names import one_line
from textgym.feedback.report.plots import require_matplotlib
from textgym.feedback.report.report import RewardReport, measure_reward
from textgym.feedback.report.verdict import Verdict, verdicts
from textgym.feedback.report.writing import HTML, require_folder, write_report
from textgym.feedback.sources import read_answers
from textgym.rewards import load_reward
from textgym.seeding import Streams
from textgym.tasks import load_task
from textgym.tasks.base import Task
from textgym.types import RewardFunction

STREAM = "report"


def run_report(
    reward: str | Path | RewardFunction,
    feedback: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    off_distribution: Mapping[str, str | Path] | None = None,
    gold_task: str | Task | None = None,
    examples: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> RewardReport:
    """Measures a reward, writes the report, prints its verdict and where the files are.

    Args:
        reward: as `textgym.rewards.load_reward` takes it.
        feedback: one or more .jsonl or .parquet files, or stores (a file or a database URL).
        out: the report's folder.
        off_distribution: further feedback by name.
        gold_task: the task whose gold judge is set beside the reward.
        examples: how many of the worst mistakes the report quotes.
        resamples: bootstrap resamples.
        level: of the intervals.
        seed: of the report's random stream.

    Raises:
        ConfigError: matplotlib is missing, the task has no gold judge, or a setting is wrong.
        FeedbackError, StoreError: feedback that cannot be read, or none.
        ResultsError: the folder holds other things or cannot be written.
        RewardError: scores that are not finite.
    """
    require_matplotlib()
    require_folder(Path(out))
    paths = [feedback] if isinstance(feedback, str | Path) else list(feedback)
    answers = [answer for path in paths for answer in read_answers(path)]
    others = {name: read_answers(path) for name, path in (off_distribution or {}).items()}
    report = measure_reward(
        load_reward(reward),
        answers,
        off_distribution=others,
        gold=None if gold_task is None else _gold(gold_task),
        generator=Streams(seed).numpy(STREAM),
        resamples=resamples,
        level=level,
        examples=examples,
    )
    folder = write_report(report, out)
    _print(report, verdicts(report), folder)
    return report


def _gold(task: str | Task) -> RewardFunction:
    task = load_task(task)
    if not task.has_gold:
        raise ConfigError(f"task {task.name!r} has no gold judge")
    return task.gold


def _print(report: RewardReport, found: Sequence[Verdict], folder: Path) -> None:
    console = Console() if sys.stdout.isatty() else Console(width=140)
    title = f"{report.answers} answers to {report.prompts} prompts"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_style="bold", pad_edge=False)
    for column in ("question", "answer", "numbers"):
        table.add_column(column, overflow="fold")
    styles = {True: "green", False: "red", None: "yellow"}
    for v in found:
        question, numbers = (_plain(text) for text in (v.question, v.numbers))
        table.add_row(question, f"[{styles[v.good]}]{v.answer}[/]", numbers)
    console.print(table)
    line = f"report: {folder / HTML}, and the same as report.md and report.json beside it"
    console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)


def _plain(text: str) -> str:
    """Returns a text that the terminal shows as it is; brackets are its markup."""
    from rich.markup import escape

    return escape(one_line(text, 300))
