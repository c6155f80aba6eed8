"""Which responses form the set that a diversity metric is computed on.

Per-input sets are the K responses to one prompt; across-input sets hold one response per prompt.
The pool of all N * K responses is never such a set. Samples come either nested, N lists of K, or
flat and prompt-major (row n * K + j is sample j of prompt n) together with `k`; a sample is a list
of token ids, or an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textgym.errors import ConfigError

Metric = Callable[[Any], float]
"""Maps a set of samples to a number."""

FloatArray = NDArray[np.float64]


def cut(texts: Sequence[Sequence[int]], length: int) -> list[list[int]]:
    """Returns each text's first `length` tokens; shorter texts stay as they are.

    Every agent under comparison is cut to the same length, since most metrics fall with length.

    Raises:
        ConfigError: length < 1.
    """
    if length < 1:
        raise ConfigError(f"the common length must be >= 1 token, got {length}")
    return [list(text[:length]) for text in texts]


def by_prompt(samples: Sequence[Any], k: int | None = None) -> list[Sequence[Any]]:
    """Returns the samples as N groups of K; `k` says that they come flat.

    Raises:
        ConfigError: k < 1.
        ValueError: no samples, a flat count that is no multiple of k, or groups of unequal size.
    """
    if k is None:
        groups = list(samples)
    elif k < 1:
        raise ConfigError(f"samples per prompt must be >= 1, got {k}")
    elif len(samples) % k:
        raise ValueError(f"{len(samples)} samples are no multiple of {k} per prompt")
    else:
        groups = [samples[i : i + k] for i in range(0, len(samples), k)]
    sizes = {len(group) for group in groups}
    if sizes <= {0}:
        raise ValueError("no samples")
    if len(sizes) != 1:
        raise ValueError(f"expected equally many samples per prompt, got {sorted(sizes)}")
    return groups


def per_prompt(metric: Metric, samples: Sequence[Any], k: int | None = None) -> FloatArray:
    """Returns [N], the metric of each prompt's K samples; resample these for intervals."""
    return np.array([metric(group) for group in by_prompt(samples, k)])


def per_choice(metric: Metric, samples: Sequence[Any], k: int | None = None) -> FloatArray:
    """Returns [K], the metric of the N samples number j, one per prompt, for each choice j."""
    groups = by_prompt(samples, k)
    return np.array([metric([group[j] for group in groups]) for j in range(len(groups[0]))])


def per_input(metric: Metric, samples: Sequence[Any], k: int | None = None) -> float:
    """Returns the mean over prompts of the metric of the K samples to it.

    Source: Kirk et al. 2023, arXiv 2310.06452.
    """
    return float(per_prompt(metric, samples, k).mean())


def across_input(metric: Metric, samples: Sequence[Any], k: int | None = None) -> float:
    """Returns the metric of one sample per prompt, averaged over the K choices.

    Source: Kirk et al. 2023, arXiv 2310.06452.
    """
    return float(per_choice(metric, samples, k).mean())


def quality_gated(
    metric: Metric,
    samples: Sequence[Any],
    passed: ArrayLike,
    keep: int = 2,
    k: int | None = None,
) -> FloatArray:
    """Returns [N], the metric of each prompt's first `keep` samples that pass the gold bar.

    The number is fixed since most metrics change with the size of the set: an agent must not look
    less diverse for passing more often.

    Args:
        metric: maps a set of samples to a number.
        samples: nested, or flat with `k`.
        passed: bool, [N, K] or flat [B].
        keep: samples that every measured set has, >= 1.
        k: samples per prompt when `samples` is flat.

    Returns:
        [N], NaN for prompts with fewer than `keep` passing samples.

    Raises:
        ConfigError: keep < 1 or k < 1.
        ValueError: `passed` does not match the samples.

    Source: effective semantic diversity, Shypula et al. 2025, arXiv 2504.12522.
    """
    if keep < 1:
        raise ConfigError(f"keep must be >= 1, got {keep}")
    groups = by_prompt(samples, k)
    gates = np.asarray(passed, bool)
    if gates.size != len(groups) * len(groups[0]):
        raise ValueError(f"{gates.size} gates for {len(groups)} x {len(groups[0])} samples")
    values = []
    for group, gate in zip(groups, gates.reshape(len(groups), -1), strict=True):
        good = [sample for sample, ok in zip(group, gate, strict=True) if ok][:keep]
        values.append(metric(good) if len(good) == keep else float("nan"))
    return np.array(values)
