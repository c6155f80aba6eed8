"""How sampling's cost grows with the batch, the length and the model, below the machine's limit."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
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
from textgym.models.policy import Policy
from textgym.models.precision import AUTO, describe

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
LENGTHS = (16, 64, 256, 1024)
PROMPT_TOKENS = 16
"""Few, so that what is measured is decoding."""
ROWS = 16
"""Of the axes length and size."""
ENOUGH = 8.0
"""Seconds after which a point is not repeated, and above which `generate` is not run."""
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
    repeats: int = 3,
    precision: str = AUTO,
    points: Iterable[tuple[str, str, Load]] | None = None,
) -> pd.DataFrame:
    """Measures sampling, `generate` and the matrix products at every point of three axes.

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
    rows = []
    rates: dict[tuple[str, int], float] = {}
    with own_randomness():
        for axis, name, load in loads() if points is None else points:
            model = make_model(name)
            policy = make_policy(model, precision)
            x = {"batch": load.rows, "length": load.response_tokens, "size": model.num_parameters()}
            if (name, load.rows) not in rates:
                rates[name, load.rows] = matmul_flops(load.rows, model, policy.precision)
            limit = rates[name, load.rows] / flops_per_token(model.config)
            figures = _point(policy, model, load, repeats)
            held = ", ".join(HELD[other].format(x[other]) for other in AXES if other != axis)
            rows.append({"axis": axis, "x": x[axis], "held": held, "limit": limit} | figures)
    return pd.DataFrame(rows)


def _point(policy: Policy, model: Any, load: Load, repeats: int) -> dict[str, Any]:
    dtype = policy.precision
    ours = _median(partial(sample_run, policy), load, repeats)
    peer = math.nan
    if ours <= ENOUGH:
        cast = copy.deepcopy(model).to(dtype)
        peer = _median(partial(generate_run, cast), load, repeats)
    return {
        "tokens_per_second": load.tokens / ours,
        "generate": load.tokens / peer,
        "step_ms": 1000 * ours / load.response_tokens,
        "precision": describe(dtype),
    }


def _median(make_run: Callable[[Load], Callable[[], object]], load: Load, repeats: int) -> float:
    """Returns the median seconds of a run, after a short one that warms up."""
    make_run(replace(load, response_tokens=2))()
    run = make_run(load)
    times = [seconds(run)]
    while len(times) < repeats and sum(times) < ENOUGH:
        times.append(seconds(run))
    return statistics.median(times)


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
