"""What the study of over-optimisation found: its table, and sentences made of the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from textgym.benchmarks.studies.laws import SCORES, Found, Path, Score, mean_path, told
from textgym.benchmarks.studies.proxies import KEYWORD, LENGTH, NONE, parameter_count
from textgym.benchmarks.studies.pursuit import BEST_OF_N, METHODS, NS
from textgym.metrics.overoptimization import LAWS, Law
from textgym.metrics.sets import FloatArray
from textgym.metrics.trade_off import at_level

FORMS: dict[Law, str] = {"best_of_n": "d (a - b d)", "rl": "d (a - b log d)"}
NAMES = {BEST_OF_N: "Best-of-n", "ppo": "PPO", "reinforce": "REINFORCE", "rloo": "RLOO"}
LEVELS = {
    "labels": "from {:,} labels",
    "flips": "with {:.0%} of the answers reversed",
    "layers": "of {} of 4 layers",
}
TRAITS = {
    LENGTH: ("length", "the mean reply goes from {:.0f} to {:.0f} characters"),
    KEYWORD: ("keyword", "the share of replies with the keyword goes from {:.0%} to {:.0%}"),
}
"""What a planted bias shows in, and how that is said."""
MATCHED = 1.5
"""The distance at which methods are held against each other: best-of-n's n of about 38."""


def table(found: Found) -> list[dict[str, Any]]:
    """Returns one row per path and score: where it ends, and its method's law fitted to it.

    Beside a, b and the peak their intervals' ends, and the error of either law.
    """
    return [_row(path, score) for path in found.paths for score in SCORES]


def _row(path: Path, score: Score) -> dict[str, Any]:
    own, end = path.fit(score), path.scores[score][:, -1]
    numbers = {"furthest": path.d[0, -1], "end": end[0]}
    for name in ("a", "b", "peak"):
        seen = told(getattr(own, name))
        numbers |= {name: seen.estimate, f"{name} low": seen.low, f"{name} high": seen.high}
    numbers |= {f"error of {FORMS[law]}": path.fit(score, law).error[0] for law in LAWS}
    # Intervals stand in columns of their own; the machinery shows an error of 0 as none.
    errors = {f"{name}_se": 0.0 for name in numbers} | {"end_se": end[1:].std(ddof=1)}
    return {"method": path.method, **asdict(path.recipe), "of": score, **numbers, **errors}


def findings(found: Found) -> list[str]:
    """Returns what the numbers say; nothing of what the study's folder does not hold yet."""
    methods = [m for m in NAMES if found.of(m, planted=NONE)]
    sentences = [_units(found)]
    for factor in ("labels", "flips", "layers"):
        sentences += _factor(found, factor)
    sentences += [_course(found, method) for method in methods]
    sentences += _by_labels(found, [m for m in methods if m != BEST_OF_N])
    sentences += _matched(found, methods)
    sentences += [_law(found, method) for method in methods]
    sentences += [_planted(found, path) for path in _biased(found)]
    return sentences


def _units(found: Found) -> str:
    sizes = {p.recipe.layers for p in found.paths}
    counts = ", ".join(
        f"{layers} ({parameter_count(layers):,} weights)" for layers in sorted(sizes)
    )
    return (
        f"The reference's replies have gold {found.reference:.2f} with standard deviation "
        f"{found.deviation:.2f}. Scores are told from the reference's in its standard deviations: "
        f"a perfect reply has {found.most:+.2f}. Proxies keep {counts} of the language model's "
        "layers. Brackets are 95 % intervals, remarks nested in seeds; `d` is sqrt(KL), for "
        "best-of-n by the bound `log n - (n - 1) / n`."
    )


def shown(values: FloatArray, form: str = "+.2f") -> str:
    """Returns an estimate and its interval from [1 + R] as text.

    >>> shown(np.array([1.0, 0.5, 0.75, 1.5]))
    '+1.00 [+0.50, +1.50]'
    """
    seen = told(values)
    return f"{seen.estimate:{form}} [{seen.low:{form}}, {seen.high:{form}}]"


def _end(paths: Iterable[Path], score: Score) -> FloatArray:
    return np.asarray(np.mean([path.scores[score][:, -1] for path in paths], axis=0))


def _factor(found: Found, factor: str) -> list[str]:
    """What best-of-n owes to labels, noise or size, the mean over the other two."""
    everything = found.of(BEST_OF_N, planted=NONE)
    levels = sorted({getattr(path.recipe, factor) for path in everything})
    if len(levels) < 2:
        return []
    first, last = (
        found.of(BEST_OF_N, planted=NONE, **{factor: x}) for x in (levels[0], levels[-1])
    )
    gold = [_end(paths, "gold") for paths in (first, last)]
    proxy = [_end(paths, "proxy")[0] for paths in (first, last)]
    low, high = (LEVELS[factor].format(level) for level in (levels[0], levels[-1]))
    return [
        f"Best of {NS[-1]} by proxies {low} has gold {shown(gold[0])}, {high} {shown(gold[1])}: "
        f"{shown(gold[1] - gold[0])}. The proxies themselves say {proxy[0]:+.2f} and "
        f"{proxy[1]:+.2f}."
    ]


