"""How well scores agree with answers, one measure per kind of feedback, and with other numbers.

Intervals resample prompts, with all the answers to a prompt together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import kendalltau, rankdata

from textgym.feedback.records import BINARY, PAIRWISE, RATING
from textgym.feedback.report.numbers import (
    Estimate,
    Ints,
    Resampling,
    bootstrap_by_prompt,
    codes,
    no_estimate,
    of_interval,
)
from textgym.feedback.report.scoring import Answers
from textgym.metrics.sets import FloatArray
from textgym.metrics.stats import bootstrap_ratio

NAMES = {PAIRWISE: "accuracy", RATING: "Spearman's correlation", BINARY: "AUC"}
"""What is measured on each kind."""
CHANCE = {PAIRWISE: 0.5, RATING: 0.0, BINARY: 0.5}
"""What scores that know nothing reach."""
UNDEFINED = {
    PAIRWISE: "no decided pairs",
    RATING: "all scores or all ratings are equal",
    BINARY: "the answers are all good or all bad",
}
"""Why a measure may have no value."""


def margins(values: FloatArray, labels: FloatArray) -> FloatArray:
    """Returns [M], the value of the preferred completion minus the other's.

    Args:
        values: [M, 2] of the completions as they are listed.
        labels: [M] 1 where the first is preferred, else 0.
    """
    return np.asarray(np.where(labels == 1, 1, -1) * (values[:, 0] - values[:, 1]))


def outcomes(margin: FloatArray) -> FloatArray:
    """Returns [M], 1 where the margin is positive, 0 where it is negative, 1/2 where it is 0."""
    return np.asarray((np.sign(margin) + 1) / 2)


def mean_by_prompt(values: FloatArray, prompts: Ints, resampling: Resampling) -> Estimate:
    """Returns the mean of M >= 1 values with a bootstrap interval, whole prompts resampled.

    Each answer weighs alike: the sum over prompts of their sums, over that of their counts.
    """
    ids = codes(prompts.tolist())
    sums, counts = np.bincount(ids, weights=values), np.bincount(ids)
    generator, resamples, level = resampling
    interval = bootstrap_ratio(sums, counts, generator, resamples, level)
    return of_interval(interval, len(values), len(counts))


def pearson(x: FloatArray, y: FloatArray) -> float:
    """Returns the correlation of two [M] arrays, NaN where either is constant."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    a, b = x - x.mean(), y - y.mean()
    size = float(np.sqrt(a @ a) * np.sqrt(b @ b))
    return float(a @ b) / size if size > 0 else float("nan")


def spearman(x: FloatArray, y: FloatArray) -> float:
    """Returns the correlation of the ranks of two [M] arrays, ties at their mean rank."""
    return pearson(rankdata(x), rankdata(y))


def kendall(x: FloatArray, y: FloatArray) -> float:
    """Returns tau-b of two [M] arrays (Kendall 1945), NaN where either is constant."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(kendalltau(x, y).statistic)


def auc(values: FloatArray, labels: FloatArray) -> float:
    """Returns the share of (good, bad) answers where the good one has the greater value.

    Ties count one half (Mann and Whitney 1947); NaN without both good and bad answers.

    Args:
        values: [M].
        labels: [M] 1 for good, 0 for bad.
    """
    good = labels == 1
    positives, negatives = int(good.sum()), int((~good).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(values)[good].sum() - positives * (positives + 1) / 2
    return float(ranks / (positives * negatives))


def agreement(
    answers: Answers,
    values: FloatArray,
    resampling: Resampling,
    against: FloatArray | None = None,
) -> Estimate:
    """Returns how well values order completions as the annotators do, by the kind's measure.

    Args:
        answers: M of one kind.
        values: [M, C], the reward's scores or anything else that is taken for one.
        resampling: how the interval is drawn.
        against: [M, C] other values; then the estimate is the difference to theirs, paired.
    """
    if not len(answers):
        return no_estimate(UNDEFINED[answers.kind])
    if answers.kind == PAIRWISE:
        won = outcomes(margins(values, answers.labels))
        if against is not None:
            won = won - outcomes(margins(against, answers.labels))
        return mean_by_prompt(won, answers.prompts, resampling)
    measure, labels = {RATING: spearman, BINARY: auc}[answers.kind], answers.labels

    def statistic(rows: Ints) -> float:
        value = measure(values[rows, 0], labels[rows])
        return value if against is None else value - measure(against[rows, 0], labels[rows])

    return bootstrap_by_prompt(statistic, answers.prompts, resampling, UNDEFINED[answers.kind])


def kendall_agreement(answers: Answers, resampling: Resampling) -> Estimate:
    """Returns tau-b of the scores and the ratings."""

    def statistic(rows: Ints) -> float:
        return kendall(answers.scores[rows, 0], answers.labels[rows])

    return bootstrap_by_prompt(statistic, answers.prompts, resampling, UNDEFINED[RATING])


@dataclass(frozen=True)
class Correlations:
    """How two numbers of the texts go together.

    Attributes:
        pearson, spearman: over all texts.
        pearson_within, spearman_within: of what each differs by from the mean of its prompt, over
            prompts with two different texts or more.
    """

    pearson: Estimate
    spearman: Estimate
    pearson_within: Estimate
    spearman_within: Estimate


def correlations(
    x: FloatArray, y: FloatArray, prompts: Ints, resampling: Resampling
) -> Correlations:
    """Returns the correlations of two [B] arrays over all texts and within their prompts."""
    shared = np.bincount(prompts)[prompts] > 1
    inner = prompts[shared]
    centred = _centred(x[shared], inner), _centred(y[shared], inner)
    return Correlations(
        _correlation(pearson, x, y, prompts, resampling),
        _correlation(spearman, x, y, prompts, resampling),
        _correlation(pearson, *centred, inner, resampling),
        _correlation(spearman, *centred, inner, resampling),
    )


def _correlation(
    measure: Callable[[FloatArray, FloatArray], float],
    x: FloatArray,
    y: FloatArray,
    prompts: Ints,
    resampling: Resampling,
) -> Estimate:
    reason = "a constant has no correlation" if len(prompts) > 1 else "fewer than two texts"
    return bootstrap_by_prompt(lambda rows: measure(x[rows], y[rows]), prompts, resampling, reason)


def _centred(values: FloatArray, prompts: Ints) -> FloatArray:
    """Returns values [B] minus the mean of their prompt."""
    ids = codes(prompts.tolist())
    means = np.bincount(ids, weights=values) / np.maximum(np.bincount(ids), 1)
    centred = values - means[ids]
    # What rounding leaves of equal values must not pass for a difference, least of all in ranks.
    centred[np.abs(centred) <= 1e-12 * np.abs(values)] = 0
    return np.asarray(centred)
