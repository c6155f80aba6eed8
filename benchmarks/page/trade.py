"""What reward costs: KL, diversity, and gold where the proxy is over-optimized."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from textgym.benchmarks.intervals import LOSS
from textgym.benchmarks.measure import HEADLINE
from textgym.benchmarks.page.charts import (
    Figure,
    Spec,
    bounded,
    by_family,
    colour,
    data,
    finish,
    focused,
    labels,
    shape,
    tooltip,
)
from textgym.benchmarks.page.data import Results
from textgym.benchmarks.pools import OPTIMA
from textgym.benchmarks.reachable import FRONTIER, REFERENCE_REWARD
from textgym.benchmarks.report import rows_of
from textgym.metrics.frontier import estimated_frontier

MEASURES = ("reward", "gold")
KL_TITLE = "KL (nats per response, square-root scale)"
KEPT_TITLE = "diversity kept (share of the reference's EAD)"
KL_TICKS = [0, 0.1, 0.5, 1, 2, 3, 4, 6, 8, 10, 15, 20, 30, 40, 60, 80, 100]
RESAMPLES = 200


def reward_against_kl(results: Results, task: str) -> Figure:
    """Draws reward, and gold, against KL for every agent and checkpoint, the frontier above."""
    variants: dict[str, Spec] = {}
    note = ""
    for measure in MEASURES:
        ends = [
            {
                "agent": row["agent"],
                **bounded(row, measure, "y"),
                **_kl(row),
            }
            for row in results.rows(task)
            if row.get(measure) is not None
        ]
        drawn = [e for e in ends if _known(e["x"]) and _known(e["y"])]
        if not drawn:
            continue
        frontier = _frontier(results, task, measure)
        variants[measure] = _trade(results, task, measure, "kl_seq", drawn, frontier, KL_TITLE)
        left = [e["agent"] for e in ends if not _known(e["x"])]
        if measure == "reward":
            note = _frontier_note(frontier, left)
    if not variants:
        return Figure("kl", task, missing="No agent of this task has a KL.")
    return Figure("kl", task, variants, note)


def reward_against_diversity(results: Results, task: str) -> Figure:
    """Draws reward, and gold, against the diversity kept, with the optimum's line."""
    loss, title = LOSS + HEADLINE, KEPT_TITLE
    rows = results.rows(task)
    exact = any(_known(row.get("entropy_kept")) for row in rows)
    if exact:
        title = "entropy kept (share of the reference's)"
    variants = {}
    optimum = results.pools(task, f"{OPTIMA}-seed-*")
    for measure in MEASURES:
        ends = []
        for row in rows:
            kept = _kept(row, loss, exact)
            if _known(kept["x"]) and _known(row.get(measure)):
                ends.append({"agent": row["agent"], **bounded(row, measure, "y"), **kept})
        if ends:
            line = _optimum(optimum, measure)
            variants[measure] = _trade(results, task, measure, "kept", ends, line, title)
    if not variants:
        return Figure("diversity", task, missing="No agent of this task has a diversity loss.")
    note = "Samples of the reference were not kept, so the optimum is missing."
    if optimum:
        note = "Line: the policies of most reward at each KL, from the reference's samples."
    return Figure("diversity", task, variants, "" if exact else note)


def _kl(row: dict[str, Any]) -> dict[str, Any]:
    """Returns an agent's KL and its interval; its own estimate where nothing was measured."""
    found = bounded(row, "kl_seq", "x")
    if not _known(found["x"]):
        found["x"] = row.get("kl_estimate")
    return found


def _kept(row: dict[str, Any], loss: str, exact: bool) -> dict[str, Any]:
    if exact:
        return bounded(row, "entropy_kept", "x")
    value, low, high = (row.get(loss + end) for end in ("", "_low", "_high"))
    flipped = [None if v is None or not _known(v) else 1 - v for v in (value, high, low)]
    return dict(zip(("x", "x_low", "x_high"), flipped, strict=True))


def _known(value: Any) -> bool:
    return value is not None and bool(np.isfinite(value))


