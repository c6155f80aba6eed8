"""Over-optimisation: how far can a proxy be pursued before gold comes down?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path as File
from typing import TYPE_CHECKING, ClassVar

import pandas as pd

from textgym.benchmarks.studies import (
    overoptimization_drawn,
    overoptimization_told,
    proxies,
    pursuit,
)
from textgym.benchmarks.studies.laws import Found, packed_pursuit, read
from textgym.benchmarks.studies.proxies import FLIPS, GRID, LAYERS, PLANTED, Recipe
from textgym.benchmarks.studies.study import Point, Row, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOUND = "found"
"""Where a summary keeps the curves that it was made from, among its `attrs`."""


def methods(recipe: Recipe) -> tuple[str, ...]:
    """Returns what is trained on a recipe's proxy, beside best-of-n, which is read off its pool."""
    largest, usual = recipe.layers == max(LAYERS), recipe.flips == FLIPS[1]
    if largest and usual:  # every amount of labels, and the planted biases
        return tuple(pursuit.METHODS)
    other_size_or_noise = recipe.labels == 256 and (largest or usual)
    return ("rloo",) if other_size_or_noise else ()


class Overoptimization(Study):
    """Best-of-n and policy gradients on proxies of many kinds, judged by gold."""

    question: ClassVar[str] = (
        "How far can a proxy of some size, number of labels and noise be pursued before gold comes "
        "down, and which law does gold follow over sqrt(KL)?"
    )
    by: ClassVar[tuple[str, ...]] = ("method", "layers", "labels", "flips", "planted", "of")
    seeds: ClassVar[int] = 2
    spread: ClassVar[str] = "bootstrap standard error"

    def points(self, seed: int) -> list[Point]:
        """One point per proxy; those that policies are trained on first."""
        recipes = sorted((*GRID, *PLANTED), key=lambda r: (-len(methods(r)), -r.layers, -r.labels))
        return [{**asdict(recipe), "seed": seed} for recipe in recipes]

    def run(self, point: Point, cache: File) -> list[Row]:
        """Learns a proxy, reads best-of-n off the pool and trains policies on it."""
        seed = point["seed"]
        recipe = Recipe(**{name: point[name] for name in asdict(GRID[0])})
        task, start = proxies.task(seed), proxies.reference(cache)
        asked = proxies.questions(proxies.replies(cache, seed, "train", 2))
        proxy = proxies.learned(recipe, asked, task.gold, seed)
        pool = pursuit.normalised(proxy, task, proxies.replies(cache, seed, "test", proxies.POOL))
        ways = {pursuit.BEST_OF_N: pursuit.best_of_n(pool)}
        for method in methods(recipe):
            ways[method] = pursuit.trained(method, proxy, pool, start, seed)
        gold = pool.scores["gold"]
        told = {
            "reference": round(float(gold.mean()), 4),
            "deviation": round(float(gold.std()), 4),
        }
        return [
            {"method": method, **asdict(recipe), **told, **packed_pursuit(seen)}
            for method, seen in ways.items()
        ]

    def summary(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Returns where each path ends and its method's law, with what it was read from beside."""
        found = read(rows)
        summary = pd.DataFrame(overoptimization_told.table(found))
        summary.attrs[FOUND] = found
        return summary

    def draw(self, summary: pd.DataFrame, figure: Figure) -> None:
        """Proxy and gold against sqrt(KL)."""
        overoptimization_drawn.draw(_found(summary), figure)

    def findings(self, summary: pd.DataFrame) -> list[str]:
        """What labels, noise and size buy, where gold turns, which law holds, what biases do."""
        return overoptimization_told.findings(_found(summary))


def _found(summary: pd.DataFrame) -> Found:
    found: Found = summary.attrs[FOUND]
    return found
