"""What the commands of feedback do: collect, export, learn."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from textgym.agents.base import make_config
from textgym.errors import ConfigError
from textgym.feedback.annotators.agreement import agreement
from textgym.feedback.annotators.base import Annotator
from textgym.feedback.annotators.choice import AnnotatorConfig
from textgym.feedback.annotators.judge import JudgeAnnotator
from textgym.feedback.annotators.likelihood import LikelihoodJudge
from textgym.feedback.annotators.replay import load_choices
from textgym.feedback.annotators.simulated import SimulatedAnnotator
from textgym.feedback.annotators.template import read_template
from textgym.feedback.asking import questions_from_policies
from textgym.feedback.collecting import collect
from textgym.feedback.formats import write_feedback
from textgym.feedback.learning.training import LearningConfig, split_by_prompt, train_reward
from textgym.feedback.records import PAIRWISE
from textgym.feedback.sources import read_answers
from textgym.feedback.store import FeedbackStore
from textgym.models.policy import load_policy
from textgym.registry import unknown_name
from textgym.seeding import Streams
from textgym.tasks import load_task

if TYPE_CHECKING:
    from textgym.benchmarks.suite import Options, Spec
    from textgym.tasks.base import Task

HELD_OUT = "held_out.jsonl"
"""The answers that a reward has not learned from, beside it."""
REFERENCE_PROMPTS = 64


def _simulated(task: Task, model: str, template: Path | None, options: Options, seed: int) -> Any:
    if not task.has_gold:
        raise ConfigError(f"task {task.name!r} has no gold judge that people could be simulated by")
    config = make_config(AnnotatorConfig, options)
    random = Streams(seed).numpy("annotators")
    return SimulatedAnnotator(task.gold, random, config, seed=seed)


def _likelihood(task: Task, model: str, template: Path | None, options: Options, seed: int) -> Any:
    return _with_options(LikelihoodJudge, load_policy(model), options)


def _judge(task: Task, model: str, template: Path | None, options: Options, seed: int) -> Any:
    return _with_options(JudgeAnnotator, load_policy(model), options, read_template(template))


ANNOTATORS: dict[str, Callable[..., Annotator]] = {
    "simulated": _simulated,
    "likelihood": _likelihood,
    "judge": _judge,
}
"""Who can be asked by a command."""
JUDGE_OPTIONS = ("name", "group", "tie_threshold", "least_mass", "on_neither")


def run_collect(
    spec: Spec,
    policies: Sequence[str],
    by: str,
    store: str,
    batch: str,
    kind: str,
    prompts: int,
    split: str,
    model: str,
    template: Path | None,
    options: Options,
    seed: int,
    console: Console,
) -> None:
    """Samples completions, has them answered by a program and stores the answers."""
    if by not in ANNOTATORS:
        raise unknown_name("annotator", by, ANNOTATORS)
    task = load_task(spec.name, **spec.options)
    annotator = ANNOTATORS[by](task, model, template, options, seed)
    with FeedbackStore(store) as opened:
        console.print(f"sampling completions of {prompts} prompts", highlight=False, soft_wrap=True)
        asked = questions_from_policies(task, list(policies), prompts, kind, seed, split)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("questions"), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task("questions", total=len(asked))
            count = collect(
                annotator, asked, opened, batch, lambda n: progress.update(bar, completed=n)
            )
        console.print(
            f"{count} answers by {annotator.name} stored in {store}",
            highlight=False,
            soft_wrap=True,
        )
        if isinstance(annotator, JudgeAnnotator) and asked:
            audit = {name: round(x, 3) for name, x in annotator.audit(asked).items()}
            console.print(f"the judge's bias: {audit}", highlight=False, soft_wrap=True)
        if by != "simulated" and kind == PAIRWISE and task.has_gold and asked:
            people = _simulated(task, model, template, {}, seed).label(asked)
            keys = {question.key for question in asked}
            own = [f for f in opened.feedback(PAIRWISE, annotator.name) if f.question.key in keys]
            agreed = agreement(own, people)["agreement"]
            console.print(
                f"agreement with simulated people: {agreed:.0%}", highlight=False, soft_wrap=True
            )


def run_export(sources: Sequence[str], out: Path, console: Console) -> None:
    """Writes answers as JSON lines or Parquet."""
    count = write_feedback(out, [f for source in sources for f in read_answers(source)])
    console.print(f"{count} answers in {out}", highlight=False, soft_wrap=True)


def run_import(data: str, data_dir: str | None, split: str, store: str, console: Console) -> None:
    """Stores a data set's human choices as an annotator's answers."""
    choices = list({f.question.key: f for f in load_choices(data, data_dir, split)}.values())
    with FeedbackStore(store) as opened:
        opened.register("data")
        opened.ask((f.question for f in choices), split)
        known = {f.question.key for f in opened.feedback(annotator="data")}
        count = opened.add([f for f in choices if f.question.key not in known])
    console.print(f"{count} answers of {data} stored in {store}", highlight=False, soft_wrap=True)


def run_train(
    sources: Sequence[str], out: Path, start: str, options: Options, seed: int, console: Console
) -> None:
    """Learns a reward from answers; a part of the prompts is held out, for the report."""
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"the folder {out} is not empty")
    config = make_config(LearningConfig, {"learning_rate": 1e-3, "max_tokens": 256, **options})
    answers = [f for source in sources for f in read_answers(source)]
    streams = Streams(seed)
    train, held = split_by_prompt(answers, config.held_out, streams.torch("held-out"))
    steps = config.epochs * -(-len(train) // config.batch_size)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        bar = progress.add_task("steps", total=steps)

        def log(step: int, metrics: Mapping[str, float]) -> None:
            told = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
            progress.update(bar, completed=step + 1, description=f"steps  {told}")

        model, report = train_reward(start, train, config, streams.torch("initialisation"), log)
    texts = [(f.question.prompt, text) for f in train for text in f.question.completions]
    texts = texts[: 8 * REFERENCE_PROMPTS]
    model.normalise([p for p, _ in texts], [text for _, text in texts])
    model.save(out)
    write_feedback(out / HELD_OUT, held)
    record = {"start": start, "seed": seed, "config": asdict(config), "report": report}
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    console.print(
        f"{out}: accuracy {report['accuracy']:.3f} on prompts kept back in training; "
        f"{len(held)} answers to further prompts are in {out / HELD_OUT}, for "
        f"`textgym reward report --reward {out}`",
        highlight=False,
        soft_wrap=True,
    )


def own_answers(reward: str) -> list[str]:
    """Returns the answers that a reward's training kept back. Raises: ConfigError for none."""
    kept = Path(reward) / HELD_OUT
    if not kept.is_file():
        raise ConfigError(f"{reward} kept no answers back: name some with --feedback")
    return [str(kept)]


def named_sources(pairs: Sequence[str]) -> dict[str, str]:
    """Returns sources by name from NAME=SOURCE pairs. Raises: ConfigError for another form."""
    split = [pair.partition("=") for pair in pairs]
    if bad := next(
        (pair for pair, (_, _, source) in zip(pairs, split, strict=True) if not source), None
    ):
        raise ConfigError(f"expected NAME=SOURCE, got {bad!r}")
    return {name: source for name, _, source in split}


def _with_options(kind: Any, policy: Any, options: Options, *more: Any) -> Any:
    for name in options:
        if name not in JUDGE_OPTIONS:
            raise unknown_name("setting", name, JUDGE_OPTIONS)
    return kind(policy, *more, **options)
