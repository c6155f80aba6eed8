"""Agents held against each other: diversity loss per metric and at equal terms, voices, seeds."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from textgym.benchmarks.intervals import LOSS
from textgym.benchmarks.measure import HEADLINE
from textgym.benchmarks.page.charts import (
    BY_PLACE,
    FEW,
    FOCUS,
    ROW,
    Figure,
    Spec,
    bounded,
    by_family,
    data,
    dots,
    finish,
    ordered,
    tooltip,
)
from textgym.benchmarks.page.data import Results, Run
from textgym.benchmarks.page.glossary import METRICS
from textgym.benchmarks.page.table import ranked_by
from textgym.benchmarks.report import rows_of
from textgym.metrics.stats import probability_of_improvement

SHARE = "mode_share/"
VOICES = (
    "#0072b2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
    "#999999",
)
"""Okabe and Ito's colours and a grey, the same on a dark page: sky blue is close to the blue that
lines have there (`textgym.benchmarks.page.charts.own_colours`, which looks at capitals)."""
RESAMPLES = 200


def loss_by_metric(results: Results, task: str) -> Figure:
    """Draws every diversity metric's loss with its interval, the least first."""
    rows = results.rows(task)
    names = [str(n) for n in results.board if str(n).startswith(LOSS)]
    metrics = [n for n in names if not n.endswith(("_low", "_high"))]
    # Where responses are enumerated, diversity is the entropy itself.
    first = [LOSS + name for name in ("entropy", HEADLINE)]
    metrics.sort(key=lambda name: first.index(name) if name in first else len(first))
    variants = {}
    for name in metrics:
        found = [{"agent": r["agent"], **bounded(r, name, "v")} for r in rows]
        drawn = [
            {"agent": f["agent"], "value": f["v"], "low": f["v_low"], "high": f["v_high"]}
            for f in found
            if f["v"] is not None and np.isfinite(f["v"])
        ]
        if drawn:
            short = METRICS.get(name.removeprefix(LOSS), (name.removeprefix(LOSS),))[0]
            title = f"diversity loss, {short}"
            variants[short] = dots(by_family(results, drawn), title, percent=True)
    if not variants:
        return Figure("losses", task, missing="Nobody's diversity was measured on this task.")
    return Figure("losses", task, variants)


BY = {"kl_seq": ("KL", "nats"), "reward": ("reward", "")}
"""What is held equal, and its unit."""


def at_equal_terms(
    results: Results, task: str, matched: pd.DataFrame, volumes: pd.DataFrame
) -> Figure:
    """Draws diversity loss where agents have the same KL or reward, and the areas they cover.

    Args:
        results: the folder.
        task: its label.
        matched: as `textgym.benchmarks.trade_offs.matched` gives them.
        volumes: likewise `volumes`.
    """
    variants = {}
    own = matched[(matched["task"] == task) & matched["loss"].notna()]
    for (by, level), group in own.groupby(["by", "level"], sort=False):
        name, unit = BY[str(by)]
        title = f"{name} {float(str(level)):.3g} {unit}".strip()
        rows = by_family(results, rows_of(group.rename(columns={"loss": "value"})))
        variants[title] = dots(rows, f"diversity loss (EAD) at {title}", percent=True)
    area = volumes[(volumes["task"] == task) & volumes["volume"].notna()]
    if len(area):
        rows = by_family(results, rows_of(area.rename(columns={"volume": "value"})))
        title = f"hypervolume: {area['score'].iloc[0]} gained x diversity kept"
        variants["hypervolume"] = dots(rows, title)
    if not variants:
        missing = "No agent of this task left checkpoints to read equal KL or reward from."
        return Figure("matched", task, missing=missing)
    note = "An agent that never came as far is left out."
    return Figure("matched", task, variants, note)


def voices(results: Results, task: str) -> Figure:
    """Draws the share of each voice among the responses, the reference on top."""
    shares: dict[str, list[dict[str, float]]] = {}
    for run in results.of(task):
        found = _shares(run)
        if found:
            shares.setdefault(run.agent, []).append(found)
    if not shares:
        return Figure("voices", task, missing="This task's responses have no voices to tell apart.")
    names = list(dict.fromkeys(name for runs in shares.values() for run in runs for name in run))
    means = {
        agent: {name: float(np.mean([run.get(name, 0.0) for run in runs])) for name in names}
        for agent, runs in shares.items()
    }
    first = {run.agent for run in results.reference(task)}
    top = max(names, key=lambda name: max(mean[name] for mean in means.values()))
    agents = sorted(means, key=lambda a: (a not in first, means[a][top]))
    names.sort(key=lambda name: -sum(mean[name] for mean in means.values()))
    rows = [
        {"agent": agent, "voice": name, "share": means[agent][name], "order": names.index(name)}
        for agent in agents
        for name in names
    ]
    spec = _stacked(ordered(rows), len(agents), names)
    return Figure("voices", task, {"voices": spec}, _voice_note(first))


