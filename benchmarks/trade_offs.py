"""What reward, KL and diversity each agent trades along its training, from a results folder.

A `TradePath` is an agent's checkpoints, the mean over seeds and prompts at each, with bootstrap
resamples (prompts nested in seeds) that are the same for all agents of a task. From it follow the
diversity loss at a matched KL or reward, the area covered, and the over-optimization fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from textgym.benchmarks.checkpoints import CHECKPOINTS
from textgym.benchmarks.intervals import DIVERSITY
from textgym.benchmarks.leaderboard import Entry
from textgym.benchmarks.measure import HEADLINE
from textgym.benchmarks.pools import POOLS, START
from textgym.benchmarks.suite import folder_name
from textgym.functional.best_of_n import best_of_n_kl_bound, best_of_n_weights
from textgym.metrics import overoptimization
from textgym.metrics.sets import FloatArray
from textgym.metrics.stats import interval, resampled_sums
from textgym.metrics.trade_off import at_level, hypervolume

RESAMPLES = 1000
LEVELS_OF_KL = (0.1, 0.25, 0.5, 1.0, 2.0)
"""Nats per response at which agents are compared."""
SHARES_OF_REWARD = (0.25, 0.5, 0.75)
"""Likewise, of the way from the reference's reward to the most that an agent reached."""
OFTEN = 0.9
"""A level counts as reached if so many resamples reach it."""
POWERS_OF_TWO = tuple(2**i for i in range(9))
"""n of best-of-n read from a pool."""


@dataclass(frozen=True, eq=False)
class TradePath:
    """One agent's way through training, or a control's through its settings.

    Attributes:
        task, agent: labels.
        completions: [C], scored in training before each point.
        values: mean by name, [C]: `kl_seq`, `reward`, `gold`, `kept` and others.
        resampled: the same of each resample, [R, C].
        kl_is_estimated: whether KL is the agent's own figure, since no policy scores its samples.
    """

    task: str
    agent: str
    completions: FloatArray
    values: dict[str, FloatArray]
    resampled: dict[str, FloatArray]
    kl_is_estimated: bool = False

    @property
    def is_a_way(self) -> bool:
        """Whether something lies between the ends: an untrained agent is one point."""
        return self.is_training or len(self.completions) > 2

    @property
    def is_training(self) -> bool:
        """Whether completions were scored on the way, as in no sweep of settings."""
        return bool(self.completions[-1] > 0)

    @property
    def score(self) -> str:
        """What the task is judged by: `gold`, or `reward` where it has no gold."""
        return "gold" if "gold" in self.values else "reward"


def read_paths(out: Path, entries: Iterable[Entry], metric: str = HEADLINE) -> list[TradePath]:
    """Returns the paths of all agents that left checkpoints, those of swept controls last.

    Args:
        out: the results folder.
        entries: what it holds.
        metric: which diversity `kept` is of: 1 - D(agent) / D(reference), what is left of it.
    """
    paths: list[TradePath] = []
    controls: dict[tuple[str, str], list[TradePath]] = {}
    for entry in entries:
        path = _path(out, entry, metric)
        if path is None:
            continue
        paths.append(path)
        control = _control(entry)
        if control is not None:
            controls.setdefault((entry.task, control), []).append(path)
    swept = [_joined(name, parts) for (_, name), parts in controls.items() if len(parts) > 1]
    return paths + swept


def _path(out: Path, entry: Entry, metric: str) -> TradePath | None:
    folder = out / folder_name(entry.task) / folder_name(entry.agent)
    files = [folder / f"seed-{r['seed']}" / f"{CHECKPOINTS}.parquet" for r in entry.results]
    if not files or not all(file.is_file() for file in files):
        return None
    pool = out / POOLS / folder_name(entry.task)
    begun = [pool / f"{START}-seed-{r['seed']}.parquet" for r in entry.results]
    if not all(file.is_file() for file in begun):  # nothing to hold them against
        return None
    starts = [pd.read_parquet(file) for file in begun]
    tables = [pd.read_parquet(file) for file in files]
    steps = sorted(set.intersection(*(set(table["step"]) for table in tables)))
    completions = tables[0].groupby("step")["completions"].first()[steps].to_numpy(float)
    columns = {n: _stacked(tables, steps, n) for n in tables[0].columns[3:]}
    base = {n: np.stack([start[n].to_numpy(float) for start in starts])[None] for n in starts[0]}
    estimated = "kl_seq" not in columns
    if estimated:
        own = [r["metrics"].get("kl_estimate", {}).get("value") for r in entry.results]
        if any(value is None for value in own):
            return None
        like = columns["reward"]
        columns["kl_seq"] = np.broadcast_to(np.array(own, float)[None, :, None], like.shape)
    if not steps[0] and not entry.results[0]["budget"]["logged_steps"]:
        # An agent without training stands at one point; the reference is where it came from.
        columns = {n: np.concatenate([base.get(n, 0 * v), v]) for n, v in columns.items()}
        completions = np.zeros(2)
    means = {n: _means(values) for n, values in columns.items()}
    kept, reference = _means(columns[DIVERSITY + metric]), _means(base[DIVERSITY + metric])
    means["kept"] = (kept[0] / reference[0], kept[1] / reference[1])
    values = {n: mean for n, (mean, _) in means.items() if "/" not in n}
    resampled = {n: again for n, (_, again) in means.items() if "/" not in n}
    return TradePath(entry.task, entry.agent, completions, values, resampled, estimated)


