"""How agents came there: learning curves, over-optimization, and what is left among k tries."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from textgym.benchmarks.exact import EXACT
from textgym.benchmarks.page.charts import (
    BY_PLACE,
    FEW,
    FOCUS,
    Figure,
    Spec,
    beside,
    by_family,
    colour,
    data,
    finish,
    focused,
    ordered,
    plain_spec,
    tooltip,
)
from textgym.benchmarks.page.data import FEWEST, Results, Run
from textgym.benchmarks.report import rows_of
from textgym.benchmarks.trade_offs import TradePath
from textgym.functional.best_of_n import best_of_n_weights
from textgym.metrics.overoptimization import features

GRID = 40
"""Points of a drawn fit."""
BEFORE = "the reference, before"
MEASURED = {
    "reward": "reward",
    "gold": "gold",
    "kl_seq": "KL (nats per response)",
    "kept": "diversity kept (EAD)",
}
"""What checkpoints tell, and how the chart calls it."""
LOGGED = {
    "reward": "reward, as logged",
    f"{EXACT}regret": "regret, enumerated (nats)",
    f"{EXACT}reward": "reward, enumerated",
    f"{EXACT}kl_seq": "KL, enumerated (nats per response)",
    f"{EXACT}entropy_kept": "entropy kept, enumerated",
}
"""What agents and the harness log at every step."""


def learning(results: Results, task: str) -> Figure:
    """Draws reward, gold, KL and diversity while agents train, with bands over seeds."""
    variants: dict[str, Spec] = {}
    measured = results.checkpoints(task)
    for name, title in MEASURED.items():
        if name in measured and measured[name].notna().any():
            variants[title] = _curves(results, measured.rename(columns={name: "y"}), title)
    logged = [table for run in results.of(task) if (table := _logged(run)) is not None]
    table = pd.concat(logged, ignore_index=True) if logged else pd.DataFrame()
    for name, title in LOGGED.items():
        if name in table and table[name].notna().any():
            found = table[["agent", "seed", "completions", name]].rename(columns={name: "y"})
            variants[title] = _curves(results, found.dropna(), title)
    if not variants:
        return Figure("learning", task, missing="No agent of this task logged a curve.")
    note = "Line: mean over seeds. Band: from the lowest seed to the highest."
    if measured.empty:
        note += " No checkpoints were kept: gold and diversity in training are not known."
    return Figure("learning", task, variants, note)


def _logged(run: Run) -> pd.DataFrame | None:
    """Returns a run's log by completions used, at most about sixty rows of it."""
    table = run.table("curve")
    if table is None:
        return None
    names = [name for name in LOGGED if name in table]
    used = run.result.get("budget", {}).get("used", 0)
    if not names or not used:
        return None
    steps = np.arange(1, len(table) + 1)
    thin = table[names].assign(
        agent=run.agent, seed=run.seed, completions=steps * used / len(table)
    )
    return thin.iloc[:: max(1, len(thin) // 60)]


def _curves(results: Results, table: pd.DataFrame, title: str) -> Spec:
    whole = table.dropna(subset=["y"])
    seeds = whole.groupby("agent")["seed"].nunique()
    grouped = whole.groupby(["agent", "completions"], as_index=False)["y"]
    means = grouped.agg(y="mean", low="min", high="max", count="count")
    # A point that only some seeds have would bend the line.
    means = means[means["count"] == means["agent"].map(seeds)]
    rows = by_family(results, rows_of(means))
    ticks = alt.Axis(tickCount=6)
    x = alt.X("completions:Q", title="completions sampled and scored", axis=ticks)
    y = alt.Y("y:Q", title=title, scale=alt.Scale(zero=False))
    base = alt.Chart(data(rows)).encode(x=x, detail="agent:N")
    shown = tooltip(
        ("agent:N", "agent", ""),
        ("completions:Q", "completions", ",.0f"),
        ("y:Q", title, ".3g"),
        ("low:Q", "lowest seed", ".3g"),
        ("high:Q", "highest", ".3g"),
    )
    few = len(seeds) <= FEW  # of many agents only the highlighted one's band can be read
    seen = alt.condition(FOCUS if few else "datum.agent == focus", alt.value(0.2), alt.value(0))
    band = base.mark_area().encode(
        y=alt.Y("low:Q", title=title), y2="high:Q", color=colour(rows), opacity=seen
    )
    line = base.mark_line(strokeWidth=1.6).encode(y=y, color=colour(rows), opacity=focused())
    points = base.mark_point(size=30, filled=True).encode(
        y=y, color=colour(rows), opacity=focused(0.7), tooltip=shown
    )
    return finish(alt.layer(band, line, points, beside(rows, "completions", x, title)))


def best_of_k(results: Results, task: str) -> Figure:
    """Draws the expected best of k responses to a prompt, before training and after."""
    variants: dict[str, Spec] = {}
    kept = [(run, table) for run in results.of(task) if (table := run.table("samples")) is not None]
    for measure in ("reward", "gold"):
        found: dict[str, list[list[float]]] = {}
        for run, samples in kept:
            if measure in samples:
                name = BEFORE if run.is_reference else run.agent
                found.setdefault(name, []).append(_by_k(samples, "prompt_index", measure))
        most = max((len(runs[0]) for runs in found.values()), default=0)
        pools = [p for p in results.pools(task, "seed-*") if measure in p]
        if pools and most:
            found[BEFORE] = [_by_k(pool, "prompt", measure, most) for pool in pools]
        if most > 1:
            variants[measure] = _tries(results, found, measure)
    if not variants:
        why = "Best-of-k needs the samples, and this folder keeps none of this task."
        if kept:
            why = "One sample per prompt was drawn, so there is no best of k."
        return Figure("best-of-k", task, missing=why)
    return Figure("best-of-k", task, variants)


def _by_k(samples: pd.DataFrame, prompt: str, measure: str, most: int | None = None) -> list[float]:
    """Returns the expected best of k = 1..K, the mean over prompts."""
    groups = [group.to_numpy(float) for _, group in samples.groupby(prompt)[measure]]
    k = min(map(len, groups))
    # Equal scores share their weights, which changes no mean: those of 1..M serve all prompts.
    scores = np.sort([group[:k] for group in groups])
    return [
        float((scores @ best_of_n_weights(np.arange(k), n)).mean())
        for n in range(1, min(k, most or k) + 1)
    ]


def _tries(results: Results, found: dict[str, list[list[float]]], measure: str) -> Spec:
    rows: list[dict[str, Any]] = []
    for agent, runs in found.items():
        for k, values in enumerate(zip(*runs, strict=False), start=1):
            rows.append({"agent": agent, "k": k, "y": float(np.mean(values))})
    before = [row for row in rows if row["agent"] == BEFORE]
    after = by_family(results, [row for row in rows if row["agent"] != BEFORE])
    most = max(row["k"] for row in rows)
    powers = [2**i for i in range(most.bit_length())]
    axis = alt.Axis(values=powers, format="d")
    scale = alt.Scale(type="log", base=2, domainMax=most)
    x = alt.X("k:Q", title="k, responses to a prompt", scale=scale, axis=axis)
    title = f"best {measure} among k"
    y = alt.Y("y:Q", title=title, scale=alt.Scale(zero=False))
    shown = tooltip(("agent:N", "agent", ""), ("k:Q", "k", "d"), ("y:Q", title, ".3f"))
    base = alt.Chart(data(before)).encode(x=x, y=y)
    layers = [
        base.mark_line(color="INK", strokeWidth=3, strokeDash=[6, 3]),
        base.mark_point(color="INK", filled=True).encode(tooltip=shown),
    ]
    if after:
        base = alt.Chart(data(after)).encode(x=x, y=y, detail="agent:N", color=colour(after))
        layers += [
            base.mark_line(strokeWidth=1.6).encode(opacity=focused(0.8)),
            base.mark_point(filled=True, size=30).encode(opacity=focused(0.7), tooltip=shown),
        ]
    return finish(alt.layer(*layers, beside([*after, *before], "k", x, title)))


def over_optimization(results: Results, task: str, fits: pd.DataFrame) -> Figure:
    """Draws what proxy and gold gained against sqrt(KL), an agent a panel, with the fits.

    Args:
        results: the folder.
        task: its label.
        fits: as `textgym.benchmarks.trade_offs.fits` gives them.
    """
    rows: list[dict[str, Any]] = []
    for path in results.paths:
        several = len(path.completions) >= FEWEST
        if path.task == task and several and {"reward", "gold", "kl_seq"} <= set(path.values):
            rows += _gains(path)
    if not rows:
        missing = "It needs checkpoints with reward, gold and KL, and this task has none."
        return Figure("over-optimization", task, missing=missing)
    reach: dict[str, float] = {}
    for row in rows:
        reach[row["agent"]] = max(reach.get(row["agent"], 0.0), row["d"])
    rows += [row for fit in rows_of(fits) if fit["task"] == task for row in _fitted(fit, reach)]
    fitted = {row["agent"] for row in rows if row["kind"] != "dot"}
    # A layer without a row would have no scale: the start stands for a fit that there is not.
    start = {"d": 0.0, "y": 0.0, "score": "reward", "kind": "no fit"}
    rows += [{"agent": agent, **start} for agent in reach if agent not in fitted]
    note = (
        "What was gained over the reference. Dots: checkpoints, the mean over seeds. Lines: the "
        "fits, their coefficients and peaks in the tooltip, where there are enough checkpoints."
    )
    return Figure("over-optimization", task, {"by agent": _panels(ordered(rows))}, note)


def _gains(path: TradePath) -> list[dict[str, Any]]:
    """Returns what an agent has gained over the reference at each checkpoint."""
    d = np.sqrt(np.maximum(path.values["kl_seq"], 0))
    return [
        {"agent": path.agent, "d": float(x), "y": float(y), "score": score, "kind": "dot"}
        for score in ("reward", "gold")
        for x, y in zip(d, path.values[score] - path.values[score][0], strict=True)
    ]


def _fitted(fit: dict[str, Any], reach: dict[str, float]) -> list[dict[str, Any]]:
    """Returns the points of a fit, as far as the agent came."""
    law, agent = fit["law"], fit["agent"]
    grid = np.linspace(0, reach[agent], GRID)
    first, second = features(grid, law)
    told = " ".join(f"{n} {_told(fit, n)}" for n in ("a", "b", "peak"))
    return [
        {"agent": agent, "d": float(x), "y": float(y), "score": fit["score"], "kind": told}
        for x, y in zip(grid, fit["a"] * first + fit["b"] * second, strict=True)
    ]


def _told(fit: dict[str, Any], name: str) -> str:
    return f"{fit[name]:.3g} ({fit[name + '_low']:.3g} to {fit[name + '_high']:.3g})"


def _panels(rows: list[dict[str, Any]]) -> Spec:
    scale = alt.Scale(domain=["reward", "gold"], range=["#0072B2", "#E69F00"])
    base = alt.Chart().encode(
        x=alt.X("d:Q", title="√KL"),
        y=alt.Y("y:Q", title="gain"),
        color=alt.Color("score:N", scale=scale, legend=alt.Legend(title=None)),
    )
    shown = tooltip(
        ("agent:N", "agent", ""), ("score:N", "score", ""), ("d:Q", "√KL", ".3g"),
        ("y:Q", "gain", ".3f"),
    )  # fmt: skip
    dot = base.mark_point(filled=True, size=18, opacity=0.7).transform_filter("datum.kind == 'dot'")
    line = base.mark_line(strokeWidth=1.8).transform_filter("datum.kind != 'dot'")
    told = tooltip(("agent:N", "agent", ""), ("score:N", "score", ""), ("kind:N", "fit", ""))
    rule = alt.Chart().mark_rule(color="INK", opacity=0.4).encode(y=alt.datum(0))
    panel = alt.layer(rule, line.encode(tooltip=told), dot.encode(tooltip=shown), data=data(rows))
    chart = panel.properties(width=110, height=110).facet(
        facet=alt.Facet("agent:N", title=None, sort=BY_PLACE), columns=5
    )
    chart = chart.resolve_scale(x="independent")  # some come far, and most of them do not
    return plain_spec(chart.add_params(alt.param(name="focus", value="")))
