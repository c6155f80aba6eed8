"""Curves of proxy and gold against sqrt(KL), with resamples, and the two laws fitted to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from textgym.benchmarks.studies.proxies import Recipe
from textgym.benchmarks.studies.pursuit import BEST_OF_N, TRAITS, Pursuit
from textgym.metrics.overoptimization import Fit, Law, fit
from textgym.metrics.sets import FloatArray
from textgym.metrics.stats import Interval, resampled_sums

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 1000
TENTHS, HUNDREDTHS = 10, 100
Score = Literal["proxy", "gold"]
SCORES: tuple[Score, ...] = ("proxy", "gold")
RECIPE = ("layers", "labels", "flips", "planted")


def packed(values: FloatArray, unit: int) -> str:
    """Returns a curve [C, N] as text, in whole parts: points by `;`, remarks by spaces.

    A folder of results holds every curve of every remark twice, so each digit counts; means over
    remarks are far less rough than the parts.

    Args:
        values: the curve.
        unit: parts of 1.

    >>> packed(np.array([[0.0, 0.126], [1.0, -0.5]]), 100)
    '0 13;100 -50'
    """
    whole = np.rint(values * unit).astype(int)
    return ";".join(" ".join(map(str, point)) for point in whole)


def unpacked(text: str, unit: int) -> FloatArray:
    """Returns the curve [C, N] that `packed` wrote.

    >>> unpacked("0 13;100 -50", 100).tolist()
    [[0.0, 0.13], [1.0, -0.5]]
    """
    return np.array([point.split() for point in text.split(";")], float) / unit


def packed_pursuit(seen: Pursuit) -> dict[str, str]:
    """Returns a pursuit's curves as texts by name; without the reference, where all three are 0."""
    curves = {"kl": seen.kl, "proxy": seen.proxy, "gold": seen.gold}
    traits = {name: packed(values, HUNDREDTHS) for name, values in seen.traits.items()}
    return {name: packed(values[1:], TENTHS) for name, values in curves.items()} | traits


@dataclass(frozen=True, eq=False)
class Path:
    """One method's way along one proxy: the mean over seeds and remarks, and its resamples.

    Attributes:
        method: what pursued the proxy.
        recipe: how the proxy was learned.
        d: [1 + R, C], square roots of the KL; the estimate first, then R resamples.
        scores: [1 + R, C] by name, in standard deviations of the reference, which is at 0.
        traits: [C] by name, of the replies: mean length in characters, share with the keyword.
    """

    method: str
    recipe: Recipe
    d: FloatArray
    scores: dict[Score, FloatArray]
    traits: dict[str, FloatArray]

    @property
    def law(self) -> Law:
        """The law that is expected of the method."""
        return "best_of_n" if self.method == BEST_OF_N else "rl"

    def fit(self, score: Score, law: Law | None = None) -> Fit:
        """Returns the fits [1 + R] of a law, the method's own by default."""
        return fit(self.d, self.scores[score], law or self.law)


@dataclass(frozen=True, eq=False)
class Found:
    """What a study's rows hold.

    Attributes:
        paths: in the order of methods and recipes.
        reference: mean gold of the reference's replies, in [0, 1].
        deviation: their standard deviation, the unit of every path's gold.
    """

    paths: tuple[Path, ...]
    reference: float
    deviation: float

    def of(self, method: str, **like: object) -> list[Path]:
        """Returns a method's paths whose recipes are like that, such as `flips=0.3`."""
        return [
            path
            for path in self.paths
            if path.method == method
            and all(getattr(path.recipe, name) == value for name, value in like.items())
        ]

    @property
    def most(self) -> float:
        """The gold of a perfect reply, in the paths' unit."""
        return (1 - self.reference) / self.deviation


def read(rows: pd.DataFrame) -> Found:
    """Returns the paths of a study's rows, with resamples of remarks nested in seeds.

    All paths of the same seeds are resampled alike, so that what makes a remark easy cancels where
    paths are compared.
    """
    paths = []
    for _, group in rows.groupby(["method", *RECIPE], sort=True):
        seeds = group.sort_values("seed")
        one = seeds.iloc[0]
        recipe = Recipe(int(one.layers), int(one.labels), float(one.flips), str(one.planted))
        kl, proxy, gold = (_means([unpacked(t, TENTHS) for t in seeds[n]]) for n in ("kl", *SCORES))
        distance = np.sqrt(np.maximum(kl, 0))
        traits = {
            n: np.mean([unpacked(t, HUNDREDTHS)[:, 0] for t in seeds[n]], axis=0) for n in TRAITS
        }
        paths.append(
            Path(str(one.method), recipe, distance, {"proxy": proxy, "gold": gold}, traits)
        )
    by_seed = rows.groupby("seed")[["reference", "deviation"]].first().mean()
    return Found(tuple(paths), float(by_seed["reference"]), float(by_seed["deviation"]))


def _means(curves: Sequence[FloatArray]) -> FloatArray:
    """Returns [1 + R, 1 + C]: the mean over seeds' curves [C, N], then each resample's, from 0."""
    columns = np.stack(curves, axis=1)
    again = resampled_sums(columns, np.random.default_rng(0), RESAMPLES).T / columns[0].size
    means = np.concatenate([columns.mean(axis=(1, 2))[None], again])
    return np.pad(means, ((0, 0), (1, 0)))


def told(values: FloatArray) -> Interval:
    """Returns an estimate and its 95 % interval from [1 + R]; NaNs are left out, inf is not."""
    known = values[1:][~np.isnan(values[1:])]
    if not len(known):
        return Interval(float(values[0]), np.nan, np.nan)
    low, high = np.quantile(known, [0.025, 0.975], method="nearest")
    return Interval(float(values[0]), float(low), float(high))


def mean_path(paths: Sequence[Path], score: Score) -> tuple[FloatArray, FloatArray]:
    """Returns distance and score [1 + R, C] of paths of equally many points, averaged by point."""
    return (
        np.mean([path.d for path in paths], axis=0),
        np.mean([path.scores[score] for path in paths], axis=0),
    )
