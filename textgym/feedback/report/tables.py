"""The report as tables of text, which Markdown, HTML and the terminal all show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from textgym.feedback.report.measures import Correlations
from textgym.feedback.report.numbers import Estimate
from textgym.feedback.report.report import KindReport, PairsReport, RewardReport
from textgym.feedback.report.verdict import NO_GROUP, shown, verdicts

MOST_ROWS = 30
"""Annotators that a page lists; report.json has them all."""


@dataclass(frozen=True)
class Table:
    """A titled table.

    Attributes:
        title: its heading.
        columns: their headings; the first column is of names.
        rows: of text.
        note: what a reader must know; may be empty.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


def verdict_table(report: RewardReport) -> Table:
    """Returns the verdicts."""
    rows = [[v.question, v.answer, v.numbers, v.rule] for v in verdicts(report)]
    return Table("Verdict", ["question", "answer", "numbers", "rule"], rows)


def tables(report: RewardReport) -> list[Table]:
    """Returns everything below the verdict."""
    found = [_scope(report)]
    for kind, measured in report.kinds.items():
        found += _kind(kind, measured, report.level)
    if report.pairs is not None:
        found += _pairs(report.pairs, report.level)
    found.append(
        _correlations("Score and length", report.length, "Length is in characters. " + WITHIN)
    )
    if report.gold is not None:
        found.append(_correlations("Score and gold score", report.gold, WITHIN))
    return [*found, _invariance(report)]


WITHIN = (
    "Within a prompt: of what score and other number differ by from their mean over the prompt's "
    "texts."
)


def _scope(report: RewardReport) -> Table:
    counts = {
        "answers": report.answers,
        "prompts": report.prompts,
        "different completions": report.texts,
        "annotators": report.annotators,
        "groups": report.groups,
    }
    for kind, measured in report.kinds.items():
        counts[f"{kind} answers measured"] = measured.answers
        if kind == "pairwise":
            counts["ties of annotators, left out"] = measured.ties
            counts["pairs of equal scores, counted one half"] = measured.score_ties
    note = (
        f"Brackets are {report.level:.0%} bootstrap intervals ({report.resamples} resamples of "
        "whole prompts). The reward must not have been trained on these answers."
    )
    return Table("What was measured", ["", "count"], [[n, str(c)] for n, c in counts.items()], note)


def _kind(kind: str, k: KindReport, level: float) -> list[Table]:
    rows = {"reward": k.overall}
    if k.kendall is not None:
        rows["reward, Kendall's tau-b"] = k.kendall
    rows |= {
        "chance": k.baselines["chance"],
        "the longer response": k.baselines["longer"],
        "the shorter response": k.baselines["shorter"],
    }
    if "gold" in k.baselines:
        rows["the gold score: the ceiling"] = k.baselines["gold"]
    rows |= {f"reward on {name!r}": e for name, e in k.off_distribution.items()}
    note = (
        f"Krippendorff's alpha between annotators: {shown(k.alpha)} "
        f"(shared questions: {k.alpha.count}). The reward is "
        f"{shown(k.beyond_length, k.measure, sign='+')} beyond the better length baseline."
    )
    found = [_estimates(f"Agreement with {kind} answers: {k.measure}", rows, k.measure, note)]
    if len(k.groups) > 1:
        named = {name or NO_GROUP: e for name, e in k.groups.items()}
        found.append(_estimates(f"By group ({kind})", named, k.measure))
    if len(k.annotators) > 1:
        most = dict(list(k.annotators.items())[:MOST_ROWS])
        left = len(k.annotators) - len(most)
        note = f"{left} more are in report.json." if left else ""
        found.append(_estimates(f"By annotator ({kind})", most, k.measure, note))
    return found


def _pairs(pairs: PairsReport, level: float) -> list[Table]:
    c = pairs.calibration
    rows = [
        [f"{b.confidence:.1%}", shown(b.agreement, "accuracy"), str(b.agreement.count)]
        for b in c.bins
    ]
    tempered = "missing" if c.tempered_error is None else f"{c.tempered_error:.3f}"
    note = (
        f"Expected calibration error {c.error:.3f}: the mean over pairs of |agreement - "
        "confidence| of their bin (Guo et al. 2017, equation 3; bins of equal counts). Labels "
        f"drawn from the confidences themselves give {c.chance_error:.3f} on average, in "
        f"{level:.0%} of draws at most {c.chance_error_high:.3f}. Temperature that fits these "
        f"pairs best: {shown(c.temperature)} (1 is calibrated, above is too sure); error with it: "
        f"{tempered}."
    )
    columns = ["sigmoid(|score difference|)", "annotators agree", "pairs"]
    return [
        Table("Calibration", columns, rows, note),
        _estimates("Accuracy by |score difference|", pairs.margins, "accuracy"),
        _estimates(
            "Accuracy by length of the preferred response (characters)",
            pairs.length_differences,
            "accuracy",
        ),
    ]


def _correlations(title: str, found: Correlations, note: str) -> Table:
    rows = {
        "Pearson, all texts": found.pearson,
        "Spearman, all texts": found.spearman,
        "Pearson, within a prompt": found.pearson_within,
        "Spearman, within a prompt": found.spearman_within,
    }
    return _estimates(title, rows, "correlation", note)


def _invariance(report: RewardReport) -> Table:
    i = report.invariance
    rows = {
        "the same call again": i.repeated,
        "one by one": i.alone,
        "in another order, beside the longest texts": i.among_others,
        "tolerance": i.tolerance,
    }
    return Table(
        "Batch and padding",
        ["scored", "greatest difference"],
        [[name, f"{value:.2g}"] for name, value in rows.items()],
        f"{i.texts} texts, against their scores in one call.",
    )


def _estimates(title: str, rows: Mapping[str, Estimate], measure: str, note: str = "") -> Table:
    shown_rows = [[name, shown(e, measure), str(e.count or "")] for name, e in rows.items()]
    return Table(title, ["", measure, "count"], shown_rows, note)
