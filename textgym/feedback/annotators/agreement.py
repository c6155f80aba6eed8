"""How far two annotators agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from textgym.errors import FeedbackError
from textgym.feedback.annotators.base import turned
from textgym.feedback.records import Feedback


def agreement(a: Sequence[Feedback], b: Sequence[Feedback]) -> dict[str, float]:
    """Returns how far two sets of answers to the same questions agree.

    Where a question has several answers, each of `a` stands beside each of `b`. A pair's
    completions count as first and second in the order of their texts, so that an answer does not
    depend on the order they were written down in.

    Args:
        a: one side's answers.
        b: the other's.

    Returns:
        `questions` (shared), `comparisons` (of answers), `agreement` (the share that are equal,
        ties and all) and `kappa`, (p_o - p_e) / (1 - p_e) with the agreement p_e that chance would
        give (Cohen 1960); NaN where both always give the one same answer.

    Raises:
        FeedbackError: no shared question, or shared ones of several kinds.
    """
    ours, theirs = _by_question(a), _by_question(b)
    shared = [key for key in ours if key in theirs]
    if not shared:
        raise FeedbackError(f"no question is shared by the {len(a)} and the {len(b)} answers")
    kinds = sorted({ours[key][0].question.kind for key in shared})
    if len(kinds) > 1:
        raise FeedbackError(f"agreement is of one kind at a time, got {' and '.join(kinds)}")
    both = [(_label(x), _label(y)) for key in shared for x in ours[key] for y in theirs[key]]
    observed = sum(x == y for x, y in both) / len(both)
    first, second = Counter(x for x, _ in both), Counter(y for _, y in both)
    expected = sum(first[label] * second[label] for label in first) / len(both) ** 2
    return {
        "questions": len(shared),
        "comparisons": len(both),
        "agreement": observed,
        "kappa": (observed - expected) / (1 - expected) if expected < 1 else float("nan"),
    }


def _by_question(feedback: Sequence[Feedback]) -> dict[str, list[Feedback]]:
    found: dict[str, list[Feedback]] = {}
    for answer in feedback:
        found.setdefault(answer.question.key, []).append(answer)
    return found


def _label(feedback: Feedback) -> float:
    """Returns the answer to the question with its completions in the order of their texts."""
    asked = feedback.question
    return turned(feedback, replace(asked, completions=tuple(sorted(asked.completions)))).label
