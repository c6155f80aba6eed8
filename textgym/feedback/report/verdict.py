"""The report in a few words: questions, answers by stated rules, and the numbers behind them."""

from __future__ import annotations

from dataclasses import dataclass

from textgym.feedback.records import PAIRWISE
from textgym.feedback.report.numbers import Estimate
from textgym.feedback.report.report import KindReport, RewardReport

YES, NO, UNCLEAR = "yes", "no", "unclear"
NO_GROUP = "no group"
"""What stands for the group of annotators that belong to none."""
CALIBRATED = 0.05
"""Expected calibration errors up to this are small."""
CALIBRATION_PAIRS = 100
"""Fewer pairs than these cannot show that the error is small."""
FOLLOWS_LENGTH = 0.5
"""Correlations with length beyond this, in size, are high."""
RELIABLE, TENTATIVE = 0.8, 0.667
"""Krippendorff's alpha from which data can be relied on, and from which it gives a hint
(Krippendorff 2004, Content Analysis, section 11.4)."""
FEW_PROMPTS = 20
"""Below these, bootstrap intervals are too narrow to go by."""


@dataclass(frozen=True)
class Verdict:
    """One question to the report.

    Attributes:
        question: what is asked.
        answer: "yes", "no" or "unclear".
        good: whether that speaks for the reward; None where it is unclear.
        numbers: what the answer follows from.
        rule: how it follows.
    """

    question: str
    answer: str
    good: bool | None
    numbers: str
    rule: str


def shown(estimate: Estimate, measure: str = "", sign: str = "") -> str:
    """Returns a number with its interval, shares in percent, or why it is missing.

    Args:
        estimate: what is shown.
        measure: "accuracy" is a share.
        sign: "+" for differences, which have their sign always and, of shares, are in points.

    >>> shown(Estimate(0.714, 0.66, 0.76), "accuracy")
    '71% [66, 76]'
    >>> shown(Estimate(0.25))
    '0.25'
    """
    if estimate.value is None:
        return f"missing: {estimate.missing}"
    scale, digits, unit = (100, 0, "%") if measure == "accuracy" else (1, 2, "")
    unit = " points" if unit and sign else unit

    def text(value: float) -> str:
        return f"{round(value * scale, digits) + 0.0:{sign}.{digits}f}"  # no minus before a zero

    if estimate.low is None or estimate.high is None:
        return text(estimate.value) + unit
    return f"{text(estimate.value)}{unit} [{text(estimate.low)}, {text(estimate.high)}]"


def verdicts(report: RewardReport) -> list[Verdict]:
    """Returns the questions that a reader has first, answered."""
    found = []
    for kind, measured in report.kinds.items():
        of = f" ({kind})" if len(report.kinds) > 1 else ""
        found += [_beats_chance(measured, of), _beats_length(measured, of)]
        found += _elsewhere(measured, of) + _groups(measured, of)
    found += _calibrated(report)
    found += [_depends(report), _follows_length(report)]
    for kind, measured in report.kinds.items():
        found.append(_annotators(measured, f" ({kind})" if len(report.kinds) > 1 else ""))
    found.append(_enough(report))
    return found


def _verdict(
    question: str, holds: bool | None, numbers: str, rule: str, wanted: bool = True
) -> Verdict:
    if holds is None:
        return Verdict(question, UNCLEAR, None, numbers, rule)
    return Verdict(question, YES if holds else NO, holds == wanted, numbers, rule)


def _above(estimate: Estimate, bar: float) -> bool | None:
    """Returns whether an estimate's interval lies above the bar, None where it holds it."""
    if estimate.low is None or estimate.high is None:
        return None
    return True if estimate.low > bar else False if estimate.high <= bar else None


def _beats_chance(k: KindReport, of: str) -> Verdict:
    chance = k.baselines["chance"]
    numbers = f"{k.measure} {shown(k.overall, k.measure)} against {shown(chance, k.measure)}"
    rule = "yes if the interval lies above chance, no if it lies at or below"
    return _verdict(
        f"better than chance{of}", _above(k.overall, chance.value or 0.0), numbers, rule
    )


