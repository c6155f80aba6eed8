"""What was bought at which price: curves read at a matched level, and the area that points cover.

Curves are [..., C], C points in the order they were passed; leading axes are resamples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from textgym.metrics.sets import FloatArray


def at_level(x: ArrayLike, y: ArrayLike, level: float) -> FloatArray:
    """Returns [...], y where x first reaches the level, straight lines between the points.

    A training curve may come back: what counts is the first time. NaN where x never reaches the
    level, or begins beyond it, or follows a point that is not known: nothing is extrapolated.

    Args:
        x: [..., C], such as KL along training.
        y: [..., C], such as the diversity lost.
        level: of x.

    Raises:
        ValueError: shapes that differ, or fewer than one point.

    >>> float(at_level([0, 1, 3], [0, 10, 20], 2))
    15.0
    """
    a, b = np.asarray(x, float), np.asarray(y, float)
    if a.shape != b.shape or not a.ndim or not a.shape[-1]:
        raise ValueError(f"expected two curves of one shape, got {a.shape} and {b.shape}")
    there = a >= level
    first = there.argmax(axis=-1)[..., None]
    before = np.maximum(first - 1, 0)
    x1, y1 = (np.take_along_axis(v, first, -1)[..., 0] for v in (a, b))
    x0, y0 = (np.take_along_axis(v, before, -1)[..., 0] for v in (a, b))
    step = x1 - x0
    share = np.divide(level - x0, step, out=np.zeros_like(step), where=step != 0)
    found = y0 + share * (y1 - y0)
    exact = x1 == level
    between = there.any(axis=-1) & (first[..., 0] > 0)
    return np.where(exact, y1, np.where(between, found, np.nan))


def hypervolume(x: ArrayLike, y: ArrayLike, corner: ArrayLike = (0.0, 0.0)) -> FloatArray:
    """Returns [...], the area that points dominate above a corner; more of both is better.

    The union of the rectangles between the corner and each point. Points that do not exceed the
    corner in both add nothing.

    Args:
        x: [..., C], such as the reward.
        y: [..., C], such as the share of diversity kept.
        corner: [2], or [..., 2], the worst that counts.

    Raises:
        ValueError: shapes that differ.

    Source: Zitzler and Thiele 1998, "Multiobjective optimization using evolutionary algorithms".

    >>> float(hypervolume([1, 2], [2, 1]))
    3.0
    """
    a, b = np.asarray(x, float), np.asarray(y, float)
    if a.shape != b.shape or not a.ndim:
        raise ValueError(f"expected points of one shape, got {a.shape} and {b.shape}")
    origin = np.asarray(corner, float)
    width = np.maximum(a - origin[..., 0, None], 0)
    height = np.maximum(b - origin[..., 1, None], 0)
    known = np.isfinite(width) & np.isfinite(height)
    width, height = np.where(known, width, 0), np.where(known, height, 0)
    order = np.argsort(-width, axis=-1)
    width, height = (np.take_along_axis(v, order, -1) for v in (width, height))
    # From right to left, each point adds what rises above all that lie further right.
    reached = np.maximum.accumulate(height, axis=-1)
    rise = np.diff(reached, axis=-1, prepend=0)
    return np.asarray((width * rise).sum(axis=-1))
