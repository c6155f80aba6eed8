"""The sensitivity study's numbers, figure and sentences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from textgym.benchmarks.studies.nested import (
    RESAMPLES,
    half_width,
    interval_of,
    resampled_means,
    signed,
    stacked,
)
from textgym.benchmarks.studies.sensitivity_settings import (
    AGENTS,
    COMMON_LENGTH,
    FRAMES,
    LIMIT,
    SELECTS,
    TASKS,
    TEMPERATURE,
    WORDING,
)
from textgym.metrics.sets import FloatArray
from textgym.metrics.stats import Interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

GOLD, DIVERSITY = "gold", "diversity"
ENOUGH = 0.9
"""Of the gold under the task's own limit: the shortest limit that keeps this much is told."""
ORDER = list(reversed(AGENTS))
"""Those that do least first."""
UNTUNED, USUAL = "sft", "1.0"
"""The agent that nothing was done to, and the temperature that agents are trained at."""
Key = tuple[str, str, str]
"""Agent, setting and value."""


@dataclass(frozen=True)
class Means:
    """One task's means over prompts: `here` by number and key, and of each resample [R]."""

    here: dict[str, dict[Key, float]]
    drawn: dict[str, dict[Key, FloatArray]]

    def values(self, setting: str) -> list[str]:
        """Returns what a setting was, in the order it was asked."""
        return list(dict.fromkeys(v for _, s, v in self.here[GOLD] if s == setting))

    def change(self, number: str, agent: str, setting: str, to: str, start: str) -> Interval:
        """Returns how a number changes from one value of a setting to another."""
        after, before = (agent, setting, to), (agent, setting, start)
        here, drawn = self.here[number], self.drawn[number]
        return interval_of(here[after] - here[before], drawn[after] - drawn[before])


def task_means(rows: pd.DataFrame, resamples: int = RESAMPLES) -> Means:
    """Returns the means of one task's rows; a resample takes the same prompts everywhere."""
    seeds = sorted(rows["seed"].unique())
    groups = dict(list(rows.groupby(["agent", "setting", "value"], sort=False)))
    stacks = [stacked(group, n, seeds) for n in (GOLD, DIVERSITY) for group in groups.values()]
    here, drawn = resampled_means(np.stack(stacks), np.random.default_rng(0), resamples)
    return Means(_by_key(groups, here), _by_key(groups, drawn))


def _by_key(groups: Iterable[Any], values: FloatArray) -> dict[str, dict[Key, Any]]:
    """Returns the values, first of gold and then of diversity, by number and key."""
    keys, halves = list(groups), np.split(values, 2)
    pairs = zip((GOLD, DIVERSITY), halves, strict=True)
    return {name: dict(zip(keys, half, strict=True)) for name, half in pairs}


def summarised(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns a row per task, agent and setting; the tasks' `Means` go along as `attrs`."""
    import pandas as pd

    rows = rows.assign(value=rows["value"].astype(str))
    tasks = {t: task_means(rows[rows["task"] == t]) for t in TASKS if t in set(rows["task"])}
    table = []
    for task, means in tasks.items():
        for key in sorted(means.here[GOLD], key=lambda key: ORDER.index(key[0])):
            row: dict[str, Any] = {"task": task}
            row |= dict(zip(("agent", "setting", "value"), key, strict=True))
            for number in (GOLD, DIVERSITY):
                row[number] = float(means.here[number][key])
                row[f"{number}_se"] = half_width(means.drawn[number][key])
            table.append(row)
    summary = pd.DataFrame(table)
    summary.attrs["means"] = tasks
    return summary


def draw(summary: pd.DataFrame, figure: Figure) -> None:
    """Draws a row of three panels per task: gold in full lines, diversity in dashed ones."""
    tasks = list(dict.fromkeys(summary["task"]))
    figure.set_size_inches(10, 3 * len(tasks) + 0.5)
    panels = figure.subplots(len(tasks), 3, squeeze=False)
    for row, task in zip(panels, tasks, strict=True):
        for panel, setting in zip(row, (LIMIT, TEMPERATURE, WORDING), strict=True):
            there = summary[(summary["task"] == task) & (summary["setting"] == setting)]
            _panel(panel, there, setting)
            panel.set_title(f"{task}: {setting}")
        row[0].set_ylabel("gold, diversity (EAD)")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), frameon=False,
        title=f"full or filled: gold; dashed or open: EAD of the first {COMMON_LENGTH} tokens",
    )  # fmt: skip


