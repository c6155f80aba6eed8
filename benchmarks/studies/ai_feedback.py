"""Human against AI feedback: what do labels of either kind buy?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textgym.benchmarks.studies import world
from textgym.benchmarks.studies.pictures import lines
from textgym.benchmarks.studies.study import Point, Row, Study
from textgym.feedback.annotators.agreement import agreement
from textgym.feedback.annotators.choice import AnnotatorConfig
from textgym.feedback.annotators.likelihood import LikelihoodJudge
from textgym.feedback.annotators.simulated import SimulatedAnnotator
from textgym.seeding import Streams

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

AMOUNTS = (256, 1024)
PEOPLE, JUDGE = "people", "judge"
FLIPS = 0.25
"""AlpacaFarm's (arXiv 2305.14387)."""


class AIFeedback(Study):
    """The same comparisons answered by noisy people and by a language model.

    The packaged model follows no instructions, so the judge is one by likelihood: it prefers what
    the fine-tuned model would rather write.
    """

    question: ClassVar[str] = (
        "For the same labels, and for the same money, does a policy end better on the answers of "
        "noisy people or of a language model?"
    )
    by: ClassVar[tuple[str, ...]] = ("by", "comparisons")
    defaults: ClassVar[dict[str, float]] = {"people_cost": 1.0, "judge_cost": 0.02}

    def points(self, seed: int) -> list[Point]:
        """One point per annotator and amount, the largest first."""
        return [
            {"by": by, "comparisons": amount, "seed": seed}
            for amount in reversed(AMOUNTS)
            for by in (PEOPLE, JUDGE)
        ]

    def run(self, point: Point, cache: Path) -> list[Row]:
        """Collects from either, learns, trains and judges; both answer, so that they compare."""
        by, seed = point["by"], point["seed"]
        start = world.reference(cache)
        asked = world.questions(world.pretrained(), seed, point["comparisons"])
        config = AnnotatorConfig(flips=FLIPS)
        people = SimulatedAnnotator(world.gold, Streams(seed).numpy("annotators"), config)
        answers = {PEOPLE: people.label(asked), JUDGE: LikelihoodJudge(start).label(asked)}
        exact = SimulatedAnnotator(
            world.gold,
            Streams(seed).numpy("exact"),
            AnnotatorConfig(rationality=float("inf"), tie_threshold=1e-9),
        ).label(asked)
        decided = [f for f in exact if not f.is_tie]
        reward = world.learned(answers[by], seed, start)
        before = world.judged(start, start, seed)
        after = world.judged(world.trained(start, reward, seed), start, seed)
        return [
            {
                "by": by,
                "comparisons": point["comparisons"],
                "right labels": agreement(answers[by], decided)["agreement"],
                "agreement": agreement(answers[PEOPLE], answers[JUDGE])["agreement"],
                "accuracy": world.gold_accuracy(reward, before.rollout),
                "gold before": before.gold,
                "gold": after.gold,
                "KL": after.kl,
                "commonest voice": after.voices,
            }
        ]

    def summary(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Returns the summary with each row's cost."""
        found = super().summary(rows).sort_values(list(self.by), ignore_index=True)
        price = found["by"].map(
            {PEOPLE: self.settings["people_cost"], JUDGE: self.settings["judge_cost"]}
        )
        return found.assign(cost=price * found["comparisons"], cost_se=0.0)

    def draw(self, summary: pd.DataFrame, figure: Figure) -> None:
        """Gold against the number of labels and against their cost."""
        left, right = figure.subplots(1, 2, sharey=True)
        for by, rows in summary.groupby("by", sort=False):
            lines(left, rows, "comparisons", "gold", label=str(by))
            lines(right, rows, "cost", "gold", label=str(by))
        for axes in (left, right):
            before = summary["gold before"].mean()
            axes.axhline(before, color="grey", linewidth=1, linestyle=":", label="before")
            axes.set_xscale("log")
        left.set(xlabel="comparisons", ylabel="gold of the policy")
        right.set(xlabel="cost, in labels by a person")
        left.legend(frameon=False)

    def findings(self, summary: pd.DataFrame) -> list[str]:
        """What either gives, and where they part."""
        most = summary[summary["comparisons"] == summary["comparisons"].max()].set_index("by")
        people, judge = most.loc[PEOPLE], most.loc[JUDGE]
        return [
            f"Of pairs that gold decides, people answer {people['right labels']:.0%} rightly "
            f"({FLIPS:.0%} of their answers are reversed), the judge {judge['right labels']:.0%}; "
            f"they agree on {people['agreement']:.0%}.",
            f"From gold {people['gold before']:.3f}, {people['comparisons']:,.0f} labels by people "
            f"lead to {people['gold']:.3f} for a cost of {people['cost']:,.0f}, as many by the "
            f"judge to {judge['gold']:.3f} for {judge['cost']:,.0f}.",
        ]
