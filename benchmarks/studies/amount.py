"""Amount of data: how many comparisons does a policy's gold reward take?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textgym.benchmarks.studies import world
from textgym.benchmarks.studies.pictures import lines
from textgym.benchmarks.studies.study import Point, Row, Study

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

AMOUNTS = (64, 256, 1024, 4096)
FLIPS = 0.05


class AmountOfData(Study):
    """The same annotator, asked more and more."""

    question: ClassVar[str] = (
        "How do a reward model's accuracy and the trained policy's gold reward grow with the "
        "number of comparisons?"
    )
    by: ClassVar[tuple[str, ...]] = ("comparisons",)

    def points(self, seed: int) -> list[Point]:
        """One point per amount, the largest first."""
        return [{"comparisons": amount, "seed": seed} for amount in reversed(AMOUNTS)]

    def run(self, point: Point, cache: Path) -> list[Row]:
        """Collects, learns, trains and judges."""
        found = world.learned_from_people(point["comparisons"], FLIPS, point["seed"], cache)
        return [{"comparisons": point["comparisons"], **found}]

    def draw(self, summary: pd.DataFrame, figure: Figure) -> None:
        """Accuracy and gold against the number of comparisons."""
        left, right = figure.subplots(1, 2)
        lines(left, summary, "comparisons", "accuracy", label="reward model")
        left.axhline(0.5, color="grey", linewidth=1, linestyle=":")
        left.set(xlabel="comparisons", ylabel="pairs ordered as gold does", xscale="log")
        lines(right, summary, "comparisons", "gold", label="trained")
        lines(right, summary, "comparisons", "gold before", label="before")
        right.set(xlabel="comparisons", ylabel="gold of the policy", xscale="log")
        right.legend(frameon=False)

    def findings(self, summary: pd.DataFrame) -> list[str]:
        """What each step up gives."""
        ordered = summary.sort_values("comparisons")
        steps = [
            f"{row['comparisons']:,.0f}: {row['accuracy']:.0%} of pairs ordered as gold does, "
            f"gold {row['gold']:.3f}"
            for _, row in ordered.iterrows()
        ]
        return [f"Before training gold is {ordered['gold before'].iloc[0]:.3f}.", *steps]

    def summary(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Returns the summary from few to many."""
        return super().summary(rows).sort_values("comparisons", ignore_index=True)
