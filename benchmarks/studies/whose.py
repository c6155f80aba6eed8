"""Whose preferences: what do groups of opposed tastes get under different ways to add them up?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from textgym.benchmarks.studies import world
from textgym.benchmarks.studies.study import Point, Row, Study
from textgym.feedback.annotators.choice import AnnotatorConfig
from textgym.feedback.annotators.population import Group, population
from textgym.feedback.annotators.tastes import PreferredVoice, Taste
from textgym.feedback.learning.aggregate import AggregateReward
from textgym.feedback.learning.groups import GroupRewards
from textgym.feedback.learning.personal_training import train_personal
from textgym.seeding import Streams

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from textgym.feedback.records import Feedback
    from textgym.models.policy import Policy
    from textgym.types import RewardFunction

COMPARISONS = 1500
VOICE = "rambling"
"""What the authors want to read, whatever it says; the searchers want facts in few words."""
SEARCHERS, AUTHORS = "searchers", "authors"
MEMBERS = {SEARCHERS: 4, AUTHORS: 2}
POOLED, PERSONAL = "pooled model", "personal"
RULES = ("mean", "majority", "maximin")
SAMPLES = 4
"""Of a prompt in each step of training: a majority is over completions of one prompt."""
WAYS = (PERSONAL, *RULES, POOLED)


class WhosePreferences(Study):
    """Searchers and authors, two to one, who answer the same comparisons by opposed tastes."""

    question: ClassVar[str] = (
        "When two groups want opposite things, how satisfied is each with a policy trained on the "
        "mean, the majority, the worst-off or on each one's own reward?"
    )
    by: ClassVar[tuple[str, ...]] = ("trained on",)

    def points(self, seed: int) -> list[Point]:
        """One point per way; the personal one trains two policies."""
        return [{"way": way, "seed": seed} for way in WAYS]

    def run(self, point: Point, cache: Path) -> list[Row]:
        """Collects both groups' answers, learns, trains and asks how each group likes it."""
        way, seed = point["way"], point["seed"]
        start = world.reference(cache)
        tastes = {
            SEARCHERS: Taste(SEARCHERS, world.gold),
            AUTHORS: Taste(AUTHORS, PreferredVoice(world.task(0), VOICE)),
        }
        members = [Group(tastes[n], (AnnotatorConfig(),) * count) for n, count in MEMBERS.items()]
        asked = world.questions(world.pretrained(), seed, COMPARISONS)
        answers = population(members, seed).label(asked)
        rewards = _rewards(way, answers, seed, start)
        row: Row = {"trained on": way}
        satisfied = []
        for name, taste in tastes.items():
            reward = rewards.get(name, rewards.get(""))
            assert reward is not None, "everyone's, or each group's own"
            trained = world.trained(start, reward, seed, samples=SAMPLES)
            seen = world.judged(trained, start, seed)
            liked = taste.reward(seen.rollout.prompts, seen.rollout.completions, **_facts(seen))
            satisfied.append(float(np.mean(liked)))
            row[f"{name}' satisfaction"] = satisfied[-1]
            row[f"KL ({name})"] = seen.kl
        return [row | {"worst off": min(satisfied), "mean": float(np.mean(satisfied))}]

    def summary(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Returns the summary in the order of `WAYS`."""
        return (
            super()
            .summary(rows)
            .sort_values("trained on", key=lambda ways: ways.map(WAYS.index), ignore_index=True)
        )

    def draw(self, summary: pd.DataFrame, figure: Figure) -> None:
        """Each group's satisfaction, side by side."""
        axes: Any = figure.subplots()
        places = np.arange(len(summary))
        for shift, name in ((-0.2, SEARCHERS), (0.2, AUTHORS)):
            column = f"{name}' satisfaction"
            error = 2 * summary[f"{column}_se"]
            axes.bar(places + shift, summary[column], 0.38, yerr=error, capsize=3, label=name)
        axes.set_xticks(places, summary["trained on"])
        axes.set(ylabel="satisfaction, 0 to 1")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)

    def findings(self, summary: pd.DataFrame) -> list[str]:
        """Who gains and who pays."""
        rows = {str(row["trained on"]): row for row in summary.to_dict("records")}
        columns = [f"{name}' satisfaction" for name in MEMBERS]
        found = [f"{way}: " + ", ".join(f"{c} {rows[way][c]:.2f}" for c in columns) for way in WAYS]
        worst = {way: float(row["worst off"]) for way, row in rows.items()}
        best = max((way for way in WAYS if way != PERSONAL), key=worst.__getitem__)
        return [
            *found,
            f"Of the policies that all share, the worst-off group is best served by {best!r} "
            f"({worst[best]:.2f}); with one each it gets {worst[PERSONAL]:.2f}.",
        ]


def _rewards(
    way: str, answers: Sequence[Feedback], seed: int, start: Policy
) -> dict[str, RewardFunction]:
    """Returns what policies are trained on: each group's own reward, or "" for everyone's."""
    if way == POOLED:
        return {"": world.learned(answers, seed, start)}
    if way == PERSONAL:
        generator = Streams(seed).torch("initialisation")
        model, _ = train_personal(world.pretrained(), answers, world.CONFIG, generator)
        world.normalise(model, start)
        return {name: model.for_annotator(f"{name}-0") for name in MEMBERS}
    groups = GroupRewards(
        {
            name: world.learned([f for f in answers if f.group == name], seed, start)
            for name in MEMBERS
        }
    )
    weights = {name: float(count) for name, count in MEMBERS.items()}
    return {"": AggregateReward(groups.rewards, way, weights)}


def _facts(seen: world.Judged) -> dict[str, list[Any]]:
    return dict(seen.rollout.columns)
