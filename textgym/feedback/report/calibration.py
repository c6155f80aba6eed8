"""Whether sigmoid(score difference) is the share of annotators who agree.

A pair has no natural first completion, so what is looked at is the reward's confidence in its own
choice, `sigmoid(|difference|)` in [1/2, 1], and whether the annotator agrees with that choice:
the confidence and accuracy of Guo et al. 2017, arXiv 1706.04599.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from textgym.feedback.report.measures import mean_by_prompt, outcomes
from textgym.feedback.report.numbers import (
    Estimate,
    Ints,
    Resampling,
    equal_count_bins,
    no_estimate,
)
from textgym.metrics.sets import FloatArray

BINS = 10
PAIRS_PER_BIN = 10
"""Fewer pairs than these give fewer bins."""
ROUNDING = 1e-9
"""Margins whose sum is smaller than this share of their sizes sum to 0."""


@dataclass(frozen=True)
class Bin:
    """Pairs of like confidence: what the reward expects, and the share that agrees with it."""

    confidence: float
    agreement: Estimate


@dataclass(frozen=True)
class Calibration:
    """The calibration of a reward's score differences on M pairs.

    Attributes:
        bins: the curve, from the least confidence to the greatest.
        error: the expected calibration error, in [0, 1].
        chance_error: its mean over labels drawn from the confidences themselves: what a reward
            without any error shows on so many pairs.
        chance_error_high: their upper quantile at the level of the intervals.
        temperature: differences divided by it fit these pairs best; 1 is calibrated, above is
            too sure of itself.
        tempered_error: the expected calibration error after the division.
    """

    bins: list[Bin]
    error: float
    chance_error: float
    chance_error_high: float
    temperature: Estimate
    tempered_error: float | None


def calibration_error(confidence: FloatArray, agrees: FloatArray, bins: int) -> float:
    """Returns `sum over bins of share of pairs * |mean agreement - mean confidence|`.

    Args:
        confidence: [M] in [1/2, 1].
        agrees: [M] 1 where the annotator makes the reward's choice, 0 where not, 1/2 where the
            reward makes none.
        bins: how many, of equal counts but for equal confidences, which share one.

    Source: Guo et al. 2017, arXiv 1706.04599, equation 3, with bins of equal counts (Nguyen and
    O'Connor 2015, arXiv 1508.05154).
    """
    return _error(equal_count_bins(confidence, bins), confidence, agrees)


def _error(bin_of: Ints, confidence: FloatArray, agrees: FloatArray) -> float:
    gaps = np.bincount(bin_of, weights=agrees - confidence)
    return float(np.abs(gaps).sum() / len(confidence))


def fit_temperature(margin: FloatArray) -> Estimate:
    """Returns the T > 0 that maximises `sum log sigmoid(margin / T)`.

    Args:
        margin: [M] score of the preferred completion minus the other's.

    Source: Guo et al. 2017, arXiv 1706.04599, section 4.2.
    """
    count = len(margin)
    if margin.sum() <= ROUNDING * np.abs(margin).sum():
        return no_estimate("no temperature makes these differences predict the answers", count)
    if margin.min() >= 0:
        return no_estimate("no pair is ordered wrongly, so that the best temperature is 0", count)
    scale = np.abs(margin).mean()

    def slope(inverse: float) -> float:
        """Returns the derivative of the log-likelihood by 1/T; it falls, so it has one root."""
        return float((margin / scale * expit(-inverse * margin / scale)).sum())

    above = 1.0
    while slope(above) > 0:
        above *= 2
    return Estimate(float(scale / brentq(slope, 0, above)), count=count)


def calibrate(margin: FloatArray, prompts: Ints, resampling: Resampling) -> Calibration:
    """Returns the calibration of M >= 1 pairs.

    Args:
        margin: [M] score of the preferred completion minus the other's.
        prompts: [M] ids.
        resampling: draws the intervals of the curve and the errors that chance gives.
    """
    bins = max(1, min(BINS, len(margin) // PAIRS_PER_BIN))
    confidence, agrees = expit(np.abs(margin)), outcomes(margin)
    bin_of = equal_count_bins(confidence, bins)
    curve = [
        Bin(
            float(confidence[bin_of == b].mean()),
            mean_by_prompt(agrees[bin_of == b], prompts[bin_of == b], resampling),
        )
        for b in np.unique(bin_of)
    ]
    chance = [
        _error(bin_of, confidence, _labels(margin, confidence, resampling.generator))
        for _ in range(resampling.resamples)
    ]
    temperature = fit_temperature(margin)
    tempered = None
    if temperature.value is not None:
        tempered = calibration_error(expit(np.abs(margin) / temperature.value), agrees, bins)
    return Calibration(
        curve,
        _error(bin_of, confidence, agrees),
        float(np.mean(chance)),
        float(np.quantile(chance, resampling.level)),
        temperature,
        tempered,
    )


def _labels(
    margin: FloatArray, confidence: FloatArray, generator: np.random.Generator
) -> FloatArray:
    """Returns what annotators would say who follow the confidences, as `outcomes` does."""
    drawn = generator.random(len(margin)) < confidence
    return np.asarray(np.where(margin == 0, 0.5, drawn))
