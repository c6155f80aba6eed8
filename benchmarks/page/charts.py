"""What all charts share: a figure's record, colours and shapes by family, one agent highlighted."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import altair as alt

from textgym.benchmarks.page.data import FAMILIES, Results, records

Spec = dict[str, Any]
"""A Vega-Lite specification."""

INK, PAPER = "#1c1e21", "#ffffff"
DARK_INK, DARK_PAPER = "#e6e8ea", "#16181b"
WIDTH, HEIGHT = 560, 340
"""Pixels of a chart in a PNG; on the page the width is the page's."""
ROW = 17
"""Pixels of a row in charts that have one for each agent."""
BY_PLACE = alt.EncodingSortField(field="place", op="min", order="ascending")
"""How agents are ordered: a list of names would end up inside an expression, whatever they hold."""
FEW = 8
"""Agents up to which every one is labelled in the chart."""
NAMES_WITHIN = ("datasets", "values", "domain", "sort")
"""Parts of a specification that hold names of agents, which may be called as a colour is."""
FOCUS = "focus == '' || datum.agent == focus"
"""Whether a mark is drawn in full: nothing is highlighted, or its agent is."""


@dataclass(frozen=True)
class Figure:
    """A chart of one task.

    Attributes:
        section: the chart's place on the page, see `SECTIONS` in `textgym.benchmarks.page.build`.
        task: its label.
        variants: a specification by the name of what it shows; the page offers the choice.
        note: what a reader of the chart must know.
        missing: why there is no chart, where there is none.
    """

    section: str
    task: str
    variants: dict[str, Spec] = field(default_factory=dict)
    note: str = ""
    missing: str = ""


def theme(dark: bool = False) -> dict[str, Any]:
    """Returns the Vega-Lite configuration of a light or dark page."""
    ink, paper = (DARK_INK, DARK_PAPER) if dark else (INK, PAPER)
    soft, line = ("#a3a9b1", "#33373d") if dark else ("#5a6068", "#dfe2e6")
    text: dict[str, Any] = {"labelColor": soft, "titleColor": ink, "titleFontWeight": "normal"}
    text |= {"labelFontSize": 12, "titleFontSize": 12}
    return {
        "background": paper,
        "font": "system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif",
        "view": {"stroke": None},
        "axis": {**text, "gridColor": line, "domainColor": line, "tickColor": line},
        "legend": {
            **text,
            "labelColor": ink,
            "orient": "top",
            "symbolSize": 70,
            "symbolOpacity": 1,
        },
        "header": {**text, "labelColor": ink},
        "title": {"color": ink, "fontWeight": "normal", "anchor": "start"},
        "text": {"color": ink, "fontSize": 12},
    }


def own_colours(dark: bool = False) -> dict[str, str]:
    """Returns the colours of a light or dark page for those that a specification names."""
    # The blue of the palette is too dark to be told from a dark page's ground.
    dark_names = {"INK": DARK_INK, "PAPER": DARK_PAPER, "#0072B2": "#4BA3E3"}
    return dark_names if dark else {"INK": INK, "PAPER": PAPER}


def themed(spec: Spec, dark: bool = False) -> Spec:
    """Returns a copy in the colours of a light or dark page."""
    colours = own_colours(dark)

    def recolour(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: v if k in NAMES_WITHIN else recolour(v) for k, v in value.items()}
        if isinstance(value, list):
            return [recolour(item) for item in value]
        return colours.get(value, value) if isinstance(value, str) else value

    made: Spec = recolour(copy.deepcopy(spec))
    return {**made, "config": theme(dark)}


def finish(chart: Any, width: int = WIDTH, height: int = HEIGHT) -> Spec:
    """Returns a layered or single chart's specification, with what highlights an agent."""
    chart = chart.properties(width=width, height=height)
    return plain_spec(chart.add_params(alt.param(name="focus", value="")))


def plain_spec(chart: Any) -> Spec:
    """Returns a chart's specification without colours of a page."""
    spec: Spec = chart.to_dict(validate=False)
    # The page and vl-convert bring one version of Vega-Lite each; the schema's would only warn.
    for own in ("config", "$schema"):
        spec.pop(own, None)
    return shared(spec)


def shared(spec: Spec) -> Spec:
    """Returns a specification in which layers of the same rows name one data set."""
    sets: dict[str, tuple[str, list[Any]]] = {}

    def named(value: Any) -> Any:
        if isinstance(value, list):
            return [named(item) for item in value]
        if not isinstance(value, dict):
            return value
        if set(value) == {"values"} and isinstance(value["values"], list):
            name = f"data-{len(sets)}"
            return {
                "name": sets.setdefault(json.dumps(value["values"]), (name, value["values"]))[0]
            }
        return {key: named(part) for key, part in value.items()}

    made = named(spec)
    return {**made, "datasets": dict(sets.values())}


def data(rows: Iterable[dict[str, Any]]) -> alt.Data:
    """Returns inline data, numbers to four digits."""
    return alt.Data(values=records(rows))  # type: ignore[no-untyped-call]


