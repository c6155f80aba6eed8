"""The generalisation study's figure and its sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from textgym.benchmarks.studies.generalisation_numbers import (
    GAP,
    GOLD,
    GOLD_OOD,
    LOST,
    LOST_OOD,
    Estimates,
    difference,
    link,
)
from textgym.benchmarks.studies.nested import signed
from textgym.metrics.stats import Interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

START = "sft"
"""Whom tuning is held against."""


def draw(summary: pd.DataFrame, figure: Figure) -> None:
    """Draws gold against diversity lost, a panel per task: filled on test, open out of it."""
    tasks = list(dict.fromkeys(summary["task"]))
    columns = min(3, len(tasks))
    deep = math.ceil(len(tasks) / columns)
    figure.set_size_inches(4 * columns + 0.5, 3.4 * deep + 0.5)
    panels = figure.subplots(deep, columns, squeeze=False).flat
    for panel in panels[len(tasks) :]:
        panel.set_visible(False)
    for panel, task in zip(panels, tasks, strict=False):
        for number, row in enumerate(summary[summary["task"] == task].to_dict("records")):
            colour = f"C{number}"
            shared = {"color": colour, "marker": "o", "capsize": 2, "linestyle": ""}
            for gold, lost, face in ((GOLD, LOST, colour), (GOLD_OOD, LOST_OOD, "white")):
                panel.errorbar(
                    row[lost],
                    row[gold],
                    yerr=row[f"{gold}_se"],
                    xerr=row[f"{lost}_se"],
                    mfc=face,
                    label=row["agent"] if gold == GOLD else None,
                    elinewidth=0.8,
                    **shared,
                )
            panel.plot(
                [row[LOST], row[LOST_OOD]], [row[GOLD], row[GOLD_OOD]], color=colour, alpha=0.4
            )
        panel.set(title=task, xlabel="diversity lost (EAD)", ylabel="gold")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), frameon=False,
        title="filled: test split, open: out of distribution",
    )  # fmt: skip


def findings(tasks: dict[str, Estimates]) -> list[str]:
    """Returns a sentence or two per task, and what holds across them."""
    found = [_of_task(name, task) for name, task in tasks.items()]
    together, agents = list(tasks.values()), len(next(iter(tasks.values())).agents)
    with_gold, with_gap = link(together, LOST, GOLD_OOD), link(together, LOST, GAP)
    with_test = link(together, LOST, GOLD)
    found.append(
        f"Across the {agents} agents, mean over {len(together)} tasks, the rank correlation of the "
        f"diversity lost on the test split with gold out of distribution is {signed(with_gold)}, "
        f"with gold on the test split {signed(with_test)}, and with the gap between the two "
        f"{signed(with_gap)}. {_verdict(with_gold, with_gap)}"
    )
    found.append(
        "The intervals resample seeds and prompts, not agents or tasks; their noise pulls rank "
        "correlations toward 0, so that an estimate may lie beyond its interval. An agent that "
        "gains most has most to lose: a gap says where gold went, not that diversity caused it."
    )
    return found


def _of_task(name: str, task: Estimates) -> str:
    sft = task.agents.index(START)
    best = task.agents[int(np.argmax(task.here[GOLD_OOD]))]
    most = task.agents.index(best)
    gains = [
        f"{agent} {signed(difference(task, GOLD_OOD, agent, START))}"
        for agent in task.agents
        if agent != START
    ]
    return (
        f"{name}: {START}'s gold goes from {task.here[GOLD][sft]:.2f} on the test split to "
        f"{task.here[GOLD_OOD][sft]:.2f} out of distribution. Gold out of distribution against "
        f"{START}'s: {', '.join(gains)}. Highest there is {best}, which loses "
        f"{task.here[LOST][most]:.0%} of diversity on the test split and "
        f"{task.here[LOST_OOD][most]:.0%} out of it. Rank correlation of diversity lost with gold "
        f"out of distribution {signed(link([task], LOST, GOLD_OOD))}, with the gap "
        f"{signed(link([task], LOST, GAP))}."
    )


def _verdict(with_gold: Interval, with_gap: Interval) -> str:
    """Returns the answer that the intervals allow."""
    if with_gold.low > 0:
        first = "Agents that lost more diversity scored higher there, as Kirk et al. saw"
    elif with_gold.high < 0:
        first = "Agents that lost more diversity scored lower there; Kirk et al. saw higher"
    else:
        first = "Whether losing more diversity goes with more gold there stays open"
    if with_gap.low > 0:
        second = "they also fell further from their own test split"
    elif with_gap.high < 0:
        second = "they fell less from their own test split"
    else:
        second = "whether it goes with a deeper fall from the test split stays open"
    return f"{first}; {second}."
