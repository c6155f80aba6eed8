"""How the oracle suite's figures look: one colour per algorithm, and what the drawings share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any, NamedTuple

import pandas as pd

from textgym.benchmarks.oracle_panels import Panel
from textgym.benchmarks.suite import Spec
from textgym.errors import ConfigError

TEMPERED = "reference, with options"
COLOURS = {
    "reference": "#000000",
    TEMPERED: "#8A8A8A",
    "best_of_n": "#E69F00",
    "sft": "#56B4E9",
    "reinforce": "#0072B2",
    "ppo": "#D55E00",
    "dpo": "#009E73",
}
"""A colour per algorithm: Okabe and Ito's palette, which the colour-blind tell apart."""
OTHERS = ("#CC79A7", "#F0E442")
"""Colours of algorithms that the table above does not know."""
MARKERS = "osD^vPX<>*"
ALONG_BETA = {"color": "0.62", "lw": 5, "zorder": 1}
"""The exact optimum at every price."""
AT_THE_PRICE = {"color": "0.3", "ls": "--", "label": "optimum at the task's $\\beta$"}
"""The exact optimum at the price that regret is measured with."""


class Look(NamedTuple):
    """How an agent looks, the same in every figure."""

    color: str
    marker: str


Looks = dict[str, Look]
"""Looks by an agent's label."""


def looks(panels: Sequence[Panel]) -> Looks:
    """Returns the look of every agent: its algorithm's colour and a marker of its own."""
    agents = {runs.agent.label: _algorithm(runs.agent) for panel in panels for runs in panel.runs}
    colours, others = dict(COLOURS), cycle(OTHERS)
    for algorithm in agents.values():
        if algorithm not in colours:
            colours[algorithm] = next(others)
    markers = cycle(MARKERS)
    return {label: Look(colours[name], next(markers)) for label, name in agents.items()}


def _algorithm(agent: Spec) -> str:
    return TEMPERED if agent.name == "reference" and agent.options else agent.name


def canvas(width: float, height: float, title: str) -> Any:
    """Returns an empty figure, sizes in inches. Raises: ConfigError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("figures need matplotlib: pip install 'textgym[plot]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title)
    return figure


def finish(figure: Any, columns: int) -> None:
    """Takes away what says nothing, and puts one legend of all labels below the figure."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92", linewidth=0.8)
        axes.set_axisbelow(True)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=9,
    )


def draw_line(axes: Any, table: pd.DataFrame, look: Look, label: str, **line: Any) -> None:
    """Draws `over_seeds` against its index: the mean as a line, the range as a band."""
    x = table.index
    axes.plot(x, table["mean"], label=label, lw=1.5, ms=5, **look._asdict(), **line)
    axes.fill_between(x, table["low"], table["high"], color=look.color, alpha=0.15, lw=0)


def explain_band(axes: Any) -> None:
    """Adds to the legend what the bands are."""
    axes.fill_between([], [], [], color="0.5", alpha=0.3, lw=0, label="range over seeds")


def powers_of_two(axes: Any, ticks: Sequence[float]) -> None:
    """Gives an axis of powers of two, and a tick for each."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    axes.minorticks_off()
