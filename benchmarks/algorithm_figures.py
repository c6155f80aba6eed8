"""Draws the suite `algorithms`: `python -m textgym.benchmarks.algorithm_figures RESULTS`.

One picture per embedded task, a row per agent and a column per question (gold, KL, diversity lost,
share of the reachable reward), and one of the enumerated tasks' regrets. Needs matplotlib, which
comes with the extra `plot`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from textgym.benchmarks.algorithm_page import ORACLE
from textgym.benchmarks.intervals import EFFICIENCY, LOSS
from textgym.benchmarks.leaderboard import ALL_TASKS
from textgym.benchmarks.measure import HEADLINE
from textgym.benchmarks.suite import Suite, load_suite
from textgym.errors import PluginError, TextGymError

FAMILIES = {
    "untrained": ("human", "pretrained", "reference", "sft"),
    "selection": ("best_of_n", "soft_best_of_n", "diverse_best_of_n", "raft", "bond"),
    "preferences": ("dpo", "ipo", "kto", "online_dpo", "trl:dpo", "trl:kto"),
    "distribution matching": ("gdc", "trajectory_balance"),
}
"""Agents by what they do; the others follow a policy gradient."""
GRADIENT = "policy gradient"
COLOURS = {
    "untrained": "#000000",
    "selection": "#E69F00",
    GRADIENT: "#0072B2",
    "preferences": "#009E73",
    "distribution matching": "#CC79A7",
}
"""Okabe and Ito's palette, which the colour-blind tell apart."""
MARKERS = dict(zip(COLOURS, "osD^v", strict=True))
COLUMNS = {
    "gold": "gold",
    "kl_seq": "KL (nats)",
    LOSS + HEADLINE: "diversity lost (EAD)",
    EFFICIENCY: "frontier efficiency",
}


def family(agent: str) -> str:
    """Returns the family of a registered agent.

    >>> family("bond"), family("grpo")
    ('selection', 'policy gradient')
    """
    return next((name for name, agents in FAMILIES.items() if agent in agents), GRADIENT)


def families(suite: Suite) -> dict[str, str]:
    """Returns the family of each of a suite's agents, by label."""
    return {spec.label: family(spec.name) for spec in suite.agents}


def trade(table: pd.DataFrame, kinds: dict[str, str]) -> Any:
    """Draws one embedded task: every agent's numbers with their 95% intervals, best gold on top.

    Args:
        table: one task's rows of a leaderboard.
        kinds: the family of each agent.
    """
    from matplotlib import pyplot

    rows = table[table["seeds"] > 0].sort_values("gold")
    places = np.arange(len(rows))
    height = 1.6 + 0.24 * len(rows)
    figure, axes = pyplot.subplots(
        1, len(COLUMNS), sharey=True, figsize=(12, height), layout="constrained"
    )
    for panel, (name, title) in zip(axes, COLUMNS.items(), strict=True):
        if name not in rows:
            rows = rows.assign(**{name: np.nan})
        for kind, colour in COLOURS.items():
            there = (rows["agent"].map(kinds) == kind).to_numpy()
            some = rows[there]
            value = some[name].to_numpy(float)
            ends = [
                some.get(f"{name}_{end}", some[name]).to_numpy(float) for end in ("low", "high")
            ]
            bars = np.clip([value - ends[0], ends[1] - value], 0, None)
            panel.errorbar(
                value, places[there], xerr=bars, fmt=MARKERS[kind], color=colour, ms=4, lw=1,
                label=kind,
            )  # fmt: skip
        panel.set_title(title, fontsize=10)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(places, rows["agent"], fontsize=8)
    axes[0].set_ylim(-0.8, len(rows) - 0.2)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(COLOURS), fontsize=8)
    figure.suptitle(f"{table['task'].iloc[0]}: what each algorithm gains, spends and loses")
    return figure


def regrets(table: pd.DataFrame) -> Any:
    """Draws the regret of every agent on every enumerated task, the least in all on top."""
    from matplotlib import colors, pyplot

    wide = table.pivot(index="agent", columns="task", values="regret")
    tasks = [task for task in table["task"].unique() if task != ALL_TASKS]
    wide = wide.sort_values(ALL_TASKS)[[*tasks, ALL_TASKS]]
    size = (2.4 + 0.95 * wide.shape[1], 1.6 + 0.27 * len(wide))
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    shades = colors.LogNorm(0.01, 4)
    axes.imshow(wide.clip(lower=0.01), cmap="cividis_r", norm=shades, aspect="auto")
    for (row, column), value in np.ndenumerate(wide.to_numpy(float)):
        dark = value > 0.5
        shown = "–" if np.isnan(value) else f"{value:.2f}"
        axes.text(column, row, shown, ha="center", va="center", fontsize=8,
                  color="white" if dark else "black")  # fmt: skip
    axes.set_yticks(range(len(wide)), wide.index, fontsize=8)
    axes.set_xticks(range(wide.shape[1]), wide.columns, fontsize=8, rotation=25, ha="right")
    axes.set_title("Regret to the best possible, nats: KL(policy || optimum)", fontsize=10)
    return figure


def draw(results: Path) -> list[Path]:
    """Draws every figure into `algorithms/` of the results' folder; returns the files.

    Raises: PluginError where matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError:
        raise PluginError("figures need matplotlib: pip install 'textgym[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = families(load_suite("core"))
    figures: dict[str, Any] = {}
    world = pd.read_csv(results / "core" / "leaderboard.csv")
    for task, rows in world[world["task"] != ALL_TASKS].groupby("task", sort=False):
        figures[str(task)] = trade(rows, kinds)
    figures["regret"] = regrets(pd.read_csv(results / ORACLE / "leaderboard.csv"))
    written = []
    for name, figure in figures.items():
        written.append(results / "algorithms" / f"{name}.png")
        figure.savefig(written[-1], dpi=130)
        pyplot.close(figure)
    return written


def main(arguments: list[str] | None = None) -> int:
    """Draws the figures of a results folder; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", nargs="?", type=Path, default=Path("results"))
    try:
        for path in draw(parser.parse_args(arguments).results):
            print(path)
    except (TextGymError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
