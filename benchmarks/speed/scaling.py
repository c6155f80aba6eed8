"""How sampling's cost grows with the batch, the length and the model, below the machine's limit."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from textgym.benchmarks import oracle_looks as style
from textgym.benchmarks.speed.limits import flops_per_token, matmul_flops
from textgym.benchmarks.speed.models import FAMILY, YARDSTICK, make_model, make_policy
from textgym.benchmarks.speed.sampling import (
    Load,
    generate_run,
    own_randomness,
    sample_run,
)
from textgym.benchmarks.speed.timing import seconds
from textgym.models.precision import AUTO, describe

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
LENGTHS = (16, 64, 256, 1024)
PROMPT_TOKENS = 16
"""Few, so that what is measured is decoding."""
ROWS = 16
"""Of the axes length and size."""
ENOUGH = 8.0
"""Seconds after which a run is not repeated, and above which `generate` is not run."""
BASE_LENGTH = 64
"""New tokens that longer runs are compared with: the reading of the prompt weighs little."""

AXES = {
    "batch": "rows of the batch",
    "length": "new tokens per row",
    "size": "parameters of the model, millions",
}
HELD = {"batch": "{:,} rows", "length": "{:,} new tokens", "size": "{:,} parameters"}
"""Words for what stays the same along the other axes."""
CURVES: dict[str, dict[str, Any]] = {
    "limit": {"label": "limit: the matrix products alone", "color": "0.3", "ls": "--"},
    "tokens_per_second": {"label": "TextGym", "color": "#0072B2", "marker": "o", "lw": 2},
    "generate": {"label": "generate of transformers", "color": "#D55E00", "marker": "s"},
}
"""Columns that are drawn, and how."""


def loads() -> Iterator[tuple[str, str, Load]]:
    """Yields every point to measure: its axis, its model and how much is sampled."""
    for rows in BATCHES:
        yield "batch", YARDSTICK, Load(rows, 1, PROMPT_TOKENS, 32)
    for tokens in LENGTHS:
        yield "length", YARDSTICK, Load(ROWS, 1, PROMPT_TOKENS, tokens)
    for model in FAMILY:
        yield "size", model, Load(ROWS, 1, PROMPT_TOKENS, 24)


def measure(
    repeats: int = 7,
    precision: str = AUTO,
    points: Iterable[tuple[str, str, Load]] | None = None,
) -> pd.DataFrame:
    """Measures sampling, `generate` and the matrix products at every point of three axes.

    All points take turns, so that a mood of the machine bends no curve.

    Args:
        repeats: runs per point, fewer where one takes long; the median counts.
        precision: of ours. `generate` and the products have the one that it comes to.
        points: axis, model and load of each; those of `loads` by default.

    Returns:
        A row per point: `axis` (batch, length or size), `x` (rows, new tokens or parameters),
        `held` (in words, what stays the same along the axis), `tokens_per_second` of ours, `limit`
        (the tokens/s that the matrix products would allow if there were nothing else to do),
        `generate` (its tokens/s, NaN where it would take long), `step_ms` (milliseconds per
        decoding step of ours, for all rows, the reading of the prompts spread over the steps) and
        `precision`.
    """
    with own_randomness():
        found = list(_points(loads() if points is None else points, precision))
        for _ in range(repeats):
            for point in found:
                point.again()
    return pd.DataFrame([point.row() for point in found])


@dataclass
class _Timed:
    """A run that is timed again and again, with others in between; the median counts."""

    run: Callable[[], object]
    times: list[float] = field(default_factory=list)

    def again(self) -> None:
        """Times it once more, unless it has taken long enough."""
        if not self.times or sum(self.times) < ENOUGH:
            self.times.append(seconds(self.run))


@dataclass
class _Point:
    """A point of an axis: what is sampled there, in both ways, and how quickly it might be.

    Attributes:
        axis: of AXES.
        sizes: where it lies on every axis.
        load: how much is sampled.
        limit: tokens per second of the matrix products alone.
        precision: of all of it, in words.
        ours, peer: the runs.
    """

    axis: str
    sizes: dict[str, int]
    load: Load
    limit: float
    precision: str
    ours: _Timed
    peer: _Timed

    def again(self) -> None:
        """Times ours once more, and `generate` unless it would take long."""
        self.ours.again()
        if self.ours.times[0] <= ENOUGH:
            self.peer.again()

    def row(self) -> dict[str, Any]:
        """Returns the point's figures, see `measure`."""
        held = (HELD[axis].format(self.sizes[axis]) for axis in AXES if axis != self.axis)
        ours = statistics.median(self.ours.times)
        peer = statistics.median(self.peer.times) if self.peer.times else math.nan
        return {
            "axis": self.axis,
            "x": self.sizes[self.axis],
            "held": ", ".join(held),
            "limit": self.limit,
            "tokens_per_second": self.load.tokens / ours,
            "generate": self.load.tokens / peer,
            "step_ms": 1000 * ours / self.load.response_tokens,
            "precision": self.precision,
        }