def _beats_length(k: KindReport, of: str) -> Verdict:
    baseline = shown(k.baselines[k.length_rule], k.measure)
    difference = shown(k.beyond_length, k.measure, sign="+")
    numbers = (
        f"{k.measure} {shown(k.overall, k.measure)} against {baseline} "
        f"for the {k.length_rule} response; difference {difference}"
    )
    rule = "yes if the interval of the paired difference lies above 0, no if at or below"
    return _verdict(
        f"better than the length baseline{of}", _above(k.beyond_length, 0), numbers, rule
    )


def _elsewhere(k: KindReport, of: str) -> list[Verdict]:
    rule = (
        "no if its interval lies below the one at home, yes if its estimate does not lie below "
        "that interval"
    )
    found = []
    for name, other in k.off_distribution.items():
        numbers = f"{k.measure} {shown(other, k.measure)} against {shown(k.overall, k.measure)}"
        holds = _as_good(other, k.overall)
        found.append(_verdict(f"as good on {name!r}{of}", holds, numbers, rule))
    return found


def _as_good(other: Estimate, home: Estimate) -> bool | None:
    if other.value is None or other.high is None or home.low is None:
        return None
    return True if other.value >= home.low else False if other.high < home.low else None


def _groups(k: KindReport, of: str) -> list[Verdict]:
    known = {name: e for name, e in k.groups.items() if e.high is not None}
    if len(k.groups) < 2:
        return []
    rule = "no if some group's interval lies below the estimate of all answers"
    if not known or k.overall.value is None:
        return [_verdict(f"serves every group{of}", None, "too few answers by group", rule)]
    name, worst = min(known.items(), key=lambda item: item[1].value or 0.0)
    holds = all((e.high or 0.0) >= k.overall.value for e in known.values())
    numbers = f"the worst of {len(k.groups)}, {name or NO_GROUP!r}: {shown(worst, k.measure)}"
    return [_verdict(f"serves every group{of}", holds, numbers, rule)]


def _calibrated(report: RewardReport) -> list[Verdict]:
    if report.pairs is None:
        return []
    c = report.pairs.calibration
    numbers = (
        f"expected calibration error {c.error:.3f}; without any error so many pairs give "
        f"{c.chance_error:.3f}, at most {c.chance_error_high:.3f}"
    )
    rule = (
        f"yes up to {CALIBRATED} on {CALIBRATION_PAIRS} pairs or more, no if above that and above "
        "what chance gives"
    )
    holds = None
    if c.error <= CALIBRATED:
        holds = True if report.kinds[PAIRWISE].answers >= CALIBRATION_PAIRS else None
    elif c.error > c.chance_error_high:
        holds = False
    return [_verdict(f"calibrated within {CALIBRATED}", holds, numbers, rule)]


def _depends(report: RewardReport) -> Verdict:
    i = report.invariance
    numbers = (
        f"scores of {i.texts} texts move by at most {max(i.repeated, i.alone, i.among_others):.2g}"
    )
    rule = f"yes if any score moves by more than {i.tolerance:.2g}"
    return _verdict("depends on batch or padding", i.moves, numbers, rule, wanted=False)


def _follows_length(report: RewardReport) -> Verdict:
    within = report.length.spearman_within
    holds = None if within.value is None else abs(within.value) > FOLLOWS_LENGTH
    numbers = f"Spearman's correlation of score and length within a prompt {shown(within)}"
    rule = f"yes if its size is above {FOLLOWS_LENGTH}"
    return _verdict("follows length", holds, numbers, rule, wanted=False)


def _annotators(k: KindReport, of: str) -> Verdict:
    alpha = k.alpha.value
    holds = None if alpha is None or TENTATIVE <= alpha < RELIABLE else alpha >= RELIABLE
    numbers = f"Krippendorff's alpha {shown(k.alpha)} (shared questions: {k.alpha.count})"
    rule = f"yes from {RELIABLE}, no below {TENTATIVE}"
    return _verdict(f"annotators agree with each other{of}", holds, numbers, rule)


def _enough(report: RewardReport) -> Verdict:
    rule = f"no below {FEW_PROMPTS}: intervals are then too narrow"
    holds = report.prompts >= FEW_PROMPTS
    return _verdict("enough prompts", holds, f"{report.prompts} prompts", rule)
