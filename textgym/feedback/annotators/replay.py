"""Stored human choices as an annotator: answers that people gave before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from textgym.errors import ConfigError, DataError, FeedbackError
from textgym.feedback.annotators.base import turned
from textgym.feedback.formats import from_preferences
from textgym.feedback.records import PAIRWISE, Feedback, Question
from textgym.tasks.base import require_split
from textgym.tasks.data_source import load_splits, require_columns
from textgym.tasks.hh_dialogue import HHDialogue

ON_MISSING = ("skip", "raise")


class ReplayAnnotator:
    """Gives stored answers to the questions that were asked before, and no others.

    A question is known by its key: the same texts, a pair's in either order. Of several stored
    answers to a question the first one is given. Response time, timestamp and the order that
    was shown stay those of the stored answer.

    Attributes:
        name, group: as the store knows them.
        missing: questions left out so far, for no one has answered them.
    """

    def __init__(
        self,
        stored: Sequence[Feedback],
        name: str = "replay",
        group: str = "",
        on_missing: str = "skip",
    ) -> None:
        """Takes the answers.

        Args:
            stored: from a store, a file or `load_choices`.
            name: of the annotator whom the answers are given as.
            group: likewise.
            on_missing: what a question without a stored answer does: "skip" to be left out and
                counted, or "raise".

        Raises:
            ConfigError: no name, or another `on_missing`.
        """
        if not name:
            raise ConfigError("an annotator needs a name")
        if on_missing not in ON_MISSING:
            raise ConfigError(f"on_missing must be one of {ON_MISSING}, got {on_missing!r}")
        self.name = name
        self.group = group
        self.on_missing = on_missing
        self.missing = 0
        self._answers: dict[str, Feedback] = {}
        for answer in stored:
            self._answers.setdefault(answer.question.key, answer)

    def __len__(self) -> int:
        """Returns how many different questions it can answer."""
        return len(self._answers)

    def label(self, questions: Sequence[Question]) -> list[Feedback]:
        """Answers the questions that were asked before.

        Raises:
            FeedbackError: a question that was not, if told to raise.
        """
        known = [question for question in questions if question.key in self._answers]
        missing = len(questions) - len(known)
        if missing and self.on_missing == "raise":
            first = next(q for q in questions if q.key not in self._answers)
            raise FeedbackError(
                f"{missing} of {len(questions)} questions have no stored answer; the first is on "
                f"{first.prompt[:40]!r}"
            )
        self.missing += missing
        return [self._answer(question) for question in known]

    def _answer(self, question: Question) -> Feedback:
        stored = self._answers[question.key]
        return replace(turned(stored, question), annotator=self.name, group=self.group)


def load_choices(
    data: str | Path,
    data_dir: str | None = None,
    split: str = "train",
    annotator: str = "data",
    group: str = "",
) -> list[Feedback]:
    """Reads a data set's choices as pairwise answers; the chosen completion comes first.

    Args:
        data: a Hub id or folder in TRL's preference format (`prompt`, `chosen`, `rejected`) or in
            HH-RLHF's layout (`chosen` and `rejected` alone, whole dialogues that differ in the
            assistant's last turn; pairs that do not, or whose turns are equal, are left out).
        data_dir: the folder inside it, such as "harmless-base".
        split: "train", "validation" or "test"; one that is not there is a tenth of train.
        annotator: who chose.
        group: the annotator's.

    Raises:
        DataError: no such data or split, a missing column, or no pair in it.
        FeedbackError: a row that is no comparison, in the preference format.
    """
    require_split(split)
    splits = load_splits(data, data_dir)
    require_columns(splits, HHDialogue.needed, data)
    if "prompt" in splits[split].column_names:
        return from_preferences(splits[split], annotator, group)
    rows = HHDialogue(data, splits).rows(split)
    pairs = [(row["prompt"], row["reference"], row["rejected"]) for row in rows]
    choices = [
        Feedback(Question(prompt, (chosen, rejected), PAIRWISE), 1.0, annotator, group)
        for prompt, chosen, rejected in pairs
        if chosen != rejected
    ]
    if not choices:
        raise DataError(f"split {split!r} of {str(data)!r} holds no pair of answers to one prompt")
    return choices
