"""Accuracy on the pairs that have something in common."""

from __future__ import annotations

import numpy as np

from textgym.feedback.report.measures import mean_by_prompt, outcomes
from textgym.feedback.report.numbers import Estimate, Ints, Resampling, equal_count_bins
from textgym.metrics.sets import FloatArray

MARGIN_BINS = 4


def by_margin(margin: FloatArray, prompts: Ints, resampling: Resampling) -> dict[str, Estimate]:
    """Returns accuracy by |score difference|, in quantiles from the least to the greatest.

    Args:
        margin: [M] score of the preferred completion minus the other's.
        prompts: [M] ids.
        resampling: how intervals are drawn.
    """
    size = np.abs(margin)
    bins = equal_count_bins(size, MARGIN_BINS)
    named = {
        f"quarter {b + 1}: {size[bins == b].min():.3g} to {size[bins == b].max():.3g}": bins == b
        for b in np.unique(bins)
    }
    return _accuracies(named, margin, prompts, resampling)


def by_length_difference(
    margin: FloatArray, longer: FloatArray, prompts: Ints, resampling: Resampling
) -> dict[str, Estimate]:
    """Returns accuracy by how many characters longer the preferred completion is.

    What is much longer or shorter begins at the median of the differences that are not 0.

    Args:
        margin: [M] score of the preferred completion minus the other's.
        longer: [M] length of the preferred completion minus the other's, characters.
        prompts: [M] ids.
        resampling: how intervals are drawn.
    """
    different = np.abs(longer[longer != 0])
    much = np.median(different) if len(different) else 0.0
    named = {
        f"shorter by more than {much:g}": longer < -much,
        f"shorter by at most {much:g}": (longer < 0) & (longer >= -much),
        "equally long": longer == 0,
        f"longer by at most {much:g}": (longer > 0) & (longer <= much),
        f"longer by more than {much:g}": longer > much,
    }
    return _accuracies(named, margin, prompts, resampling)


def _accuracies(
    named: dict[str, np.ndarray], margin: FloatArray, prompts: Ints, resampling: Resampling
) -> dict[str, Estimate]:
    won = outcomes(margin)
    return {
        name: mean_by_prompt(won[kept], prompts[kept], resampling)
        for name, kept in named.items()
        if kept.any()
    }
