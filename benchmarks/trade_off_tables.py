"""The comparisons at matched KL and reward as files beside the leaderboard: CSV and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from textgym.benchmarks import trade_offs
from textgym.benchmarks.leaderboard import Entry, score_matrix, scores_by_seed
from textgym.benchmarks.report import NONE, markdown_row
from textgym.metrics.stats import probability_of_improvement

FOLDER = "trade_offs"
BY = {"kl_seq": "KL (nats per response)", "reward": "reward (the proxy's)"}
"""What is matched, and how the tables call it."""


def write(out: Path, entries: Sequence[Entry]) -> dict[str, pd.DataFrame]:
    """Writes the comparisons that a results folder allows into `OUT/trade_offs`; returns them.

    `matched` (diversity loss at a matched KL or reward), `area` (hypervolume), `overoptimization`
    (fits of proxy and gold) and `improvement` (probability that a run of one agent scores above
    one of another), each as CSV, and the first two as `trade_offs.md`. Nothing is written where
    no agent left checkpoints.
    """
    paths = trade_offs.read_paths(out, entries)
    tasks = list(dict.fromkeys(path.task for path in paths))
    if not paths:
        return {}
    tables = {
        "matched": pd.concat([trade_offs.matched(paths, by) for by in BY], ignore_index=True),
        "area": trade_offs.volumes(paths),
        "overoptimization": trade_offs.fits([*paths, *trade_offs.pool_paths(out, tasks)]),
        "improvement": improvement(entries),
    }
    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    for name, table in tables.items():
        if len(table):
            table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    (folder / "trade_offs.md").write_text(markdown(tables["matched"], tables["area"]), "utf-8")
    return tables


def improvement(entries: Sequence[Entry]) -> pd.DataFrame:
    """Returns the probability that a run of one agent scores above a run of another.

    Over the tasks that have gold, ties one half, with an interval from a bootstrap over seeds
    within each task; one row per ordered pair: `agent`, `other`, `probability`, `low`, `high`.
    Agents that lack a task or seed are left out, and with one seed nobody can tell.
    """
    found = scores_by_seed(entries, "gold")
    tasks = list(dict.fromkeys(task for scores in found.values() for task in scores))
    seeds = max((len(v) for scores in found.values() for v in scores.values()), default=0)
    every = {agent: score_matrix(scores, tasks, seeds) for agent, scores in found.items()}
    known = {agent: matrix for agent, matrix in every.items() if matrix is not None}
    rows = []
    for agent, own in known.items() if seeds > 1 else ():
        for other, theirs in known.items():
            if other != agent:
                chance = probability_of_improvement(own, theirs, np.random.default_rng(0), 500)
                values = (chance.estimate, chance.low, chance.high)
                rows.append((agent, other, *values))
    return pd.DataFrame(rows, columns=["agent", "other", "probability", "low", "high"])


def markdown(matched: pd.DataFrame, area: pd.DataFrame) -> str:
    """Returns one table per task and matched quantity, least loss first, and the areas."""
    lines: list[str] = []
    for task in dict.fromkeys(matched["task"]):
        for by, title in BY.items():
            rows = matched[(matched["task"] == task) & (matched["by"] == by)]
            levels = [level for level, of in rows.groupby("level") if of["loss"].notna().any()]
            if not levels:
                continue
            lines += [f"### {task}: diversity loss at a matched {title}", ""]
            lines.append(markdown_row(["agent", *(f"{level:.3g}" for level in levels)]))
            lines.append(markdown_row(["---", *("---:" for _ in levels)]))
            lines += _matched_rows(rows, levels)
            lines.append("")
        own = area[area["task"] == task].sort_values("volume", ascending=False)
        lines += [f"### {task}: area under ({own['score'].iloc[0]}, diversity kept)", ""]
        lines += [markdown_row(["agent", "area"]), markdown_row(["---", "---:"])]
        for _, row in own.iterrows():
            half = (row["high"] - row["low"]) / 2
            lines.append(markdown_row([row["agent"], f"{row['volume']:.3f} ± {half:.3f}"]))
        lines.append("")
    lines.append(NOTE)
    return "\n".join(lines) + "\n"


NOTE = (
    f"{NONE}: the agent's training does not reach the level (in nine of ten resamples); nothing is "
    "extrapolated. Losses are read off the line between checkpoints (over sqrt(KL)), ± half a 95% "
    "bootstrap interval over seeds and prompts nested in each. An area is gain over the reference "
    "times the share of its diversity kept, over all checkpoints. `X over Y` joins rows that "
    "differ in one setting; best-of-n's KL is its own estimate."
)


def _matched_rows(rows: pd.DataFrame, levels: list[float]) -> list[str]:
    """Returns one line per agent that reaches a level, by its loss at the last that most reach."""
    wide = rows.pivot(index="agent", columns="level", values="loss")[levels]
    reached = dict(zip(levels, wide.notna().to_numpy().sum(axis=0), strict=True))
    common = max(levels, key=lambda level: reached[level])
    half = ((rows["high"] - rows["low"]) / 2).groupby([rows["agent"], rows["level"]]).first()
    lines = []
    for agent in wide.dropna(how="all")[common].sort_values().index:
        cells = [
            NONE if np.isnan(loss) else f"{100 * loss:.1f}% ± {100 * half[agent, level]:.1f}"
            for level, loss in wide.loc[agent].items()
        ]
        lines.append(markdown_row([str(agent), *cells]))
    return [*lines, markdown_row([APART, *(_apart(rows, level) for level in levels)])]


APART = "*trained agents whose intervals lie apart*"


def _apart(rows: pd.DataFrame, level: float) -> str:
    """Returns how many pairs of trained agents differ by more than their intervals, of how many."""
    there = rows[(rows["level"] == level) & rows["trained"] & rows["loss"].notna()]
    low, high = there["low"].to_numpy(float), there["high"].to_numpy(float)
    apart = (low[:, None] > high[None, :]).sum()
    return f"{apart} of {len(there) * (len(there) - 1) // 2} pairs"
