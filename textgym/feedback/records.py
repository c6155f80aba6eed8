"""What annotators are asked and what they answer: the records that all feedback is made of."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from textgym.errors import FeedbackError
from textgym.registry import unknown_name

PAIRWISE = "pairwise"
RATING = "rating"
BINARY = "binary"
KINDS = {PAIRWISE: 2, RATING: 1, BINARY: 1}
"""The kinds of question, and how many completions each shows."""
LABELS = {PAIRWISE: (0.0, 0.5, 1.0), RATING: (1.0, 2.0, 3.0, 4.0, 5.0), BINARY: (0.0, 1.0)}
"""The answers to each kind. Of a pair: 1 for the first, 0 for the second, 0.5 for a tie. A rating
runs from 1, the worst, to 5. Binary: 1 is good, 0 bad."""


@dataclass(frozen=True)
class Question:
    """What an annotator is asked.

    Attributes:
        prompt: what the completions answer.
        completions: two different ones of a pair, else one.
        kind: "pairwise", "rating" or "binary".
        policies: who wrote each completion; empty where that is not known.
        columns: the data set's other columns for this prompt, as JSON has them: what gold judges
            need.

    Raises:
        FeedbackError: on construction, for an unknown kind, a wrong number of completions or
            policies, equal completions, or columns that JSON cannot hold.
    """

    prompt: str
    completions: tuple[str, ...]
    kind: str = PAIRWISE
    policies: tuple[str, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise FeedbackError(str(unknown_name("kind of feedback", str(self.kind), KINDS)))
        for name in ("completions", "policies"):
            object.__setattr__(self, name, _texts(getattr(self, name), name))
        expected = KINDS[self.kind]
        if len(self.completions) != expected:
            raise FeedbackError(
                f"a {self.kind} question shows {expected} completions, got {len(self.completions)}"
            )
        if not isinstance(self.prompt, str):
            raise FeedbackError(f"a prompt must be a string, got {self.prompt!r}")
        if len(set(self.completions)) < expected:
            raise FeedbackError(f"the completions are equal: {self.completions[0][:40]!r}")
        if len(self.policies) not in (0, expected):
            raise FeedbackError(f"{expected} completions by {len(self.policies)} policies")
        try:
            # As JSON gives them back, so that a record that was kept equals what it was.
            columns = json.loads(json.dumps(dict(self.columns)))
        except (TypeError, ValueError) as error:
            raise FeedbackError(f"the columns of a question are no JSON: {error}") from None
        object.__setattr__(self, "columns", columns)

    @property
    def key(self) -> str:
        """Names the question: the same texts in another order are the same question."""
        asked = json.dumps([self.kind, self.prompt, *sorted(self.completions)])
        return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True)
class Feedback:
    """One answer.

    Attributes:
        question: what was asked.
        label: the answer, one of `LABELS` for the question's kind; of a pair it is the share of the
            preference that goes to the first completion, whatever order they were shown in.
        annotator: who answered.
        group: which group the annotator belongs to; "" for none.
        order: which completion was shown in each place, such as (1, 0); as given by default.
        seconds: response time; None where no one looked at a clock.
        seed: of a simulated annotator's or a judge's randomness.
        timestamp: when, in seconds since 1970 (UTC); None where it does not matter.

    Raises:
        FeedbackError: on construction, for a label outside the kind's, an unnamed annotator, an
            order that is none, or a time that is not finite or negative.
    """

    question: Question
    label: float
    annotator: str
    group: str = ""
    order: tuple[int, ...] = ()
    seconds: float | None = None
    seed: int | None = None
    timestamp: float | None = None

    def __post_init__(self) -> None:
        kind = self.question.kind
        if self.label not in LABELS[kind]:
            known = ", ".join(f"{label:g}" for label in LABELS[kind])
            raise FeedbackError(f"a {kind} label is one of {known}, got {self.label!r}")
        object.__setattr__(self, "label", float(self.label))
        for name in ("annotator", "group"):
            if not isinstance(getattr(self, name), str):
                raise FeedbackError(f"{name} must be a string, got {getattr(self, name)!r}")
        if not self.annotator:
            raise FeedbackError("an answer needs its annotator's name")
        if self.seed is not None and not isinstance(self.seed, int):
            raise FeedbackError(f"a seed must be a whole number, got {self.seed!r}")
        places = tuple(range(len(self.question.completions)))
        object.__setattr__(self, "order", tuple(self.order) or places)
        if tuple(sorted(self.order)) != places:
            raise FeedbackError(f"the order shown must permute {places}, got {self.order}")
        for name in ("seconds", "timestamp"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _time(value, name))

    @property
    def is_tie(self) -> bool:
        """Whether a pair was called equally good."""
        return self.question.kind == PAIRWISE and self.label == 0.5

    @property
    def ranked(self) -> tuple[str, str]:
        """The completions of a pair, the preferred one first; a tie's as they were given."""
        if self.question.kind != PAIRWISE:
            raise FeedbackError(f"a {self.question.kind} answer ranks no pair")
        first, second = self.question.completions
        return (second, first) if self.label == 0 else (first, second)

    def to_row(self) -> dict[str, Any]:
        """Returns the record flat, as JSON values; `columns` is itself JSON text."""
        asked, given = self.question, {f.name: getattr(self, f.name) for f in fields(self)}
        del given["question"]
        return {
            "prompt": asked.prompt,
            "completions": list(asked.completions),
            "kind": asked.kind,
            "policies": list(asked.policies),
            "columns": json.dumps(dict(asked.columns), sort_keys=True),
            **given,
            "order": list(self.order),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Feedback:
        """Reads what `to_row` wrote.

        Raises:
            FeedbackError: a missing or unknown field, or a value that no answer has.
        """
        if missing := [name for name in REQUIRED if row.get(name) is None]:
            raise FeedbackError(f"the record has no {', '.join(missing)}")
        if unknown := sorted(set(row) - set(FIELDS)):
            raise FeedbackError(str(unknown_name("field", unknown[0], FIELDS)))
        given = {name: value for name, value in row.items() if value is not None}
        try:
            question = Question(
                given["prompt"],
                given["completions"],
                given["kind"],
                given.get("policies", ()),
                json.loads(given.get("columns", "{}")),
            )
            order = tuple(int(place) for place in given.get("order", ()))
            rest = ("label", "annotator", "group", "seconds", "seed", "timestamp")
            answer = {name: given[name] for name in rest if name in given}
            return cls(question, order=order, **answer)
        except (TypeError, ValueError) as error:
            if isinstance(error, FeedbackError):
                raise
            raise FeedbackError(f"the record cannot be read: {error}") from error


def _texts(values: Any, name: str) -> tuple[str, ...]:
    """Returns strings as a tuple. Raises: FeedbackError for anything else, a string among it."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise FeedbackError(f"{name} must be a list of strings, got {values!r}")
    found = tuple(values)
    if not all(isinstance(text, str) for text in found):
        raise FeedbackError(f"{name} must be strings, got {found!r}")
    return found


def _time(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, str) or not (math.isfinite(number) and number >= 0):
        raise FeedbackError(f"{name} must be finite and >= 0, got {value!r}")
    return number


REQUIRED = ("prompt", "completions", "kind", "label", "annotator")
FIELDS = (*REQUIRED, "policies", "columns", "group", "order", "seconds", "seed", "timestamp")
"""The columns of a flat record."""