def _panel(panel: Any, rows: pd.DataFrame, setting: str) -> None:
    words = setting == WORDING
    for number, agent in enumerate(ORDER):
        own = rows[rows["agent"] == agent]
        at = np.arange(len(own)) + 0.15 * (number - 1) if words else own["value"].astype(float)
        for name, line in ((GOLD, "-"), (DIVERSITY, "--")):
            panel.errorbar(
                at, own[name], yerr=own[f"{name}_se"], color=f"C{number}", marker=".",
                capsize=2, linestyle="" if words else line, alpha=0.9,
                mfc="white" if name == DIVERSITY else f"C{number}",
                label=agent if name == GOLD else None,
            )  # fmt: skip
    if words:
        panel.set_xticks(range(len(FRAMES)), list(FRAMES), rotation=25, ha="right")
    else:
        panel.set_xlabel("tokens" if setting == LIMIT else "temperature")
    panel.set_ylim(bottom=0)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.3)


def findings(summary: pd.DataFrame) -> list[str]:
    """Returns four sentences per task, on length, temperature (two) and wording."""
    found: list[str] = []
    for task, means in summary.attrs["means"].items():
        agents = [a for a in ORDER if any(key[0] == a for key in means.here[GOLD])]
        found += [
            f"{task}, length: {'; '.join(_of_length(means, a) for a in agents)}.",
            f"{task}, temperature: {'; '.join(_of_temperature(means, a) for a in agents)}.",
            f"{task}, colder or tuned: {'; '.join(_colder(means, a) for a in agents[1:])}.",
            f"{task}, wording: {'; '.join(_of_wording(means, a) for a in agents)}.",
        ]
    found.append(
        f"Diversity is EAD of the first {COMMON_LENGTH} tokens under every setting. A limit "
        f"therefore moves it for {SELECTS} alone, which selects by what is left: what the others "
        "write first does not depend on where they are cut."
    )
    return found


def _of_length(means: Means, agent: str) -> str:
    limits = means.values(LIMIT)
    gold = {limit: means.here[GOLD][agent, LIMIT, limit] for limit in limits}
    enough = next(limit for limit in limits if gold[limit] >= ENOUGH * gold[limits[-1]])
    lost = means.change(GOLD, agent, LIMIT, limits[0], limits[-1])
    diverse = means.change(DIVERSITY, agent, LIMIT, limits[0], limits[-1])
    moved = f", its diversity by {signed(diverse)}" if agent == SELECTS else ""
    return (
        f"{agent}'s gold is {gold[limits[-1]]:.2f} under {limits[-1]} tokens and changes by "
        f"{signed(lost)} under {limits[0]}{moved}; {enough} tokens keep {ENOUGH:.0%} of it"
    )


def _of_temperature(means: Means, agent: str) -> str:
    values = means.values(TEMPERATURE)
    cold, hot = values[0], values[-1]
    gold = means.change(GOLD, agent, TEMPERATURE, cold, hot)
    diverse = means.change(DIVERSITY, agent, TEMPERATURE, cold, hot)
    best = max(values, key=lambda value: means.here[GOLD][agent, TEMPERATURE, value])
    return (
        f"from {hot} down to {cold} {agent}'s gold changes by {signed(gold)} and its diversity by "
        f"{signed(diverse)}; gold is highest at {best}"
    )


def _colder(means: Means, agent: str) -> str:
    """Tells gold at equal diversity: the agent at its own temperature, the untuned one colder."""
    own = (agent, TEMPERATURE, USUAL)
    diverse = means.here[DIVERSITY]
    nearest = min(
        ((UNTUNED, TEMPERATURE, value) for value in means.values(TEMPERATURE)),
        key=lambda key: abs(diverse[key] - diverse[own]),
    )
    more = interval_of(
        means.here[GOLD][own] - means.here[GOLD][nearest],
        means.drawn[GOLD][own] - means.drawn[GOLD][nearest],
    )
    return (
        f"{agent} at {USUAL} has diversity {diverse[own]:.2f}, {UNTUNED} comes nearest to it at "
        f"{nearest[2]} with {diverse[nearest]:.2f}, and {agent}'s gold is {signed(more)} above its"
    )


def _of_wording(means: Means, agent: str) -> str:
    usual, *others = means.values(WORDING)
    worst = min(others, key=lambda frame: means.here[GOLD][agent, WORDING, frame])
    mean_change = average_change(means, agent, others, usual)
    return (
        f"{agent}'s gold changes by {signed(mean_change)} on average over {len(others)} other "
        f"wordings, most under '{worst}' "
        f"({signed(means.change(GOLD, agent, WORDING, worst, usual))}), where its diversity "
        f"changes by {signed(means.change(DIVERSITY, agent, WORDING, worst, usual))}"
    )


def average_change(means: Means, agent: str, others: list[str], usual: str) -> Interval:
    """Returns the mean change of gold from the usual wording to the others."""
    here, drawn = means.here[GOLD], means.drawn[GOLD]
    start = (agent, WORDING, usual)
    changes = [here[agent, WORDING, frame] - here[start] for frame in others]
    resampled = [drawn[agent, WORDING, frame] - drawn[start] for frame in others]
    return interval_of(float(np.mean(changes)), np.mean(resampled, axis=0))
