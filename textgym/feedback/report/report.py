"""How far a reward can be trusted: everything that is measured, as plain numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textgym.errors import ConfigError, FeedbackError
from textgym.feedback.records import PAIRWISE, RATING, Feedback
from textgym.feedback.report import measures
from textgym.feedback.report.annotators import krippendorff_alpha
from textgym.feedback.report.calibration import Calibration, calibrate
from textgym.feedback.report.invariance import Invariance, invariance
from textgym.feedback.report.measures import Correlations, agreement, correlations, margins
from textgym.feedback.report.numbers import Estimate, Resampling, no_estimate
from textgym.feedback.report.scoring import (
    Answers,
    Scores,
    Texts,
    answers_by_kind,
    different_rows,
    different_texts,
    score_once,
)
from textgym.feedback.report.slices import by_length_difference, by_margin
from textgym.metrics.sets import FloatArray
from textgym.types import RewardFunction

POINTS = 1000
"""Texts that a scatter plot shows at most."""


@dataclass(frozen=True)
class KindReport:
    """How well a reward agrees with the answers of one kind.

    Attributes:
        answers: those measured on.
        ties: pairs called equally good, which are left out.
        score_ties: pairs that the reward scores alike; each counts one half.
        measure: what `overall` and all that follow it are: accuracy, Spearman's correlation, AUC.
        overall: the reward's own.
        kendall: tau-b beside Spearman's correlation; None of other kinds.
        baselines: the same measure of "chance", "longer", "shorter" (the score is the length) and,
            where gold exists, "gold": what the gold score itself reaches.
        length_rule: the better of "longer" and "shorter".
        beyond_length: the reward's measure minus that baseline's, paired.
        groups, annotators: the measure on each one's answers; "" is no group.
        alpha: Krippendorff's, of the annotators among each other, ties included.
        off_distribution: the measure on other answers of this kind, by name.
    """

    answers: int
    ties: int
    score_ties: int
    measure: str
    overall: Estimate
    kendall: Estimate | None
    baselines: dict[str, Estimate]
    length_rule: str
    beyond_length: Estimate
    groups: dict[str, Estimate]
    annotators: dict[str, Estimate]
    alpha: Estimate
    off_distribution: dict[str, Estimate]


@dataclass(frozen=True)
class PairsReport:
    """What only pairs can tell.

    Attributes:
        calibration: of sigmoid(score difference).
        margins: accuracy by |score difference|, four quantiles.
        length_differences: accuracy by how much longer the preferred completion is.
    """

    calibration: Calibration
    margins: dict[str, Estimate]
    length_differences: dict[str, Estimate]


@dataclass(frozen=True)
class Mistake:
    """A pair that the reward orders wrongly; the only place where texts enter a report."""

    prompt: str
    chosen: str
    rejected: str
    margin: float
    annotator: str
    group: str


@dataclass(frozen=True)
class RewardReport:
    """How far a reward can be trusted.

    Attributes:
        answers, prompts, texts: how many; texts are different completions to a prompt.
        annotators, groups: how many gave them.
        level, resamples: of all intervals, which resample prompts.
        kinds: by kind of feedback.
        pairs: None without a decided pair.
        length: the scores against the length in characters.
        gold: the scores against gold scores; None without gold.
        invariance: whether scores depend on what else is scored.
        points: of at most `POINTS` texts, `length`, `score` and, where it exists, `gold`.
        mistakes: the worst ones, as many as were asked for.
    """

    answers: int
    prompts: int
    texts: int
    annotators: int
    groups: int
    level: float
    resamples: int
    kinds: dict[str, KindReport]
    pairs: PairsReport | None
    length: Correlations
    gold: Correlations | None
    invariance: Invariance
    points: dict[str, list[float]]
    mistakes: list[Mistake]

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON values; None where a number is missing."""
        return dataclasses.asdict(self)


