"""Asking annotators that are programs, and keeping every answer as it comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from textgym.feedback.annotators.base import Annotator
from textgym.feedback.records import Question
from textgym.feedback.store import FeedbackStore

PORTION = 64
"""Questions that are answered and stored at a time: what a stop can lose."""


def collect(
    annotator: Annotator,
    questions: Sequence[Question],
    store: FeedbackStore,
    batch: str = "default",
    progress: Callable[[int], None] | None = None,
) -> int:
    """Stores an annotator's answers to the questions that it has not answered yet.

    Args:
        annotator: registered in the store if it is not known there.
        questions: added to the batch; those that are there are not asked twice.
        store: where questions and answers are kept; each portion of answers whole or not at all.
        batch: names the questions in the store.
        progress: receives how many questions have been put after each portion.

    Returns:
        How many answers were stored: fewer than asked where the annotator leaves some out.

    Raises:
        FeedbackError: the annotator is known by another group.
        StoreError: the store cannot be used.
        Whatever the annotator raises; what was stored before is kept.
    """
    store.register(annotator.name, annotator.group)
    store.ask(questions, batch)
    wanted = {question.key for question in questions}
    pending = [q for q in store.pending(annotator.name, batch) if q.key in wanted]
    stored = 0
    for start in range(0, len(pending), PORTION):
        stored += store.add(annotator.label(pending[start : start + PORTION]))
        if progress is not None:
            progress(min(start + PORTION, len(pending)))
    return stored
