"""Per-prompt numbers of several seeds to metrics with 95% intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from textgym.benchmarks.reachable import FRONTIER, REFERENCE_REWARD
from textgym.metrics import stats

DIVERSITY = "diversity/"
"""Prefix of per-input diversity, in a cell's prompts and in metrics."""
BASELINE = "reference/"
"""Prefix of the reference's per-input diversity on the same prompt."""
LOSS = "diversity_loss/"
"""Prefix of 1 - D(agent) / D(reference), per input."""
BEYOND = "loss_beyond_optimum/"
"""Prefix of (D(best at the agent's KL) - D(agent)) / D(reference): the loss reward did not ask
for."""
SET = "set/"
"""Prefix of a task's numbers of a prompt's K completions together."""
EFFICIENCY = "frontier_efficiency"
"""`(R_agent - R_ref) / (R*(KL_agent) - R_ref)`, R* the frontier."""
RESAMPLES = 1000


def intervals(
    seeds: Sequence[pd.DataFrame], resamples: int = RESAMPLES
) -> dict[str, stats.Interval]:
    """Returns each per-prompt metric, and each diversity loss, with its 95% interval.

    Args:
        seeds: the `prompts` table of each seed.
        resamples: bootstrap resamples over prompts nested in seeds.
    """
    found: dict[str, stats.Interval] = {}
    for name in seeds[0].columns:
        values = _stacked(seeds, name)
        if name.startswith((BASELINE, FRONTIER)) or not np.isfinite(values).any():
            continue
        found[name] = stats.bootstrap_mean(values, np.random.default_rng(0), resamples)
        metric = name.removeprefix(DIVERSITY)
        if metric != name and BASELINE + metric in seeds[0]:
            base = _stacked(seeds, BASELINE + metric)
            both = np.isfinite(values) & np.isfinite(base)
            if base[both].sum() > 0:
                random = np.random.default_rng(0)
                found[LOSS + metric] = stats.diversity_loss(values, base, random, resamples)
    return found | _against_the_frontier(seeds, resamples)


def _against_the_frontier(
    seeds: Sequence[pd.DataFrame], resamples: int
) -> dict[str, stats.Interval]:
    """Returns the frontier efficiency and, by metric, the diversity loss beyond the optimum's."""
    # A seed beyond what can be told leaves the whole figure out: no mean over the others.
    names = set.intersection(*(set(map(str, table.columns)) for table in seeds))

    def ratio(top: str, less: str, bottom: str, base: str | None) -> stats.Interval | None:
        over = _stacked(seeds, top) - _stacked(seeds, less)
        under = _stacked(seeds, bottom) - (0 if base is None else _stacked(seeds, base))
        known = np.isfinite(over) & np.isfinite(under)
        if not under[known].sum() > 0:
            return None
        return stats.bootstrap_ratio(over, under, np.random.default_rng(0), resamples)

    found: dict[str, stats.Interval | None] = {}
    if FRONTIER + "reward" in names:
        best, base = FRONTIER + "reward", REFERENCE_REWARD
        found[EFFICIENCY] = ratio("reward", base, best, base)
    for name in sorted(names):
        metric = name.removeprefix(FRONTIER)
        if metric != name and {DIVERSITY + metric, BASELINE + metric} <= names:
            found[BEYOND + metric] = ratio(name, DIVERSITY + metric, BASELINE + metric, None)
    return {name: interval for name, interval in found.items() if interval is not None}


def _stacked(seeds: Sequence[pd.DataFrame], name: str) -> np.ndarray:
    """Returns [S, N]; a seed with fewer prompts, or without the metric, is filled with NaN."""
    stacked = np.full((len(seeds), max(len(table) for table in seeds)), np.nan)
    for row, table in zip(stacked, seeds, strict=True):
        if name in table:
            row[: len(table)] = table[name].to_numpy(float)
    return stacked