def _stacked(tables: Sequence[pd.DataFrame], steps: Sequence[int], name: str) -> FloatArray:
    """Returns [C, S, N]."""
    by_step = [[t.loc[t["step"] == step, name].to_numpy(float) for t in tables] for step in steps]
    return np.array(by_step)


def _means(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Returns the mean over seeds and prompts [C], and that of each resample [R, C]."""
    again = resampled_sums(values, np.random.default_rng(0), RESAMPLES)
    return values.mean(axis=(1, 2)), again.T / values[0].size


def _control(entry: Entry) -> str | None:
    """Returns what an untrained agent's rows are a sweep of, such as `best_of_n over n`."""
    if not entry.results or entry.results[0]["budget"]["logged_steps"]:
        return None
    agent = entry.results[0]["config"]["agent"]
    return f"{agent['name']} over {'+'.join(agent['options'])}" if agent["options"] else None


def _joined(name: str, parts: Sequence[TradePath]) -> TradePath:
    """Returns one path from the reference through several rows, by KL."""
    ordered = sorted(parts, key=lambda path: float(path.values["kl_seq"][-1]))
    names = set.intersection(*(set(path.values) for path in ordered))
    first = ordered[0]
    values, resampled = {}, {}
    for n in names:
        values[n] = np.array([first.values[n][0], *(p.values[n][-1] for p in ordered)])
        ends = [first.resampled[n][:, 0], *(p.resampled[n][:, -1] for p in ordered)]
        resampled[n] = np.stack(ends, axis=1)
    estimated = any(path.kl_is_estimated for path in ordered)
    return TradePath(first.task, name, np.zeros(len(ordered) + 1), values, resampled, estimated)


def matched(
    paths: Sequence[TradePath], by: str, levels: Iterable[float] | None = None
) -> pd.DataFrame:
    """Returns the diversity lost where each path first reaches a level; one row per path and level.

    Columns: `task`, `agent`, `trained` (no sweep of settings), `by`, `level`, `loss`, `low`,
    `high`, `reached` (the share of resamples that reach the level). A path that does not reach it
    has no loss: a hole, no guess. Agents that stand at one point are left out; a sweep of their
    settings is a path.

    Args:
        paths: of one or more tasks.
        by: `kl_seq`, `reward` or `gold`.
        levels: of KL, nats, or shares of the way from the reference's reward to the most that a
            path of the task reached; by default `LEVELS_OF_KL` and `SHARES_OF_REWARD`.
    """
    shares = tuple(levels or (LEVELS_OF_KL if by == "kl_seq" else SHARES_OF_REWARD))
    rows = []
    for task in dict.fromkeys(path.task for path in paths):
        of_task = [p for p in paths if p.task == task and {by, "kept"} <= set(p.values)]
        of_task = [p for p in of_task if p.is_a_way]
        for level in shares if by == "kl_seq" else _rewards(of_task, by, shares):
            rows += [_matched(path, by, level) for path in of_task]
    return pd.DataFrame(rows, columns=list(MATCHED))


MATCHED = ("task", "agent", "trained", "by", "level", "loss", "low", "high", "reached")


def _rewards(paths: Sequence[TradePath], by: str, shares: Iterable[float]) -> list[float]:
    if not paths:
        return []
    start = float(paths[0].values[by][0])
    most = max(float(np.nanmax(path.values[by])) for path in paths)
    return [start + share * (most - start) for share in shares]


def _matched(path: TradePath, by: str, level: float) -> dict[str, Any]:
    at, again = (_loss_at(values, by, level) for values in (path.values, path.resampled))
    reached = float(np.isfinite(again).mean())
    there = bool(np.isfinite(at)) and reached >= OFTEN
    ends = interval(float(at), again) if there else None
    return {
        "task": path.task,
        "agent": path.agent,
        "trained": path.is_training,
        "by": by,
        "level": level,
        "loss": float(at) if there else np.nan,
        "low": np.nan if ends is None else ends.low,
        "high": np.nan if ends is None else ends.high,
        "reached": reached,
    }


def _loss_at(values: dict[str, FloatArray], by: str, level: float) -> FloatArray:
    """Returns the loss at a level, along the line between checkpoints.

    Reward and diversity change in proportion to the step a policy takes, KL to its square: from
    the reference on, a loss is straight over sqrt(KL), and read off KL it would look small.
    """
    x, loss = values[by], 1 - values["kept"]
    if by == "kl_seq":
        x, level = np.sqrt(np.maximum(x, 0)), np.sqrt(level)
    return at_level(x, loss, level)


def volumes(paths: Sequence[TradePath]) -> pd.DataFrame:
    """Returns the area each path covers under (score, diversity kept); one row per path.

    Above the corner (the reference's score, no diversity at all), so that the reference itself
    covers nothing: reward gained times the share of diversity kept while gaining it. Columns:
    `task`, `agent`, `score` (what it was taken of), `volume`, `low`, `high`.
    """
    rows = []
    for path in paths:
        if "kept" not in path.values:
            continue
        sizes = [_volume(values, path.score) for values in (path.values, path.resampled)]
        found = interval(float(sizes[0]), sizes[1])
        row = {"task": path.task, "agent": path.agent, "score": path.score}
        rows.append({**row, "volume": found.estimate, "low": found.low, "high": found.high})
    return pd.DataFrame(rows, columns=["task", "agent", "score", "volume", "low", "high"])


def _volume(values: dict[str, FloatArray], score: str) -> FloatArray:
    x = values[score]
    corner = np.stack([x[..., 0], np.zeros_like(x[..., 0])], axis=-1)
    return hypervolume(x, values["kept"], corner)


def pool_paths(out: Path, tasks: Iterable[str]) -> list[TradePath]:
    """Returns best-of-n's path over n = 1, 2, 4, ... for each task, read from its pools.

    Unbiased for every n (`best_of_n_weights`); KL is the bound `log n - (n - 1) / n`.
    """
    paths = []
    for task in tasks:
        files = sorted((out / POOLS / folder_name(task)).glob("seed-*.parquet"))
        if files:
            paths.append(_pool_path(task, [pd.read_parquet(file) for file in files]))
    return paths


def _pool_path(task: str, tables: Sequence[pd.DataFrame]) -> TradePath:
    names = [name for name in ("reward", "gold") if name in tables[0]]
    scores = [[group[names].to_numpy(float) for _, group in t.groupby("prompt")] for t in tables]
    many = min(len(group) for seed in scores for group in seed)
    ns = [n for n in POWERS_OF_TWO if n <= many]
    means = {}
    for i, name in enumerate(names):
        each = [
            [[best_of_n_weights(group[:, 0], n) @ group[:, i] for group in s] for s in scores]
            for n in ns
        ]
        means[name] = _means(np.array(each))
    kl = np.array([best_of_n_kl_bound(n) for n in ns])
    values = {"kl_seq": kl, **{name: mean for name, (mean, _) in means.items()}}
    resampled = {name: again for name, (_, again) in means.items()}
    resampled["kl_seq"] = np.broadcast_to(kl, (RESAMPLES, len(ns)))
    return TradePath(task, FROM_POOL, np.zeros(len(ns)), values, resampled, True)


FROM_POOL = "best of n (pool)"
"""Label of best-of-n as read from a pool of the reference's samples."""


def fits(paths: Sequence[TradePath]) -> pd.DataFrame:
    """Returns the over-optimization fits of proxy and gold; one row per path and score.

    Best-of-n follows one law, everything else the other. Columns: `task`, `agent`, `score`, `law`,
    and `a`, `b`, `peak` (of sqrt(KL), inf where the curve does not bend) each with `_low` and
    `_high`, `error`, `points`. Paths with fewer than three points beyond the reference have none.
    """
    rows = []
    for path in paths:
        law: overoptimization.Law = "best_of_n" if path.agent == FROM_POOL else "rl"
        for score in (name for name in ("reward", "gold") if name in path.values):
            found, again = (
                overoptimization.fit(
                    np.sqrt(np.maximum(values["kl_seq"], 0)),
                    values[score] - values[score][..., :1],
                    law,
                )
                for values in (path.values, path.resampled)
            )
            if not np.isfinite(found.a):
                continue
            row: dict[str, Any] = {"task": path.task, "agent": path.agent}
            row |= {"score": score, "law": law}
            for name in ("a", "b", "peak"):
                low, high = np.nanquantile(getattr(again, name), [0.025, 0.975], method="nearest")
                row |= {name: float(getattr(found, name)), f"{name}_low": low, f"{name}_high": high}
            rows.append({**row, "error": float(found.error), "points": path.values[score].size - 1})
    return pd.DataFrame(rows)
