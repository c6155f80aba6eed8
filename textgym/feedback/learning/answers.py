"""Answers as a reward model reads them: rows of tokens, labels, margins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from textgym.errors import FeedbackError
from textgym.feedback.learning.links import Link
from textgym.feedback.records import Feedback

Encode = Callable[[list[str], list[str], list[str]], list[Any]]
"""Maps B prompts, completions and annotators to rows."""


class Answers:
    """Answers as rows, and what scores of them are worth.

    Args:
        feedback: the answers.
        encode: makes the rows of their completions.
        links: the objective of each kind among them.
        margin: see `LearningConfig`.
    """

    def __init__(
        self,
        feedback: Sequence[Feedback],
        encode: Encode,
        links: dict[str, Link],
        margin: float | str = 0.0,
    ) -> None:
        shown = [(f, text) for f in feedback for text in f.question.completions]
        rows = iter(
            encode(
                [f.question.prompt for f, _ in shown],
                [text for _, text in shown],
                [f.annotator for f, _ in shown],
            )
        )
        self.rows = [[next(rows) for _ in f.question.completions] for f in feedback]
        self.kinds = [f.question.kind for f in feedback]
        self.labels = torch.tensor([f.label for f in feedback])
        self.margins = torch.tensor([_margin(f, margin) for f in feedback])
        self.links = links

    def rows_of(self, batch: list[int]) -> list[Any]:
        """Returns the rows of a batch, an answer's side by side."""
        return [row for i in batch for row in self.rows[i]]

    def judge(self, batch: list[int], scores: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the batch's mean loss and, per kind, which answers were right."""
        starts, total = [], 0
        for i in batch:
            starts.append(total)
            total += len(self.rows[i])
        loss, right = scores.new_zeros(()), {}
        for kind, link in self.links.items():
            own = [(i, s) for i, s in zip(batch, starts, strict=True) if self.kinds[i] == kind]
            if not own:
                continue
            index, start = (torch.tensor(part) for part in zip(*own, strict=True))
            shown = len(self.rows[own[0][0]])
            seen = scores[start[:, None] + torch.arange(shown)]
            mean = link.loss(seen, self.labels[index], self.margins[index])
            loss = loss + mean * (len(own) / len(batch))
            with torch.no_grad():
                right[kind] = link.right(seen, self.labels[index])
        return loss, right


def _margin(feedback: Feedback, margin: float | str) -> float:
    if not isinstance(margin, str):
        return margin
    value = feedback.question.columns.get(margin, 0.0)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise FeedbackError(f"the column {margin!r} is no margin: {value!r}") from None