def measure_reward(
    reward: RewardFunction,
    feedback: Sequence[Feedback],
    *,
    off_distribution: Mapping[str, Sequence[Feedback]] | None = None,
    gold: RewardFunction | None = None,
    generator: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
    examples: int = 0,
) -> RewardReport:
    """Measures how far a reward can be trusted.

    Args:
        reward: what is judged. It gets the questions' columns, `annotator` and `group`.
        feedback: answers that the reward was not trained on, of any kinds.
        off_distribution: answers from elsewhere, by name.
        gold: the score that the annotators are thought to have in mind.
        generator: the only source of randomness.
        resamples: bootstrap resamples.
        level: of the intervals.
        examples: how many of the worst mistakes the report quotes.

    Raises:
        ConfigError: resamples < 1, a level outside (0, 1), or a negative number of examples.
        FeedbackError: no feedback.
        RewardError: a reward or gold score that is not finite, or a wrong number of them.
    """
    if not feedback:
        raise FeedbackError("a report needs feedback, got none")
    if resamples < 1 or not 0 < level < 1 or examples < 0:
        raise ConfigError(
            "a report needs resamples >= 1, a level in (0, 1) and examples >= 0, got "
            f"{resamples}, {level} and {examples}"
        )
    others = dict(off_distribution or {})
    scores = score_once(reward, feedback, "reward")
    golds = None if gold is None else score_once(gold, feedback, "gold")
    elsewhere = {name: _scored(reward, given) for name, given in others.items()}
    resampling = Resampling(generator, resamples, level)
    kinds, texts = answers_by_kind(feedback, scores, golds), different_texts(scores, golds)
    pairs = kinds.get(PAIRWISE)
    return RewardReport(
        answers=len(feedback),
        prompts=len({f.question.prompt for f in feedback}),
        texts=len(texts.scores),
        annotators=len({f.annotator for f in feedback}),
        groups=len({f.group for f in feedback if f.group}),
        level=level,
        resamples=resamples,
        kinds={
            kind: _kind(answers, feedback, elsewhere, resampling) for kind, answers in kinds.items()
        },
        pairs=_pairs(pairs, resampling) if pairs is not None and len(pairs) else None,
        length=correlations(texts.lengths, texts.scores, texts.prompts, resampling),
        gold=_against_gold(texts, resampling),
        invariance=invariance(
            reward, different_rows(feedback), float(texts.scores.std()), generator
        ),
        points=_points(texts, generator),
        mistakes=_mistakes(pairs, examples) if pairs is not None else [],
    )


def _scored(reward: RewardFunction, feedback: Sequence[Feedback]) -> dict[str, Answers]:
    scores: Scores = score_once(reward, feedback, "reward")
    return answers_by_kind(feedback, scores, None)


def _kind(
    answers: Answers,
    feedback: Sequence[Feedback],
    elsewhere: Mapping[str, Mapping[str, Answers]],
    resampling: Resampling,
) -> KindReport:
    """Returns the report on the answers of one kind, of which there may only be ties."""
    kind, lengths = answers.kind, answers.lengths

    def own(some: Answers | None) -> Estimate:
        if some is None:
            return no_estimate(f"no {kind} answers")
        return agreement(some, some.scores, resampling)

    baselines = {
        "chance": Estimate(measures.CHANCE[kind]),
        "longer": agreement(answers, lengths, resampling),
        "shorter": agreement(answers, -lengths, resampling),
    }
    if answers.gold is not None:
        baselines["gold"] = agreement(answers, answers.gold, resampling)
    rule = max(("longer", "shorter"), key=lambda name: baselines[name].value or 0)
    sign = 1 if rule == "longer" else -1
    return KindReport(
        answers=len(answers),
        ties=answers.ties,
        score_ties=int((np.ptp(answers.scores, axis=1) == 0).sum()) if kind == PAIRWISE else 0,
        measure=measures.NAMES[kind],
        overall=own(answers),
        kendall=measures.kendall_agreement(answers, resampling) if kind == RATING else None,
        baselines=baselines,
        length_rule=rule,
        beyond_length=agreement(answers, answers.scores, resampling, against=sign * lengths),
        groups={name: own(some) for name, some in answers.by(lambda f: f.group).items()},
        annotators={name: own(some) for name, some in answers.by(lambda f: f.annotator).items()},
        alpha=krippendorff_alpha([f for f in feedback if f.question.kind == kind]),
        off_distribution={name: own(found.get(kind)) for name, found in elsewhere.items()},
    )


def _pairs(pairs: Answers, resampling: Resampling) -> PairsReport:
    preferred = margins(pairs.scores, pairs.labels)
    longer = margins(pairs.lengths, pairs.labels)
    return PairsReport(
        calibrate(preferred, pairs.prompts, resampling),
        by_margin(preferred, pairs.prompts, resampling),
        by_length_difference(preferred, longer, pairs.prompts, resampling),
    )


def _against_gold(texts: Texts, resampling: Resampling) -> Correlations | None:
    if texts.gold is None:
        return None
    return correlations(texts.gold, texts.scores, texts.prompts, resampling)


def _points(texts: Texts, generator: np.random.Generator) -> dict[str, list[float]]:
    shown = np.sort(generator.permutation(len(texts.scores))[:POINTS])
    columns: dict[str, FloatArray | None] = {
        "length": texts.lengths,
        "score": texts.scores,
        "gold": texts.gold,
    }
    return {name: v[shown].tolist() for name, v in columns.items() if v is not None}


def _mistakes(pairs: Answers, count: int) -> list[Mistake]:
    """Returns the pairs whose preferred completion scores lowest beside the other."""
    preferred = margins(pairs.scores, pairs.labels)
    worst = [int(i) for i in np.argsort(preferred, kind="stable")[:count] if preferred[i] < 0]
    quoted = [(pairs.feedback[i], float(preferred[i])) for i in worst]
    return [
        Mistake(f.question.prompt, *f.ranked, margin, f.annotator, f.group) for f, margin in quoted
    ]
