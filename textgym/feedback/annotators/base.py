"""What every annotator is, and what annotators share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from textgym.errors import FeedbackError
from textgym.feedback.records import PAIRWISE, Feedback, Question
from textgym.tasks.base import checked_rewards

if TYPE_CHECKING:
    from textgym.types import RewardFunction


@runtime_checkable
class Annotator(Protocol):
    """Someone or something that answers questions.

    Attributes:
        name: who answers, as the store knows them.
        group: which group they belong to; "" for none.
    """

    name: str
    group: str

    def label(self, questions: Sequence[Question]) -> list[Feedback]:
        """Returns one answer per question that it can answer, in the questions' order."""


def gold_scores(reward: RewardFunction, questions: Sequence[Question]) -> list[tuple[float, ...]]:
    """Returns the reward of every question's completions, in the completions' order.

    Questions that have the same columns are scored together.

    Raises:
        RewardError: a wrong number of scores, or one that is not finite.
    """
    together: dict[tuple[str, ...], list[int]] = {}
    for i, question in enumerate(questions):
        together.setdefault(tuple(sorted(question.columns)), []).append(i)
    scores: list[tuple[float, ...]] = [()] * len(questions)
    for names, rows in together.items():
        shown = [(questions[i], text) for i in rows for text in questions[i].completions]
        values = reward(
            [question.prompt for question, _ in shown],
            [text for _, text in shown],
            **{name: [question.columns[name] for question, _ in shown] for name in names},
        )
        left = iter(checked_rewards(values, len(shown), "gold"))
        for i in rows:
            scores[i] = tuple(next(left) for _ in questions[i].completions)
    return scores


def turned(feedback: Feedback, question: Question) -> Feedback:
    """Returns the answer as one to `question`: the same one, its completions in either order.

    Raises:
        FeedbackError: another question.
    """
    if question.key != feedback.question.key:
        raise FeedbackError(f"the answer is to another question than {question.prompt[:40]!r}")
    if question.completions == feedback.question.completions:
        return replace(feedback, question=question)
    order = tuple(1 - place for place in feedback.order)
    return replace(feedback, question=question, label=1 - feedback.label, order=order)


def require_pairs(questions: Sequence[Question], who: str) -> None:
    """Raises FeedbackError unless all questions are pairwise."""
    for i, question in enumerate(questions):
        if question.kind != PAIRWISE:
            raise FeedbackError(f"{who} compares pairs; question {i} is of kind {question.kind!r}")