def _course(found: Found, method: str) -> str:
    """Where gold is highest on the way, on the mean over the method's proxies, and what is lost."""
    paths = found.of(method, planted=NONE)
    d, gold = mean_path(paths, "gold")
    proxy = mean_path(paths, "proxy")[1]
    top = int(gold[0].argmax())
    inside = sum(told(p.fit("gold").peak).high < p.d[0, -1] for p in paths)
    return (
        f"{NAMES[method]}, mean over {len(paths)} proxies without a planted bias: gold is highest "
        f"at d = {d[0, top]:.2f} with {shown(gold[:, top])} and ends at d = {d[0, -1]:.2f} with "
        f"{shown(gold[:, -1])}, a change of {shown(gold[:, -1] - gold[:, top])}, while the proxy "
        f"goes from {proxy[0, top]:+.2f} to {proxy[0, -1]:+.2f}. The fitted peak's whole interval "
        f"lies inside what was covered on {inside} of {len(paths)}."
    )


def _by_labels(found: Found, methods: Sequence[str]) -> list[str]:
    """How much further labels carry the trained methods that met several amounts of them."""
    sentences = []
    for method in methods:
        paths = found.of(method, planted=NONE, layers=4, flips=0.15)
        ordered = sorted(paths, key=lambda path: path.recipe.labels)
        if len(ordered) < 2:
            continue
        few, many = ordered[0], ordered[-1]
        sentences.append(
            f"{NAMES[method]} on proxies from {few.recipe.labels:,} and {many.recipe.labels:,} "
            f"labels: gold's fitted peak is at d = {shown(few.fit('gold').peak, '.2f')} and "
            f"{shown(many.fit('gold').peak, '.2f')}; gold's mean along training is "
            f"{shown(_along(few))} and {shown(_along(many))}, and at its end "
            f"{shown(few.scores['gold'][:, -1])} and {shown(many.scores['gold'][:, -1])}."
        )
    return sentences


def _along(path: Path) -> FloatArray:
    """Returns gold's mean over the points beyond the reference, [1 + R]."""
    return np.asarray(path.scores["gold"][:, 1:].mean(axis=1))


def _matched(found: Found, methods: Sequence[str]) -> list[str]:
    """Gold of each method at one distance, on the proxies that all methods pursued."""
    recipes = [{p.recipe for p in found.of(m, planted=NONE)} for m in methods]
    shared = set.intersection(*recipes) if len(recipes) > 1 else set()
    if not shared:
        return []
    parts = []
    for method in methods:
        paths = [path for path in found.of(method) if path.recipe in shared]
        d, gold = mean_path(paths, "gold")
        parts.append(f"{NAMES[method]} {shown(at_level(d, gold, MATCHED))}")
    return [
        f"At d = {MATCHED:g}, on the {len(shared)} proxies that all methods pursued, gold is: "
        f"{', '.join(parts)}."
    ]


def _law(found: Found, method: str) -> str:
    """Which form errs less on a method's curves, proxies with planted biases among them."""
    paths = found.of(method)
    parts = []
    for score in SCORES:
        errors = {law: np.array([p.fit(score, law).error for p in paths]) for law in LAWS}
        fewer = int((errors["best_of_n"][:, 0] < errors["rl"][:, 0]).sum())
        means = {law: e.mean(axis=0) for law, e in errors.items()}
        parts.append(
            f"{score}, {means['best_of_n'][0]:.3f} against {means['rl'][0]:.3f} (difference "
            f"{shown(means['best_of_n'] - means['rl'], '+.3f')}; the first is closer on {fewer} of "
            f"{len(paths)} curves)"
        )
    return (
        f"{NAMES[method]}, root mean squared error of `{FORMS['best_of_n']}` against "
        f"`{FORMS['rl']}`: {'; '.join(parts)}."
    )


def _biased(found: Found) -> list[Path]:
    """Returns the paths on proxies with a planted bias, bias by bias."""
    return [
        path
        for planted in (LENGTH, KEYWORD)
        for method in (BEST_OF_N, *METHODS)
        for path in found.of(method, planted=planted)
    ]


def _planted(found: Found, path: Path) -> str:
    """A path with a planted bias against the same recipe without."""
    recipe = path.recipe
    like = {"layers": recipe.layers, "labels": recipe.labels, "flips": recipe.flips}
    gold, proxy = path.scores["gold"], path.scores["proxy"]
    top = int(gold[0].argmax())
    plain = found.of(path.method, planted=NONE, **like)
    against = (
        f", where the unbiased proxy's is {shown(plain[0].scores['gold'][:, -1])}" if plain else ""
    )
    trait, course = TRAITS[recipe.planted]
    return (
        f"{NAMES[path.method]} on the proxy with a planted {recipe.planted} bias: gold "
        f"{shown(gold[:, top])} at d = {path.d[0, top]:.2f}, {shown(gold[:, -1])} at its end "
        f"(d = {path.d[0, -1]:.2f}){against}. The proxy says {proxy[0, -1]:+.2f} there, and "
        f"{course.format(*path.traits[trait][[0, -1]])}."
    )