def _frontier(results: Results, task: str, measure: str) -> pd.DataFrame:
    """Returns `x`, `y` and, with samples of the reference, the band: the most at each KL."""
    pools = [p for p in results.pools(task, "seed-*") if measure in p]
    if pools:
        scores = [p[measure].to_numpy(float).reshape(p["prompt"].nunique(), -1) for p in pools]
        least = min(s.shape[1] for s in scores)
        stacked = np.concatenate([s[:, :least] for s in scores])
        found = estimated_frontier(stacked, np.random.default_rng(0), resamples=RESAMPLES)
        columns = {"x": found.kl, "y": found.reward}
        band = {"y_low": found.reward_low, "y_high": found.reward_high}
        return pd.DataFrame(columns | band).drop_duplicates("x")
    if measure != "reward":
        return pd.DataFrame()
    points: dict[str, list[tuple[float, float, float]]] = {}
    for run in results.of(task):
        if FRONTIER + "reward" in run.prompts and "kl_seq" in run.prompts:
            names = ("kl_seq", FRONTIER + "reward", REFERENCE_REWARD)
            kl, reward, start = (float(run.prompts[name].mean()) for name in names)
            points.setdefault(run.agent, []).append((kl, reward, start))
    if not points:
        return pd.DataFrame()
    most = max(map(len, points.values()))
    whole = [np.mean(p, axis=0) for p in points.values() if len(p) == most]
    starts = float(np.mean([p[2] for p in whole]))
    best = [(0.0, starts), *sorted((p[0], p[1]) for p in whole)]
    return pd.DataFrame(best, columns=["x", "y"])


def _frontier_note(frontier: pd.DataFrame, left: list[str]) -> str:
    if frontier.empty:
        note = "Samples of the reference were not kept, so the frontier is missing."
    elif "y_low" in frontier:
        note = "Line and 95% band: the most that any policy could reach at that KL."
    else:
        note = "Dashes: the most that any policy could reach at an agent's KL."
    return note + (f" Without a KL, and so not drawn: {', '.join(left)}." if left else "")


def _optimum(tables: list[pd.DataFrame], measure: str) -> pd.DataFrame:
    """Returns `x`, the share kept, and `y` of the best policies by KL, the mean over seeds."""
    there = [t.assign(order=range(len(t))) for t in tables if {"diversity", measure} <= set(t)]
    if not there:
        return pd.DataFrame()
    means = pd.concat(there).groupby("order", as_index=False).mean(numeric_only=True)
    # The first is the reference itself, drawn as the others are.
    kept = means["diversity"] / means["diversity"].iloc[0]
    return pd.DataFrame({"x": kept, "y": means[measure], "order": means["order"]}).dropna()


def _trade(
    results: Results,
    task: str,
    measure: str,
    across: str,
    ends: list[dict[str, Any]],
    line: pd.DataFrame,
    x_title: str,
) -> Spec:
    """Draws where agents came to, the way there, and a line of what can be reached."""
    rows = leading(by_family(results, ends), less=across == "kl_seq")
    ways = _ways(results, task, measure, across)
    every = [*rows, *ways]
    scale, axis = alt.Scale(zero=False), alt.Axis(tickCount=8)
    if across == "kl_seq":
        # Near 0 a little KL buys much: over the square root the frontier starts out straight.
        scale, axis = alt.Scale(type="sqrt", domainMin=0), alt.Axis(values=KL_TICKS, format="~g")
    x = alt.X("x:Q", title=x_title, scale=scale, axis=axis)
    y = alt.Y("y:Q", title=measure, scale=alt.Scale(zero=False))
    layers: list[Any] = []
    if not line.empty:
        layers += _reachable(line, x, y, measure)
    if ways:
        layers += _paths(ways, every, x, y, measure)
    return finish(alt.layer(*layers, *_ends(rows, every, x, y, (x_title, measure))))


def leading(rows: list[dict[str, Any]], less: bool) -> list[dict[str, Any]]:
    """Returns the rows with `leads`: whether no other has more `y` at an `x` as good or better.

    Of those whose names would lie on each other, the one with more `y` leads.

    Args:
        rows: with `x` and `y`.
        less: whether a smaller `x` is the better one.
    """
    sign = 1 if less else -1

    def beaten(row: dict[str, Any]) -> bool:
        return any(r["y"] > row["y"] and sign * r["x"] <= sign * row["x"] for r in rows)

    x, y = (np.array([row[name] for row in rows], float) for name in ("x", "y"))
    x = np.sqrt(x) if less else x  # as it is drawn
    wide, high = (max(float(np.ptp(v)), 1e-9) if len(v) else 1.0 for v in (x, y))
    named: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: -y[i]):
        near = any(abs(x[i] - x[j]) < 0.15 * wide and abs(y[i] - y[j]) < 0.05 * high for j in named)
        if not beaten(rows[i]) and not near:
            named.append(i)
    return [{**row, "leads": i in named} for i, row in enumerate(rows)]


