"""Answers small enough to work a report by hand, and rewards that look scores up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from textgym.feedback.records import BINARY, PAIRWISE, RATING, Feedback, Question

SCORES = {"aaaa": 2.0, "b": 1.0, "cc": 3.0, "d": 0.0, "eee": 1.0, "ff": 0.0, "g": 4.0, "h": 0.0}
"""What the table reward gives; `ii`, which is only in a tie, scores 1."""


class TableReward:
    """Looks completions up, and keeps what it was asked with."""

    def __init__(self, scores: Mapping[str, float], default: float = 1.0) -> None:
        self.scores = scores
        self.default = default
        self.asked: list[dict[str, list[Any]]] = []

    def __call__(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        self.asked.append({"prompts": prompts, "completions": completions, **columns})
        return [self.scores.get(text, self.default) for text in completions]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def pair(
    prompt: str, first: str, second: str, label: float, annotator: str = "ann", group: str = ""
) -> Feedback:
    return Feedback(Question(prompt, (first, second), PAIRWISE), label, annotator, group)


def single(
    kind: str, text: str, label: float, annotator: str = "ann", prompt: str = "p"
) -> Feedback:
    return Feedback(Question(prompt, (text,), kind), label, annotator)


def six_pairs() -> list[Feedback]:
    """The reward is right, right, wrong, undecided and right; the last is a tie.

    The preferred response is longer by 3, -2, -2, 1 and 0 characters.
    """
    return [
        pair("p0", "aaaa", "b", 1, "ann", "readers"),
        pair("p0", "aaaa", "cc", 0, "ann", "readers"),
        pair("p1", "d", "eee", 1, "ann", "readers"),
        pair("p1", "d", "ff", 0, "bob", "authors"),
        pair("p2", "g", "h", 1, "bob", "authors"),
        pair("p2", "g", "ii", 0.5, "bob", "authors"),
    ]


def turned(feedback: Feedback) -> Feedback:
    """The same answer to the same pair, listed the other way round."""
    asked = feedback.question
    question = Question(asked.prompt, asked.completions[::-1], asked.kind)
    return Feedback(question, 1 - feedback.label, feedback.annotator, feedback.group)


def four_ratings() -> list[Feedback]:
    """Scores 1, 2, 3, 4 of texts rated 1, 3, 2, 5."""
    return [single(RATING, f"t{i}", r, prompt=f"p{i}") for i, r in enumerate((1, 3, 2, 5))]


RATED = {"t0": 1.0, "t1": 2.0, "t2": 3.0, "t3": 4.0}


def four_verdicts() -> list[Feedback]:
    """Good texts of scores 3 and 1, bad ones of scores 2 and 1."""
    return [single(BINARY, t, t[0] == "y", prompt=t) for t in ("y3", "y1", "n2", "n1")]


JUDGED = {"y3": 3.0, "y1": 1.0, "n2": 2.0, "n1": 1.0}


def bradley_terry(
    count: int, temperature: float, seed: int = 0, spread: float = 2.0
) -> tuple[list[Feedback], TableReward]:
    """Pairs whose answers follow sigmoid(score difference / temperature)."""
    draws, scores, answers = rng(seed), {}, []
    for n in range(count):
        a, b = f"a{n}", f"b{n}"
        scores |= {a: float(draws.normal(0, spread)), b: float(draws.normal(0, spread))}
        chance = 1 / (1 + np.exp(-(scores[a] - scores[b]) / temperature))
        answers.append(pair(f"p{n}", a, b, float(draws.random() < chance)))
    return answers, TableReward(scores)
