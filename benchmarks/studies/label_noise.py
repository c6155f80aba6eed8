"""Label noise: what do wrong answers cost the reward model, and the policy trained on it?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textgym.benchmarks.studies import world
from textgym.benchmarks.studies.pictures import lines
from textgym.benchmarks.studies.study import Point, Row, Study

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COMPARISONS = 1500
FLIPS = (0.0, 0.1, 0.2, 0.3, 0.4)


class LabelNoise(Study):
    """The same comparisons by annotators who reverse a growing share of their answers."""

    question: ClassVar[str] = (
        "How much do a reward model and the policy trained on it lose when a share of the "
        "comparisons is reversed at random?"
    )
    by: ClassVar[tuple[str, ...]] = ("flips",)

    def points(self, seed: int) -> list[Point]:
        """One point per share of reversed answers."""
        return [{"flips": flips, "seed": seed} for flips in FLIPS]

    def run(self, point: Point, cache: Path) -> list[Row]:
        """Collects, learns, trains and judges."""
        found = world.learned_from_people(COMPARISONS, point["flips"], point["seed"], cache)
        return [{"flips": point["flips"], **found}]

    def draw(self, summary: pd.DataFrame, figure: Figure) -> None:
        """Accuracy and gold against the share of reversed answers."""
        left, right = figure.subplots(1, 2)
        lines(left, summary, "flips", "accuracy", label="reward model")
        left.axhline(0.5, color="grey", linewidth=1, linestyle=":")
        left.set(xlabel="answers reversed", ylabel="pairs ordered as gold does")
        lines(right, summary, "flips", "gold", label="trained")
        lines(right, summary, "flips", "gold before", label="before")
        right.set(xlabel="answers reversed", ylabel="gold of the policy")
        right.legend(frameon=False)

    def findings(self, summary: pd.DataFrame) -> list[str]:
        """What noise costs."""
        clean, noisy = summary.iloc[0], summary.iloc[-1]
        gained = [row["gold"] - row["gold before"] for _, row in summary.iterrows()]
        kept = summary["flips"][[gain >= 0.5 * gained[0] for gain in gained]].max()
        return [
            f"With no answer reversed the reward model orders {clean['accuracy']:.0%} of unseen "
            f"pairs as gold does, with {noisy['flips']:.0%} reversed {noisy['accuracy']:.0%}.",
            f"Training gains {gained[0]:+.3f} gold on the clean reward and {gained[-1]:+.3f} on "
            f"the noisiest; at least half of the gain is kept up to {kept:.0%} reversed.",
        ]
