"""How far annotators agree with each other: the bound on what any reward can reach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from textgym.feedback.records import LABELS, PAIRWISE, RATING, Feedback
from textgym.feedback.report.numbers import Estimate, no_estimate

FEWEST_SHARED = 2
"""Questions that two annotators or more must have answered."""


def krippendorff_alpha(feedback: Sequence[Feedback]) -> Estimate:
    """Returns Krippendorff's alpha of answers of one kind: 1 is agreement, 0 is chance.

    Nominal for pairs (ties are an answer of their own) and binary answers, ordinal for ratings.
    Answers to the same pair in another order are turned round. Where an annotator answers a
    question again, the last answer counts. `count` is the number of shared questions.

    Source: Krippendorff 2004, Content Analysis, chapter 11; computed by `krippendorff`.
    """
    import krippendorff

    kind = feedback[0].question.kind if feedback else PAIRWISE
    latest = {(f.question.key, f.annotator): _turned(f) for f in feedback}
    questions: dict[str, Counter[float]] = {}
    for (key, _), label in latest.items():
        questions.setdefault(key, Counter())[label] += 1
    shared = [labels for labels in questions.values() if labels.total() > 1]
    if len(shared) < FEWEST_SHARED:
        return no_estimate("not enough shared questions", len(shared))
    if len({label for labels in shared for label in labels}) < 2:
        return no_estimate("all answers to shared questions are the same", len(shared))
    domain = LABELS[kind]
    counts = np.array([[labels[label] for label in domain] for labels in shared])
    value = krippendorff.alpha(
        value_counts=counts,
        value_domain=domain,
        level_of_measurement="ordinal" if kind == RATING else "nominal",
    )
    return Estimate(float(value), count=len(shared))


def _turned(feedback: Feedback) -> float:
    """Returns the label as if the completions of a pair were listed in alphabetical order."""
    completions = feedback.question.completions
    if feedback.question.kind == PAIRWISE and completions[0] > completions[1]:
        return 1 - feedback.label
    return feedback.label
