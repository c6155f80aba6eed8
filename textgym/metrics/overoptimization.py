"""How far a proxy can be pursued: the two laws of reward against distance, fitted.

With `d = sqrt(KL)`, KL in nats per response, and reward measured from the reference's,
best-of-n follows `R(d) = d (a - b d)` and reinforcement learning `R(d) = d (a - b log d)`.

Source: Gao et al. 2022, arXiv 2210.10760, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from textgym.errors import ConfigError
from textgym.metrics.sets import FloatArray

Law = Literal["best_of_n", "rl"]
LAWS: tuple[Law, ...] = ("best_of_n", "rl")


@dataclass(frozen=True, eq=False)
class Fit:
    """A law fitted to one or more curves; arrays [...] over the curves.

    Attributes:
        law: which of the two.
        a: reward per unit of distance at the start of `best_of_n`, at distance 1 of `rl`.
        b: what bends the curve down; <= 0 where it does not bend.
        peak: the distance of most reward; inf where b <= 0.
        error: root of the mean squared residual, in units of reward.
    """

    law: Law
    a: FloatArray
    b: FloatArray
    peak: FloatArray
    error: FloatArray

    def __call__(self, d: ArrayLike) -> FloatArray:
        """Returns the fitted reward [..., D] at distances d [D]."""
        first, second = features(d, self.law)
        return np.asarray(self.a[..., None] * first + self.b[..., None] * second)


def features(d: ArrayLike, law: Law) -> tuple[FloatArray, FloatArray]:
    """Returns what a and b are multiplied with, each of d's shape; 0 at d = 0.

    Raises: ConfigError for an unknown law, ValueError for a negative distance.
    """
    x = np.asarray(d, float)
    if (x < 0).any():
        raise ValueError("distances are square roots of a KL and cannot be negative")
    if law == "best_of_n":
        return x, -(x**2)
    if law == "rl":
        return x, -x * np.log(np.where(x > 0, x, 1))
    raise ConfigError(f"law must be one of {', '.join(LAWS)}, got {law!r}")


def fit(d: ArrayLike, reward: ArrayLike, law: Law) -> Fit:
    """Returns the least-squares fit of each curve.

    Args:
        d: [..., C] distances; points at 0 say nothing and are left out.
        reward: [..., C], from the reference's (0 at d = 0).
        law: which form.

    Points that are NaN are left out; curves with fewer than three others give NaN: two points
    fit any two numbers.

    Raises:
        ConfigError: an unknown law.
        ValueError: shapes that differ, or a negative distance.
    """
    x, y = np.asarray(d, float), np.asarray(reward, float)
    if x.shape != y.shape or not x.ndim:
        raise ValueError(f"expected two curves of one shape, got {x.shape} and {y.shape}")
    known = np.isfinite(x) & np.isfinite(y) & ~(x == 0)
    u, v = (np.where(known, f, 0) for f in features(np.where(known, x, 0), law))
    y = np.where(known, y, 0)
    uu, uv, vv = ((p * q).sum(axis=-1) for p, q in ((u, u), (u, v), (v, v)))
    uy, vy = (u * y).sum(axis=-1), (v * y).sum(axis=-1)
    determinant = uu * vv - uv**2
    # Points at one distance have a determinant that is 0 up to rounding.
    solvable = (known.sum(axis=-1) >= 3) & (determinant > 1e-9 * uu * vv)
    safe = np.where(solvable, determinant, 1)
    a = np.where(solvable, (uy * vv - vy * uv) / safe, np.nan)
    b = np.where(solvable, (vy * uu - uy * uv) / safe, np.nan)
    residual = y - a[..., None] * u - b[..., None] * v
    error = np.sqrt((residual**2).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1))
    return Fit(law, a, b, peak(a, b, law), error)


def peak(a: ArrayLike, b: ArrayLike, law: Law) -> FloatArray:
    """Returns the distance of most reward: `a / 2b`, or `exp(a / b - 1)` for `rl`.

    inf where b <= 0, since the curve does not come down then; 0 where `best_of_n` only falls.

    >>> float(peak(2.0, 1.0, "best_of_n")), float(peak(1.0, 1.0, "rl"))
    (1.0, 1.0)
    """
    p, q = np.asarray(a, float), np.asarray(b, float)
    bends = q > 0
    safe = np.where(bends, q, 1)
    with np.errstate(over="ignore"):
        top = np.maximum(p / (2 * safe), 0) if law == "best_of_n" else np.exp(p / safe - 1)
    return np.where(np.isnan(p) | np.isnan(q), np.nan, np.where(bends, top, np.inf))
