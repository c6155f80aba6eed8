"""What is scored for a report: each judged text once, and the scores beside the answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textgym.feedback.records import KINDS, Feedback
from textgym.feedback.report.numbers import Ints, codes
from textgym.metrics.sets import FloatArray
from textgym.tasks.base import checked_rewards
from textgym.types import RewardFunction


class Row(NamedTuple):
    """One completion as a reward is asked about it; `columns` is JSON text."""

    prompt: str
    completion: str
    columns: str
    annotator: str
    group: str


Scores = dict[Row, float]
"""The score of each row."""


@dataclass(frozen=True)
class Answers:
    """Answers of one kind with the scores of what they judge; C is 2 for pairs, else 1.

    Attributes:
        kind: of feedback.
        feedback: M answers, no ties among them.
        labels: [M] as in `Feedback`.
        prompts: [M] ids.
        lengths: [M, C] of the completions, characters.
        scores: [M, C] the reward's.
        gold: [M, C] the gold scores, or None.
        ties: answers left out, since they called two completions equally good.
    """

    kind: str
    feedback: list[Feedback]
    labels: FloatArray
    prompts: Ints
    lengths: FloatArray
    scores: FloatArray
    gold: FloatArray | None
    ties: int = 0

    def __len__(self) -> int:
        return len(self.feedback)

    def where(self, kept: NDArray[np.bool_]) -> Answers:
        """Returns the answers where `kept` [M] is True."""
        return replace(
            self,
            feedback=[f for f, keep in zip(self.feedback, kept, strict=True) if keep],
            labels=self.labels[kept],
            prompts=self.prompts[kept],
            lengths=self.lengths[kept],
            scores=self.scores[kept],
            gold=None if self.gold is None else self.gold[kept],
        )

    def by(self, name: Callable[[Feedback], str]) -> dict[str, Answers]:
        """Returns the answers of each name that the function gives, by name."""
        names = np.array([name(f) for f in self.feedback], dtype=object)
        return {str(n): self.where(names == n) for n in sorted(set(names.tolist()))}


@dataclass(frozen=True)
class Texts:
    """The B different completions that were judged.

    Attributes:
        prompts: [B] ids.
        lengths: [B] characters.
        scores: [B]; the mean where a reward scores a text differently for different annotators.
        gold: [B], or None.
    """

    prompts: Ints
    lengths: FloatArray
    scores: FloatArray
    gold: FloatArray | None


def rows_of(feedback: Feedback) -> list[Row]:
    """Returns the C completions of an answer as rows."""
    asked = feedback.question
    columns = json.dumps(dict(asked.columns), sort_keys=True)
    who = (columns, feedback.annotator, feedback.group)
    return [Row(asked.prompt, completion, *who) for completion in asked.completions]


def different_rows(feedback: Sequence[Feedback]) -> list[Row]:
    """Returns the rows of all answers, each once, in order."""
    return list(dict.fromkeys(row for f in feedback for row in rows_of(f)))


def score_rows(reward: RewardFunction, rows: Sequence[Row], name: str) -> list[float]:
    """Returns the reward of each row, asked in one call.

    The reward gets the questions' columns, None where a question lacks one, and `annotator` and
    `group`, which personal rewards read.

    Raises:
        RewardError: a wrong number of values, NaN or an infinity.
    """
    told: list[dict[str, Any]] = [
        {**json.loads(row.columns), "annotator": row.annotator, "group": row.group} for row in rows
    ]
    names = dict.fromkeys(column for columns in told for column in columns)
    values = reward(
        [row.prompt for row in rows],
        [row.completion for row in rows],
        **{column: [columns.get(column) for columns in told] for column in names},
    )
    return checked_rewards(list(values), len(rows), name)


def score_once(reward: RewardFunction, feedback: Sequence[Feedback], name: str) -> Scores:
    """Returns the reward of everything that the answers judge, each row scored once."""
    rows = different_rows(feedback)
    return dict(zip(rows, score_rows(reward, rows, name), strict=True)) if rows else {}


def answers_by_kind(
    feedback: Sequence[Feedback], scores: Scores, gold: Scores | None
) -> dict[str, Answers]:
    """Returns the answers of each kind that there are any of, in the order of `KINDS`."""
    found = {kind: [f for f in feedback if f.question.kind == kind] for kind in KINDS}
    return {kind: _answers(kind, given, scores, gold) for kind, given in found.items() if given}


def _answers(kind: str, given: list[Feedback], scores: Scores, gold: Scores | None) -> Answers:
    decided = [f for f in given if not f.is_tie]

    def table(value: Callable[[Row], float]) -> FloatArray:
        values = [[value(row) for row in rows_of(f)] for f in decided]
        return np.array(values, float).reshape(len(decided), KINDS[kind])

    return Answers(
        kind,
        decided,
        np.array([f.label for f in decided], float),
        codes([f.question.prompt for f in decided]),
        table(lambda row: len(row.completion)),
        table(scores.__getitem__),
        None if gold is None else table(gold.__getitem__),
        len(given) - len(decided),
    )


def different_texts(scores: Scores, gold: Scores | None) -> Texts:
    """Returns the different completions of all answers, by prompt and text."""
    rows: dict[tuple[str, str], list[Row]] = {}
    for row in scores:
        rows.setdefault((row.prompt, row.completion), []).append(row)

    def means(values: Scores) -> FloatArray:
        return np.array([np.mean([values[row] for row in same]) for same in rows.values()])

    return Texts(
        codes([prompt for prompt, _ in rows]),
        np.array([len(completion) for _, completion in rows], float),
        means(scores),
        None if gold is None else means(gold),
    )
