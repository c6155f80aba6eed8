"""Draws the study of over-optimisation: proxy and gold against sqrt(KL), in small multiples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from textgym.benchmarks.studies.laws import Found, Path, mean_path
from textgym.benchmarks.studies.overoptimization_told import NAMES
from textgym.benchmarks.studies.proxies import FLIPS, KEYWORD, LABELS, LAYERS, LENGTH, NONE
from textgym.benchmarks.studies.pursuit import BEST_OF_N, METHODS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
"""Okabe and Ito's, which the colour-blind tell apart."""
OF_METHOD = dict(zip(NAMES, ("#000000", *COLOURS), strict=False))
INCHES = (8.4, 5.9)
FURTHEST = 6.0
"""Distance at which panels are cut: a policy that has gone further is lost."""
Lines = Mapping[str, tuple[str, Sequence[Path]]]
"""A panel's lines: label -> colour and the paths whose mean is drawn."""


def draw(found: Found, figure: Figure) -> None:
    """Draws three rows: best-of-n and trained methods by labels; biases, size and noise."""
    figure.set_size_inches(*INCHES)
    axes = figure.subplots(3, len(LABELS), sharey=True)
    panels = [*_best_of_n(found), *_trained(found), *_others(found)]
    for place, (title, lines) in zip(axes.flat, panels, strict=True):
        for label, (colour, paths) in lines.items():
            if paths:
                _draw_mean(place, paths, colour, label)
        place.axhline(found.most, color="grey", linewidth=0.8, linestyle=":")
        place.set_title(title, fontsize=8)
        place.tick_params(labelsize=6)
        place.spines[["top", "right"]].set_visible(False)
        place.set_xlim(right=min(place.get_xlim()[1], FURTHEST))
        if place.lines[1:]:  # a folder that is not complete leaves panels empty
            place.legend(frameon=False, fontsize=6, loc="lower left")
    for place in axes[:, 0]:
        place.set_ylabel("score (reference's s.d.)", fontsize=8)
    for place in axes[-1]:
        place.set_xlabel("sqrt(KL)", fontsize=8)
    figure.suptitle(
        "gold solid with its 95 % interval, proxy dashed; dotted: a perfect reply; "
        f"cut at sqrt(KL) = {FURTHEST:g}",
        fontsize=8,
    )


def _best_of_n(found: Found) -> list[tuple[str, Lines]]:
    """A panel per number of labels, a line per noise, the mean over sizes."""
    return [
        (
            f"best-of-n, {labels:,} labels",
            {
                f"{flips:.0%} reversed": (
                    colour,
                    found.of(BEST_OF_N, planted=NONE, labels=labels, flips=flips),
                )
                for flips, colour in zip(FLIPS, COLOURS, strict=False)
            },
        )
        for labels in LABELS
    ]


def _trained(found: Found) -> list[tuple[str, Lines]]:
    """A panel per number of labels, a line per trained method, at the largest size."""
    like = {"planted": NONE, "layers": 4, "flips": 0.15}
    return [
        (
            f"trained, {labels:,} labels",
            {NAMES[m]: (OF_METHOD[m], found.of(m, labels=labels, **like)) for m in METHODS},
        )
        for labels in LABELS
    ]


def _others(found: Found) -> list[tuple[str, Lines]]:
    """Both planted biases by all methods, then RLOO by size and by noise."""
    planted: list[tuple[str, Lines]] = [
        (
            f"planted {bias} bias",
            {NAMES[m]: (OF_METHOD[m], found.of(m, planted=bias)) for m in (BEST_OF_N, *METHODS)},
        )
        for bias in (LENGTH, KEYWORD)
    ]
    like = {"planted": NONE, "labels": 256}
    sizes = {
        f"{layers} of 4 layers": (colour, found.of("rloo", layers=layers, flips=0.15, **like))
        for layers, colour in zip(LAYERS, COLOURS, strict=False)
    }
    noises = {
        f"{flips:.0%} reversed": (colour, found.of("rloo", layers=4, flips=flips, **like))
        for flips, colour in zip(FLIPS, COLOURS, strict=False)
    }
    return [*planted, ("RLOO by size, 256 labels", sizes), ("RLOO by noise, 256 labels", noises)]


def _draw_mean(axes: Any, paths: Sequence[Path], colour: str, label: str) -> None:
    d, gold = mean_path(paths, "gold")
    low, high = np.quantile(gold[1:], [0.025, 0.975], axis=0)
    axes.plot(d[0], gold[0], color=colour, label=label, marker=".", markersize=4)
    axes.fill_between(d[0], low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(d[0], mean_path(paths, "proxy")[1][0], color=colour, linestyle="--", linewidth=1)
