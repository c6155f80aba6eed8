"""The figure and the findings of the study of author and searcher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from textgym.benchmarks.studies.author_told import (
    ALL,
    GOOD,
    KL,
    QUESTIONS,
    SFT,
    SHARPER,
    STORIES,
    TOLD,
    USERS,
    Told,
    start_of,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from textgym.metrics.stats import Interval

CONTROLS = ("pretrained", SHARPER, SFT)
"""Ways that no reward has tuned."""


def draw(table: pd.DataFrame, figure: Figure) -> None:
    """Draws both users against each other, each against KL, and the author's ideas against KL."""
    figure.set_size_inches(10, 8)
    plane, *others = figure.subplots(2, 2).flat
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(table["algorithm"]))}
    _plane(table, plane, colours)
    titles = ("searcher", "author", GOOD)
    labels = (
        "gold of one completion",
        "gold of the best of ten",
        "good ideas in ten continuations",
    )
    for axes, column, label in zip(others, titles, labels, strict=True):
        _against_kl(table, axes, column, label, colours)
    figure.legend(*plane.get_legend_handles_labels(), loc="outside right", frameon=False)


def _plane(table: pd.DataFrame, axes: Any, colours: dict[str, str]) -> None:
    start = table[table["algorithm"] == SFT].iloc[0]
    for name, rows in table.groupby("algorithm", sort=False):
        colour = colours[str(name)]
        axes.scatter(rows["searcher"], rows["author"], color=colour, label=name, zorder=3)
        for _, row in rows.iterrows():
            axes.annotate(
                "",
                (row["searcher"], row["author"]),
                (start["searcher"], start["author"]),
                arrowprops={"arrowstyle": "->", "color": colour, "alpha": 0.6},
            )
    axes.set(xlabel="searcher: gold of one completion", ylabel="author: gold of the best of ten")
    axes.set_title("what became of SFT", fontsize="medium")
    _plain(axes)


def _against_kl(
    table: pd.DataFrame, axes: Any, column: str, label: str, colours: dict[str, str]
) -> None:
    start = table[table["algorithm"] == SFT].iloc[0]
    axes.axhline(start[column], color=colours[SFT], linestyle=":")
    for name, rows in table.groupby("algorithm", sort=False):
        ordered = rows.sort_values(KL)
        axes.errorbar(
            ordered[KL],
            ordered[column],
            yerr=ordered[f"{column}_se"],
            color=colours[str(name)],
            marker="o",
            capsize=2,
        )
    axes.set(xlabel="KL to SFT (nats per completion)", ylabel=label)
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)


def findings(table: pd.DataFrame) -> list[str]:
    """Returns what the ways' intervals say."""
    ways: list[Told] = table.attrs[TOLD]
    start = start_of(ways)
    tuned = [way for way in ways if way.algorithm not in CONTROLS]
    found = [_start(start)]
    found += [_for_whom(tuned, start, kind) for kind in (ALL, STORIES, QUESTIONS)]
    found.append(_lead(tuned, start))
    for name in dict.fromkeys(way.algorithm for way in tuned):
        own = [way for way in tuned if way.algorithm == name]
        found.append(_furthest(max(own, key=lambda way: way.mean("searcher").estimate), start))
    found += [_furthest(way, start) for way in ways if way.algorithm == SHARPER]
    return [*found, _ideas(tuned, start), *_novelty(tuned)]


def _start(start: Told) -> str:
    one, best, good = (start.mean(column) for column in (*USERS, GOOD))
    share = start.novel_share()
    return (
        f"SFT gives the searcher {_level(one)} and the author {_level(best)}; ten continuations of "
        f"a story hold {_level(good)} good ideas, and the corpus never tells {_level(share)} of "
        "them."
    )


def _for_whom(tuned: Sequence[Told], start: Told, kind: str) -> str:
    where = f"On{kind.lstrip(',')}" if kind else "On all prompts"
    counts = []
    for user in USERS:
        gains = [way.gain(start, user, kind) for way in tuned]
        counts.append(f"the {user} gains from {_up(gains)} and loses from {_down(gains)}")
    return f"{where}, of {len(tuned)} tuned settings {' and '.join(counts)} (95% intervals)."


def _lead(tuned: Sequence[Told], start: Told) -> str:
    leads = [way.searchers_lead(start) for way in tuned]
    return (
        f"The searcher gains more than the author in {_up(leads)} of {len(tuned)} settings, the "
        f"author more than the searcher in {_down(leads)}."
    )


def _furthest(way: Told, start: Told) -> str:
    one, best = (way.gain(start, user) for user in USERS)
    good = way.gain(start, GOOD, STORIES)
    return (
        f"{way.name} (KL {way.mean(KL).estimate:.2f}): searcher {_change(one)}, author "
        f"{_change(best)}, good ideas {_change(good)}."
    )


def _ideas(tuned: Sequence[Told], start: Told) -> str:
    gains = [way.gain(start, GOOD, STORIES) for way in tuned]
    most = max(tuned, key=lambda way: way.mean(GOOD).estimate)
    return (
        f"Good ideas in ten continuations rise in {_up(gains)} and fall in {_down(gains)} of "
        f"{len(tuned)} settings; most are in {most.name}: {_level(most.mean(GOOD))}, "
        f"{_level(most.novel_share())} of them novel."
    )


def _novelty(tuned: Sequence[Told]) -> list[str]:
    """Returns what a reward for novelty does, at each price that RLOO is also run at."""
    plain = {way.setting: way for way in tuned if way.algorithm == "rloo"}
    found = []
    for way in tuned:
        if way.algorithm == "rloo + novelty" and way.setting in plain:
            other = plain[way.setting]
            good = way.gain(other, GOOD, STORIES)
            one, best = (way.gain(other, user) for user in USERS)
            found.append(
                f"A reward for novelty changes rloo, {way.setting}: searcher {_change(one)}, "
                f"author {_change(best)}, good ideas {_change(good)}."
            )
    return found


def _up(found: Sequence[Interval]) -> int:
    return _count(found, lambda i: i.low > 0)


def _down(found: Sequence[Interval]) -> int:
    return _count(found, lambda i: i.high < 0)


def _count(found: Sequence[Interval], condition: Callable[[Interval], bool]) -> int:
    return sum(condition(interval) for interval in found)


def _level(i: Interval) -> str:
    return f"{i.estimate:.2f} [{i.low:.2f}, {i.high:.2f}]"


def _change(i: Interval) -> str:
    return f"{i.estimate:+.2f} [{i.low:+.2f}, {i.high:+.2f}]"