def _voice_note(first: set[str]) -> str:
    if not first:
        return "The reference itself is no row of this folder."
    return f"Before training is on top: {', '.join(sorted(first))}."


def _shares(run: Run) -> dict[str, float]:
    metrics = run.result.get("metrics", {})
    return {
        name.removeprefix(SHARE): entry["value"]
        for name, entry in metrics.items()
        if name.startswith(SHARE) and entry.get("value") is not None
    }


def _stacked(rows: list[dict[str, Any]], agents: int, names: list[str]) -> Spec:
    palette = [VOICES[i % len(VOICES)] for i in range(len(names))]
    scale = alt.Scale(domain=names, range=palette)
    shown = tooltip(("agent:N", "agent", ""), ("voice:N", "voice", ""), ("share:Q", "share", ".1%"))
    return finish(
        alt.Chart(data(rows))
        .mark_bar(stroke="PAPER", strokeWidth=0.5)
        .encode(
            x=alt.X(
                "share:Q",
                title="share of responses",
                axis=alt.Axis(format="%", tickCount=5),
                scale=alt.Scale(domain=[0, 1]),
                stack="zero",
            ),
            y=alt.Y("agent:N", sort=BY_PLACE, title=None),
            color=alt.Color("voice:N", scale=scale, legend=alt.Legend(title=None)),
            order="order:Q",
            opacity=alt.condition(FOCUS, alt.value(1), alt.value(0.3)),
            tooltip=shown,
        ),
        height=ROW * agents,
    )


def improvement(results: Results, task: str) -> Figure:
    """Draws how often a run of one agent beats a run of another."""
    ranked = ranked_by(results, task)
    if ranked is None:
        return Figure("improvement", task, missing="This task has nothing to rank by.")
    metric, more_is_better = ranked
    scores: dict[str, list[float]] = {}
    for run in results.of(task):
        if metric in run.prompts:
            scores.setdefault(run.agent, []).append(float(run.prompts[metric].mean()))
    several = {agent: np.array(runs)[:, None] for agent, runs in scores.items() if len(runs) > 1}
    if len(several) < 2:
        missing = "It compares runs of several seeds, and no two agents of this task have them."
        return Figure("improvement", task, missing=missing)
    sign = 1 if more_is_better else -1
    agents = sorted(several, key=lambda agent: -sign * float(several[agent].mean()))
    rows: list[dict[str, Any]] = []
    for i, one in enumerate(agents):
        for j, other in enumerate(agents[i + 1 :], start=i + 1):
            found = probability_of_improvement(
                sign * several[one],
                sign * several[other],
                np.random.default_rng(0),
                resamples=RESAMPLES,
            )
            p, low, high = found.estimate, found.low, found.high
            pair = {"agent": one, "other": other, "place": i, "other_place": j}
            turned = {"agent": other, "other": one, "place": j, "other_place": i}
            rows.append({**pair, "p": p, "low": low, "high": high})
            rows.append({**turned, "p": 1 - p, "low": 1 - high, "high": 1 - low})
    note = f"By {metric}, in percent. Rows against columns, best first."
    return Figure("improvement", task, {metric: _matrix(rows, len(agents))}, note)


def _matrix(rows: list[dict[str, Any]], agents: int) -> Spec:
    scale = alt.Scale(domain=[0, 0.5, 1], range=["#E69F00", "#f2f2f2", "#56B4E9"])
    shown = tooltip(
        ("agent:N", "run of", ""),
        ("other:N", "against", ""),
        ("p:Q", "beats it", ".0%"),
        ("low:Q", "95% from", ".0%"),
        ("high:Q", "to", ".0%"),
    )
    base = alt.Chart(data(rows)).encode(
        x=alt.X(
            "other:N",
            sort=alt.EncodingSortField(field="other_place", op="min"),
            title=None,
            axis=alt.Axis(labelAngle=-90, labelLimit=130, orient="top"),
        ),
        y=alt.Y("agent:N", sort=BY_PLACE, title=None),
        opacity=alt.condition(FOCUS, alt.value(1), alt.value(0.25)),
    )
    legend = alt.Legend(title="row beats column", format="%", gradientLength=160)
    filled = alt.Color("p:Q", scale=scale, legend=legend)
    layers = [base.mark_rect().encode(color=filled, tooltip=shown)]
    if agents <= FEW:
        percent = base.transform_calculate(percent="round(100 * datum.p)")
        layers.append(percent.mark_text(color="black").encode(text="percent:Q"))
    return finish(alt.layer(*layers), height=ROW * agents)
