"""What one annotator meets: the next question, shown blind, and what becomes of the answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from textgym.errors import FeedbackError
from textgym.feedback.page.links import digest
from textgym.feedback.records import PAIRWISE, Feedback, Question
from textgym.registry import unknown_name

if TYPE_CHECKING:
    from textgym.feedback.store import FeedbackStore

LONGEST = 3600.0
"""Seconds. A longer response time is recorded as this: the annotator was away."""

ALREADY = "This question was already decided, perhaps in another tab; here is the next one."


class DecidedError(FeedbackError):
    """A question that this annotator has already answered or skipped, or nothing to take back."""


class Desk:
    """Hands a batch's questions to annotators, one at a time, and stores their answers.

    It keeps nothing itself: after a restart the store says where everyone stopped.

    Attributes:
        store: where the questions come from and the answers go.
        batch: which questions.
        secret: decides the order each annotator sees each pair in; the same after a reload.
        reveal: whether the page names the policies.
        clock: gives the time of an answer, in seconds since 1970 (UTC).
    """

    def __init__(
        self,
        store: FeedbackStore,
        batch: str,
        secret: str,
        reveal: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises FeedbackError where the batch holds no question."""
        if not store.questions(batch):
            raise FeedbackError(str(unknown_name("batch", batch, store.batches())))
        self.store = store
        self.batch = batch
        self.secret = secret
        self.reveal = reveal
        self.clock = clock

    def state(self, annotator: str, first: Question | None = None) -> dict[str, Any]:
        """Returns what the page shows, as JSON values.

        Args:
            annotator: whose page it is.
            first: what to show before anything else, if it is still to be decided.

        Returns:
            `annotator`, `done` and `total` (questions), and `question`: `key`, `kind`, `prompt`,
            `completions` as they are shown, and, if revealed, `policies`; None after the last.
        """
        pending = self.store.pending(annotator, self.batch)
        total = len(self.store.questions(self.batch))
        chosen = next((q for q in pending if first and q.key == first.key), None)
        question = chosen or (pending[0] if pending else None)
        return {
            "annotator": annotator,
            "done": total - len(pending),
            "total": total,
            "question": question and self._shown(annotator, question),
        }

    def answer(self, annotator: str, key: str, label: float, seconds: float) -> dict[str, Any]:
        """Stores an answer and returns the next state.

        Args:
            annotator: who answers.
            key: names the question.
            label: one of `LABELS`; of a pair, the share that goes to the completion shown first.
            seconds: response time; brought within [0, `LONGEST`].

        Raises:
            DecidedError: the annotator has already answered or skipped the question.
            FeedbackError: a question that the batch does not hold, or an answer that is none.
            StoreError: the answer cannot be stored.
        """
        question = self._open(annotator, key)
        order = self.order(annotator, question)
        if order == (1, 0):
            label = 1 - label
        feedback = Feedback(
            question,
            label,
            annotator,
            group=self.store.annotators()[annotator],
            order=order,
            seconds=min(max(seconds, 0.0), LONGEST),
            timestamp=self.clock(),
        )
        with _first():
            self.store.add([feedback])
        return self.state(annotator)

    def skip(self, annotator: str, key: str) -> dict[str, Any]:
        """Leaves a question unanswered and returns the next state; raises what `answer` does."""
        question = self._open(annotator, key)
        with _first():
            self.store.skip(annotator, question)
        return self.state(annotator)

    def undo(self, annotator: str) -> dict[str, Any]:
        """Takes back the last answer or skip and returns the state that shows it again.

        Raises:
            DecidedError: there is none, or it belonged to another batch.
        """
        # An annotator who has decided nothing here has another batch's answers to lose.
        decided = self.state(annotator)["done"] > 0
        question = self.store.undo(annotator) if decided else None
        if question is None:
            raise DecidedError("There is nothing to take back.")
        if all(question.key != asked.key for asked in self.store.questions(self.batch)):
            raise DecidedError("What was taken back belongs to another batch, which asks it again.")
        return self.state(annotator, question)

    def order(self, annotator: str, question: Question) -> tuple[int, ...]:
        """Returns which completion is shown in each place: a fair coin of its own for each pair."""
        if question.kind != PAIRWISE:
            return (0,)
        return (1, 0) if digest(self.secret, "order", annotator, question.key)[0] & 1 else (0, 1)

    def _shown(self, annotator: str, question: Question) -> dict[str, Any]:
        order = self.order(annotator, question)
        shown = {
            "key": question.key,
            "kind": question.kind,
            "prompt": question.prompt,
            "completions": [question.completions[place] for place in order],
        }
        if self.reveal and question.policies:
            shown["policies"] = [question.policies[place] for place in order]
        return shown

    def _open(self, annotator: str, key: str) -> Question:
        for question in self.store.pending(annotator, self.batch):
            if question.key == key:
                return question
        if any(question.key == key for question in self.store.questions(self.batch)):
            raise DecidedError(ALREADY)
        raise FeedbackError(f"batch {self.batch!r} holds no question {key[:40]!r}")


@contextmanager
def _first() -> Iterator[None]:
    """What the store refuses although the question was open has been decided in between."""
    try:
        yield
    except FeedbackError as error:
        raise DecidedError(ALREADY) from error
