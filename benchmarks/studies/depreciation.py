"""Depreciation: how stale does a reward model get as the policy moves away from its samples?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textgym.benchmarks.studies import world
from textgym.benchmarks.studies.pictures import lines
from textgym.benchmarks.studies.study import Point, Row, Study
from textgym.feedback.annotators.choice import AnnotatorConfig
from textgym.feedback.annotators.simulated import SimulatedAnnotator
from textgym.seeding import Streams

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

ROUNDS = 4
LABELS = 400
"""Comparisons per round; who asks once has all of them at the start."""
STEP = 512
"""Completions that the policy is trained on between two looks."""
ONCE, FRESH = "once", "fresh"


class Depreciation(Study):
    """The same number of labels, all before training or in portions on the policy's own samples."""

    question: ClassVar[str] = (
        "How well does a reward model order the samples of a policy that trains away from it, and "
        "what do fresh labels mend?"
    )
    by: ClassVar[tuple[str, ...]] = ("labels", "completions")

    def points(self, seed: int) -> list[Point]:
        """One point per way to spend the labels."""
        return [{"labels": way, "seed": seed} for way in (FRESH, ONCE)]

    def run(self, point: Point, cache: Path) -> list[Row]:
        """Looks, trains, and asks again where labels are fresh."""
        way, seed = point["labels"], point["seed"]
        start = policy = world.reference(cache)
        random = Streams(seed).numpy("annotators")
        annotator = SimulatedAnnotator(world.gold, random, AnnotatorConfig(flips=0.05))
        portion = LABELS if way == FRESH else LABELS * ROUNDS
        answers = annotator.label(world.own_questions(start, 1000 * seed, portion))
        reward, rows = world.learned(answers, seed, start), []
        for turn in range(ROUNDS + 1):
            seen = world.judged(policy, start, seed)
            scores = reward(seen.rollout.prompts, seen.rollout.completions)
            rows.append(
                {
                    "labels": way,
                    "completions": turn * STEP,
                    "accuracy": world.gold_accuracy(reward, seen.rollout),
                    "reward": sum(scores) / len(scores),
                    "gold": seen.gold,
                    "KL": seen.kl,
                    "labels given": float(len(answers)),
                }
            )
            if turn == ROUNDS:
                break
            if way == FRESH and turn > 0:
                asked = world.own_questions(policy, 1000 * seed + turn, LABELS)
                answers += annotator.label(asked)
                reward = world.learned(answers, seed, start)  # from all so far
            policy = world.trained(start, reward, 100 * seed + turn, STEP, policy)
        return rows

    def draw(self, summary: pd.DataFrame, figure: Figure) -> None:
        """Accuracy and gold as training goes on."""
        left, right = figure.subplots(1, 2)
        for way, rows in summary.groupby("labels", sort=False):
            lines(left, rows, "completions", "accuracy", label=f"labels {way}")
            lines(right, rows, "completions", "gold", label=f"labels {way}")
        left.axhline(0.5, color="grey", linewidth=1, linestyle=":")
        left.set(xlabel="completions trained on", ylabel="own samples ordered as gold does")
        right.set(xlabel="completions trained on", ylabel="gold of the policy")
        left.legend(frameon=False)

    def findings(self, summary: pd.DataFrame) -> list[str]:
        """What is lost on the way, and what fresh labels give back."""
        found = []
        for way, rows in summary.groupby("labels", sort=False):
            first, last = rows.iloc[0], rows.iloc[-1]
            found.append(
                f"Labels {way}: accuracy on the policy's own samples goes from "
                f"{first['accuracy']:.0%} to {last['accuracy']:.0%} over {last['KL']:.1f} nats, "
                f"gold from {first['gold']:.3f} to {last['gold']:.3f}, the reward it is trained on "
                f"from {first['reward']:+.2f} to {last['reward']:+.2f}."
            )
        return found