def by_family(results: Results, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows with the family of their agent."""
    return [{**row, "family": results.family(row["agent"])} for row in rows]


def colour(rows: list[dict[str, Any]]) -> alt.Color:
    """Returns the colour of a mark: its agent's family, of those that are there."""
    there = _families(rows)
    scale = alt.Scale(domain=there, range=[FAMILIES[f][0] for f in there])
    return alt.Color("family:N", scale=scale, legend=alt.Legend(title=None))


def shape(rows: list[dict[str, Any]]) -> alt.Shape:
    """Returns the shape of a mark, which says what the colour says."""
    there = _families(rows)
    scale = alt.Scale(domain=there, range=[FAMILIES[f][1] for f in there])
    return alt.Shape("family:N", scale=scale, legend=alt.Legend(title=None))


def _families(rows: list[dict[str, Any]]) -> list[str]:
    found = {row["family"] for row in rows}
    return [name for name in FAMILIES if name in found]


def focused(strong: float = 0.9, weak: float = 0.08) -> Any:
    """Returns the opacity of a mark by whether its agent is highlighted."""
    return alt.condition(FOCUS, alt.value(strong), alt.value(weak))


def beside(rows: list[dict[str, Any]], along: str, x: Any, title: str) -> Any:
    """Returns the agents' names at the ends of their lines, moved apart where they would meet.

    Args:
        rows: the points of every line.
        along: what of a row is its x.
        x: the chart's encoding of x.
        title: of y.
    """
    last: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row[along]):
        last[row["agent"]] = row
    values = [row["y"] for row in rows]
    gap = 0.05 * (max(values) - min(values)) if len(last) <= FEW else 0.0
    placed: list[dict[str, Any]] = []
    for row in sorted(last.values(), key=lambda row: row["y"]):
        least = placed[-1]["y"] + gap if placed else row["y"]
        placed.append({"agent": row["agent"], along: row[along], "y": max(row["y"], least)})
    base = alt.Chart(data(placed)).encode(x=x, y=alt.Y("y:Q", title=title))
    return labels(base, rows, dx=8, dy=0)


def labels(base: Any, rows: list[dict[str, Any]], **offsets: Any) -> Any:
    """Returns the agents' names beside their marks: of all where they are few.

    Else of the one that is looked at, or of the rows that `leads` marks while none is.
    """
    few = len({row["agent"] for row in rows}) <= FEW
    shown = FOCUS if few else "focus == '' ? datum.leads : datum.agent == focus"
    return base.mark_text(**{"align": "left", "dx": 8, "dy": -6, "color": "INK", **offsets}).encode(
        text="agent:N", opacity=alt.condition(shown, alt.value(1), alt.value(0))
    )


def tooltip(*fields: tuple[str, str, str]) -> list[alt.Tooltip]:
    """Returns tooltip lines from (field with type, title, number format or empty)."""
    return [
        alt.Tooltip(name, title=title, format=form) if form else alt.Tooltip(name, title=title)
        for name, title, form in fields
    ]


def bounded(row: dict[str, Any], metric: str, into: str) -> dict[str, Any]:
    """Returns a leaderboard row's metric and the ends of its interval, under another name."""
    ends = {"": metric, "_low": f"{metric}_low", "_high": f"{metric}_high"}
    return {into + end: row.get(name) for end, name in ends.items()}


def ordered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows with the `place` of their agent: the order in which agents come first."""
    names = list(dict.fromkeys(row["agent"] for row in rows))
    places = {name: place for place, name in enumerate(names)}
    return [{**row, "place": places[row["agent"]]} for row in rows]


def dots(
    rows: list[dict[str, Any]],
    title: str,
    *,
    percent: bool = False,
    mark_at: float | None = 0,
) -> Spec:
    """Returns a dot for each agent with its interval, the least on top.

    Args:
        rows: `agent`, `family`, `value`, `low` and `high` each.
        title: of the axis.
        percent: whether numbers are shares.
        mark_at: where a line is drawn to hold them against, or None.
    """
    rows = ordered(sorted(rows, key=lambda row: row["value"]))
    form = ".1%" if percent else ".3g"
    y = alt.Y("agent:N", sort=BY_PLACE, title=None, axis=alt.Axis(grid=False))
    axis = alt.Axis(format="%", tickCount=6) if percent else alt.Axis(tickCount=6)
    base = alt.Chart(data(rows)).encode(y=y)
    x = alt.X("value:Q", title=title, axis=axis, scale=alt.Scale(zero=False))
    shown = tooltip(
        ("agent:N", "agent", ""),
        ("value:Q", title, form),
        ("low:Q", "95% from", form),
        ("high:Q", "to", form),
    )
    layers = [
        base.mark_rule(strokeWidth=2.5).encode(
            x=alt.X("low:Q", title=title, axis=axis),
            x2="high:Q",
            color=colour(rows),
            opacity=focused(0.6),
        ),
        base.mark_point(filled=True, size=70).encode(
            x=x, color=colour(rows), shape=shape(rows), opacity=focused(), tooltip=shown
        ),
    ]
    if mark_at is not None:
        rule = alt.Chart(data([{"at": mark_at}])).mark_rule(color="INK", strokeDash=[3, 3])
        layers.insert(0, rule.encode(x=alt.X("at:Q", title=title, axis=axis)))
    return finish(alt.layer(*layers), height=ROW * len(rows))