def _ends(
    rows: list[dict[str, Any]],
    every: list[dict[str, Any]],
    x: Any,
    y: Any,
    titles: tuple[str, str],
) -> list[Any]:
    """Draws where agents came to, with the intervals both ways and their names.

    Args:
        rows: one per agent.
        every: every row of the chart, which shares its colours.
        x: the chart's encoding.
        y: likewise.
        titles: of x and y.
    """
    base = alt.Chart(data(rows))
    rule = {"color": colour(every), "opacity": focused(0.4)}
    upright = {"y": alt.Y("y_low:Q", title=titles[1]), "y2": "y_high:Q"}
    across = {"x": alt.X("x_low:Q", title=titles[0]), "x2": "x_high:Q"}
    layers = [base.mark_rule(strokeWidth=1.2).encode(x=x, **upright, **rule)]
    known = [row for row in rows if _known(row.get("x_low"))]
    if known:
        sides = alt.Chart(data(known)).mark_rule(strokeWidth=1.2)
        layers.append(sides.encode(y=y, **across, **rule))
    shown = tooltip(
        ("agent:N", "agent", ""),
        ("y:Q", titles[1], ".3f"),
        ("y_low:Q", "95% from", ".3f"),
        ("y_high:Q", "to", ".3f"),
        ("x:Q", titles[0].split(" (")[0], ".3g"),
    )
    point = base.mark_point(filled=True, size=90).encode(
        x=x, y=y, color=colour(every), shape=shape(every), opacity=focused(), tooltip=shown
    )
    return [*layers, point, labels(base.encode(x=x, y=y), rows)]


def _reachable(line: pd.DataFrame, x: Any, y: Any, measure: str) -> list[Any]:
    """Draws what can be reached: a line and its band, or dashes where only points are known."""
    path = line.reset_index(drop=True).assign(order=range(len(line)))
    base = alt.Chart(data(rows_of(path))).encode(x=x)
    shown = tooltip(("y:Q", f"best {measure}", ".3g"), ("x:Q", "at", ".3g"))
    if "y_low" in line:
        band = base.mark_area(opacity=0.15, color="INK")
        layers = [band.encode(y=alt.Y("y_low:Q", title=measure), y2="y_high:Q")]
    elif "order" in line:
        layers = []
    else:
        dash = base.mark_point(shape="stroke", size=160, strokeWidth=2, color="INK")
        return [dash.encode(y=y, tooltip=shown)]
    return [
        *layers,
        base.mark_line(color="INK", strokeWidth=1.5).encode(y=y, order="order:Q"),
        base.mark_point(opacity=0, size=60).encode(y=y, tooltip=shown),
    ]


def _ways(results: Results, task: str, measure: str, across: str) -> list[dict[str, Any]]:
    """Returns the checkpoints of every agent, the means over its seeds."""
    same = ("agent", "family", "step", "completions")
    names = dict(zip(same, same, strict=True)) | {"x": across, "y": measure}
    return [
        {name: row[of] for name, of in names.items()}
        for row in results.ways(task)
        if _known(row.get(across)) and _known(row.get(measure))
    ]


def _paths(
    ways: list[dict[str, Any]], every: list[dict[str, Any]], x: Any, y: Any, measure: str
) -> list[Any]:
    """Draws the checkpoints, a thin line per agent; `every` row of the chart shares its colours."""
    base = alt.Chart(data(ways)).encode(x=x, y=y, color=colour(every), detail="agent:N")
    shown = tooltip(
        ("agent:N", "agent", ""),
        ("completions:Q", "completions", "d"),
        ("y:Q", measure, ".3f"),
        ("x:Q", "at", ".3g"),
    )
    return [
        base.mark_line(strokeWidth=1).encode(order="step:Q", opacity=focused(0.35)),
        base.mark_point(filled=True, size=14).encode(opacity=focused(0.6), tooltip=shown),
    ]
