"""Questions from policies: what they write for a task's prompts, to be compared or judged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textgym.errors import ConfigError, FeedbackError
from textgym.feedback.records import KINDS, PAIRWISE, Question
from textgym.registry import unknown_name
from textgym.seeding import Streams
from textgym.tasks import load_task

if TYPE_CHECKING:
    from textgym.models.policy import Policy
    from textgym.tasks.base import Task


def questions_from_policies(
    task: str | Task,
    policies: Sequence[str | Path | Policy],
    prompts: int,
    kind: str = PAIRWISE,
    seed: int = 0,
    split: str = "train",
) -> list[Question]:
    """Samples one completion per policy and prompt and asks about them, prompt by prompt.

    Pairwise, every two policies are compared; a single policy gives two samples. Otherwise each
    completion is judged alone. Equal completions make no pair, and nothing is asked twice.

    Args:
        task: a task or its name; its windows are kept.
        policies: as `load_policy` takes them, or policies; the questions say who wrote what.
        prompts: how many, drawn from the split without replacement.
        kind: "pairwise", "rating" or "binary".
        seed: the prompts drawn and every sample follow from it.
        split: "train", "validation" or "test".

    Raises:
        ConfigError: no policies, or a number of prompts that the split does not have.
        FeedbackError: an unknown kind, or columns that JSON cannot hold.
        DataError, ModelError, PromptTooLongError, UnknownNameError: as the task and the policies.
    """
    from textgym.tasks.learned_proxy import sample_completions

    if kind not in KINDS:
        raise FeedbackError(str(unknown_name("kind of feedback", kind, KINDS)))
    if isinstance(policies, str | Path) or not policies:
        raise ConfigError(f"questions need a list of policies, got {policies!r}")
    task, streams = load_task(task), Streams(seed)
    rows = _draw_rows(task, prompts, split, streams)
    texts = [row["prompt"] for row in rows]
    samples = 2 if kind == PAIRWISE and len(policies) == 1 else 1
    windows = (task.max_prompt_tokens, task.max_response_tokens)
    written: list[list[tuple[str, str]]] = [[] for _ in rows]
    for place, given in enumerate(policies):
        policy = _load(given)
        # A stream each, so that a policy given twice writes two samples.
        generator = streams.torch(f"sampling/{place}")
        drawn = sample_completions(policy, texts, samples, *windows, generator)
        for by, own in zip(written, drawn, strict=True):
            by += [(policy.name, text) for text in own]
    asked: dict[str, Question] = {}
    for row, by in zip(rows, written, strict=True):
        for question in _questions(row, by, kind):
            asked.setdefault(question.key, question)
    return list(asked.values())


def _draw_rows(task: Task, count: int, split: str, streams: Streams) -> list[dict[str, Any]]:
    data = task.prompts(split)
    if not 1 <= count <= len(data):
        raise ConfigError(f"prompts must be 1 to {len(data)}, the rows of {split!r}, got {count}")
    chosen = streams.numpy("prompts").choice(len(data), size=count, replace=False)
    return [data[int(place)] for place in chosen]


def _load(policy: str | Path | Policy) -> Policy:
    from textgym.models.policy import load_policy

    return load_policy(policy) if isinstance(policy, str | Path) else policy


def _questions(row: dict[str, Any], by: list[tuple[str, str]], kind: str) -> Iterable[Question]:
    """Yields the questions about one prompt's completions, each with its policy's name."""
    columns = {name: value for name, value in row.items() if name != "prompt"}
    for shown in combinations(by, KINDS[kind]):
        policies, texts = zip(*shown, strict=True)
        if len(set(texts)) == KINDS[kind]:
            yield Question(row["prompt"], texts, kind, policies, columns)
