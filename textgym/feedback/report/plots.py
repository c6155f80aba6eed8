"""The report's pictures, for PNG files and, as SVG that takes on a page's colours, for HTML."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from textgym.errors import ConfigError
from textgym.feedback.report.calibration import Calibration
from textgym.feedback.report.names import one_line
from textgym.feedback.report.numbers import Estimate
from textgym.feedback.report.report import KindReport, RewardReport
from textgym.feedback.report.verdict import NO_GROUP

INK = "#101112"
"""Text and axes; on a page they take its text colour."""
COLOUR, OTHER = "#3A8FD0", "#8A8A8A"
"""Okabe and Ito's blue, lightened so that it shows on black too, and what it is held against."""
STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "textgym",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}
"""Names may hold dollar signs, which are no formulas."""
MOST_BARS = 20


def require_matplotlib() -> None:
    """Raises ConfigError without matplotlib, before anything is computed for nothing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError("reports need matplotlib: pip install 'textgym[plot]'") from None


@contextmanager
def drawing() -> Iterator[None]:
    """Draws and saves in the report's style, the same bytes every time."""
    require_matplotlib()
    from matplotlib import rc_context

    with rc_context(STYLE), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; that is no news to the user.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def figures(report: RewardReport) -> dict[str, Any]:
    """Returns the pictures that there are numbers for, by file name; call it in `drawing`."""
    found: dict[str, Any] = {}
    for kind, measured in report.kinds.items():
        found[f"agreement-{kind}"] = _agreement(kind, measured)
        if len(measured.groups) > 1:
            groups = {name or NO_GROUP: e for name, e in measured.groups.items()}
            found[f"groups-{kind}"] = _bars(
                f"{measured.measure} by group", groups, measured.measure, measured.overall
            )
    if report.pairs is not None:
        overall = report.kinds["pairwise"].overall
        found["calibration"] = _calibration(report.pairs.calibration)
        title = "accuracy by |score difference|"
        found["margin"] = _bars(title, report.pairs.margins, "accuracy", overall)
        title = "accuracy by length of the preferred response"
        found["length"] = _bars(title, report.pairs.length_differences, "accuracy", overall)
    found["score-length"] = _scatter(report, "length", "length (characters)")
    if "gold" in report.points:
        found["gold"] = _scatter(report, "gold", "gold score")
    return {name: figure for name, figure in found.items() if figure is not None}


def save_png(figure: Any, path: Path) -> None:
    """Writes a picture on white."""
    figure.savefig(path, dpi=150, facecolor="white", metadata={"Software": None})


def svg(figure: Any, label: str) -> str:
    """Returns a picture as an SVG element without a background, in the page's text colour."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    element = text[text.index("<svg") :].replace(INK, "currentColor")
    return element.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _canvas(height: float, title: str) -> tuple[Any, Any]:
    """Returns a figure narrow enough for a telephone and its axes; `height` in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, height), layout="constrained")
    axes = figure.subplots()
    figure.suptitle(title, fontsize=10)  # wider than the axes, where long names take room
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.5", alpha=0.25, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _agreement(kind: str, k: KindReport) -> Any:
    named = {
        "reward": k.overall,
        "longer": k.baselines["longer"],
        "shorter": k.baselines["shorter"],
    }
    if "gold" in k.baselines:
        named["gold"] = k.baselines["gold"]
    named |= {f"reward, {name}": e for name, e in k.off_distribution.items()}
    return _bars(f"{k.measure}, {kind} answers", named, k.measure, k.baselines["chance"], "chance")


def _bars(
    title: str,
    named: Mapping[str, Estimate],
    measure: str,
    line: Estimate,
    line_label: str = "all answers",
) -> Any:
    """Draws estimates with their intervals, the first on top, and a line to hold them against."""
    known = [(name, e, e.value) for name, e in named.items() if e.value is not None][:MOST_BARS]
    if not known:
        return None
    figure, axes = _canvas(1.1 + 0.32 * len(known), title)
    for y, (_, estimate, value) in enumerate(known):
        axes.plot(value, y, "o", color=COLOUR, ms=6, zorder=3)
        if estimate.low is not None and estimate.high is not None:
            axes.plot([estimate.low, estimate.high], [y, y], color=COLOUR, lw=2.5, zorder=2)
    if line.value is not None:
        axes.axvline(line.value, color=OTHER, ls="--", lw=1.2, label=line_label)
        axes.legend(frameon=False, fontsize=8, loc="best")
    axes.set_yticks(range(len(known)), [one_line(name, 28) for name, _, _ in known])
    axes.set(ylim=(len(known) - 0.4, -0.6), xlabel=measure)
    if measure == "accuracy":
        axes.set_xlim(min(0.4, *(e.low or v for _, e, v in known)) - 0.02, 1.02)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return figure


def _calibration(calibration: Calibration) -> Any:
    figure, axes = _canvas(3.6, "calibration of the score difference")
    axes.plot([0.5, 1], [0.5, 1], color=OTHER, ls="--", lw=1.2, label="calibrated")
    expected = [b.confidence for b in calibration.bins]
    observed = [b.agreement.value for b in calibration.bins]
    for b in calibration.bins:
        if b.agreement.low is not None:
            ends = [b.agreement.low, b.agreement.high]
            axes.plot([b.confidence] * 2, ends, color=COLOUR, lw=1.5, alpha=0.6)
    axes.plot(expected, observed, "o-", color=COLOUR, ms=5, label="reward")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set(xlabel="sigmoid(|score difference|)", ylabel="annotators agree", xlim=(0.48, 1.02))
    axes.legend(frameon=False, fontsize=8, loc="best")
    return figure


def _scatter(report: RewardReport, name: str, label: str) -> Any:
    figure, axes = _canvas(3.4, f"score against {name}")
    x, y = report.points[name], report.points["score"]
    axes.plot(x, y, "o", color=COLOUR, ms=3, alpha=0.5, mew=0)
    axes.set(xlabel=label, ylabel="score")
    return figure