def _points(points: Iterable[tuple[str, str, Load]], precision: str) -> Iterator[_Point]:
    """Yields the points, each warmed up by a short run of both ways."""
    models: dict[str, Any] = {}
    rates: dict[tuple[str, int], float] = {}
    for axis, name, load in points:
        if name not in models:
            policy = make_policy(make_model(name), precision)
            models[name] = policy, copy.deepcopy(policy.model).to(policy.precision)
        policy, cast = models[name]
        if (name, load.rows) not in rates:
            rates[name, load.rows] = matmul_flops(load.rows, policy.model, policy.precision)
        sizes = {
            "batch": load.rows,
            "length": load.response_tokens,
            "size": policy.model.num_parameters(),
        }
        limit = rates[name, load.rows] / flops_per_token(policy.model.config)
        short = replace(load, response_tokens=2)
        sample_run(policy, short)()
        generate_run(cast, short)()
        ours, peer = _Timed(sample_run(policy, load)), _Timed(generate_run(cast, load))
        yield _Point(axis, sizes, load, limit, describe(policy.precision), ours, peer)


def growth(frame: pd.DataFrame) -> dict[str, float]:
    """Returns how the time of a decoding step grows along each axis.

    Args:
        frame: from `measure`.

    Returns:
        `length`: the time per step, and so per token, of the longest run over that of the shortest
        of at least 64 tokens; it stays near 1 as long as no token is read twice and attention is
        cheap. `batch` and `size`: the slope of log time over log rows and over log parameters, by
        least squares; 1 is linear, and below 1 is better. `batch_end` and `size_end`: the same
        between the two largest points, where fixed costs weigh least.
    """
    curves = {axis: rows.sort_values("x") for axis, rows in frame.groupby("axis")}
    lengths = curves["length"]
    long = lengths["step_ms"][lengths["x"] >= BASE_LENGTH]
    figures = {"length": float(long.iloc[-1] / long.iloc[0])}
    for axis in ("batch", "size"):
        x, y = np.log(curves[axis][["x", "step_ms"]].to_numpy(float)).T
        figures[axis] = float(np.polyfit(x, y, 1)[0])
        figures[f"{axis}_end"] = float((y[-1] - y[-2]) / (x[-1] - x[-2]))
    return figures


def figure(frame: pd.DataFrame, path: str | Path) -> None:
    """Draws tokens/s against batch, length and model size, with the limit above.

    Args:
        frame: from `measure`.
        path: of the picture to write.

    Raises:
        ConfigError: without matplotlib.
    """
    usual = frame["precision"].mode()[0]
    canvas = style.canvas(11, 4.4, f"Sampled tokens per second, {usual}")
    grid = canvas.subplots(1, len(AXES), sharey=True)
    for axes, (axis, label) in zip(grid, AXES.items(), strict=True):
        rows = frame[frame["axis"] == axis].sort_values("x")
        for column, look in CURVES.items():
            axes.plot(rows["x"], rows[column], ms=5, **look)
        others = rows[rows["precision"] != usual]
        if len(others):
            hollow = CURVES["tokens_per_second"] | {"ls": "", "mfc": "white"}
            hollow["label"] = f"hollow: {' and '.join(others['precision'].unique())}"
            axes.plot(others["x"], others["tokens_per_second"], ms=5, **hollow)
        axes.set(xscale="log", yscale="log", xlabel=label)
        axes.set_title(rows["held"].iloc[0], fontsize=10)
        ticks = [f"{x / 1e6:.3g}" if axis == "size" else f"{x:,}" for x in rows["x"]]
        axes.set_xticks(rows["x"], ticks)
        axes.minorticks_off()
    grid[0].set_ylabel("tokens/s")
    style.finish(canvas, len(CURVES) + 1)
    canvas.savefig(path, dpi=150)
