"""Every number of a report worked by hand, and what is said where there is none."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import scipy.stats
from report_support import (
    JUDGED,
    RATED,
    SCORES,
    TableReward,
    bradley_terry,
    four_ratings,
    four_verdicts,
    pair,
    rng,
    single,
    six_pairs,
    turned,
)

from textgym.errors import ConfigError, FeedbackError, RewardError
from textgym.feedback.records import BINARY, PAIRWISE, RATING, Feedback, Question
from textgym.feedback.report import measures
from textgym.feedback.report.annotators import krippendorff_alpha
from textgym.feedback.report.calibration import calibrate, calibration_error, fit_temperature
from textgym.feedback.report.numbers import (
    Estimate,
    Resampling,
    bootstrap_by_prompt,
    equal_count_bins,
)
from textgym.feedback.report.report import POINTS, RewardReport, measure_reward


def measured(feedback: Sequence[Feedback] | None = None, **options: Any) -> RewardReport:
    answers = six_pairs() if feedback is None else feedback
    reward = options.pop("reward", TableReward(SCORES))
    options = {"generator": rng(), "resamples": 100} | options
    return measure_reward(reward, answers, **options)


def values(estimates: dict[str, Estimate]) -> dict[str, float | None]:
    return {name: e.value for name, e in estimates.items()}


def test_accuracy_of_pairs_by_hand() -> None:
    k = measured().kinds[PAIRWISE]
    # 1, 1, 0, 1/2 and 1 of five; the tie of the annotator is left out.
    assert k.overall.value == pytest.approx(3.5 / 5)
    assert (k.answers, k.ties, k.score_ties, k.overall.count) == (5, 1, 1, 5)
    assert values(k.baselines) == {"chance": 0.5, "longer": 0.5, "shorter": 0.5}
    # Against the longer response: 0, 1, 0, -1/2, 1/2.
    assert (k.length_rule, k.beyond_length.value) == ("longer", pytest.approx(0.2))
    assert values(k.groups) == {"authors": 0.75, "readers": pytest.approx(2 / 3)}
    assert values(k.annotators) == {"ann": pytest.approx(2 / 3), "bob": 0.75}
    assert (k.kendall, k.measure) == (None, "accuracy")


def test_length_baselines_are_told_apart() -> None:
    answers = [pair("p", "aaa", "b", 1), pair("q", "aaa", "b", 1), pair("r", "aaa", "b", 0)]
    k = measured(answers).kinds[PAIRWISE]
    assert values(k.baselines) == pytest.approx({"chance": 0.5, "longer": 2 / 3, "shorter": 1 / 3})
    assert k.length_rule == "longer"
    k = measured([turned(f) for f in answers[2:]] * 2 + answers[:1]).kinds[PAIRWISE]
    assert (k.length_rule, k.baselines["shorter"].value) == ("shorter", pytest.approx(2 / 3))
    # The reward, which knows nothing of "aaa", calls it equal to "b".
    assert k.beyond_length.value == pytest.approx(0.5 - 2 / 3)


def test_interval_resamples_whole_prompts() -> None:
    """Of the 27 resamples of three prompts one is the wrong prompt thrice: more than 2.5%."""
    won, prompts = np.array([1, 1, 0, 0.5, 1]), np.array([0, 0, 1, 1, 2])
    sums, counts = np.array([2, 0.5, 1]), np.array([2, 2, 1])
    shares = [
        sums[list(drawn)].sum() / counts[list(drawn)].sum()
        for drawn in itertools.product(range(3), repeat=3)
    ]
    for level in (0.95, 0.6):
        found = measures.mean_by_prompt(won, prompts, Resampling(rng(), 20_000, level))
        tail = (1 - level) / 2
        ends = np.quantile(shares, [tail, 1 - tail], method="inverted_cdf")
        assert (found.low, found.high) == pytest.approx(tuple(ends))


def test_answers_that_repeat_a_prompt_do_not_narrow_the_interval() -> None:
    draws = rng(1).normal(size=200)
    once = bootstrap_by_prompt(lambda rows: draws[rows].mean(), np.arange(200), sampling(), "")
    often = np.repeat(draws, 9)
    nine = bootstrap_by_prompt(
        lambda rows: often[rows].mean(), np.repeat(np.arange(200), 9), sampling(), ""
    )
    assert width(nine) == pytest.approx(width(once), rel=0.1)
    assert width(once) == pytest.approx(2 * 1.96 * draws.std() / math.sqrt(200), rel=0.1)


def sampling(resamples: int = 2000, seed: int = 0) -> Resampling:
    return Resampling(rng(seed), resamples)


def width(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


def test_ratings_and_verdicts_by_hand() -> None:
    k = measured(four_ratings(), reward=TableReward(RATED)).kinds[RATING]
    # Rank differences 0, 1, 1, 0: 1 - 6 * 2 / (4 * 15). One of six pairs is out of order.
    assert k.overall.value == pytest.approx(0.8)
    assert k.kendall is not None
    assert k.kendall.value == pytest.approx(4 / 6)
    assert k.baselines["chance"].value == 0
    assert k.baselines["longer"].missing == "all scores or all ratings are equal"
    k = measured(four_verdicts(), reward=TableReward(JUDGED)).kinds[BINARY]
    # 3 > 2, 3 > 1, 1 < 2, 1 = 1.
    assert (k.overall.value, k.measure) == (2.5 / 4, "AUC")
    assert k.baselines["chance"].value == 0.5


def test_rank_measures_against_scipy() -> None:
    x, y = rng(1).integers(0, 8, 60).astype(float), rng(2).integers(1, 6, 60).astype(float)
    assert measures.spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    good = (y > 3).astype(float)
    u = scipy.stats.mannwhitneyu(x[good == 1], x[good == 0]).statistic
    assert measures.auc(x, good) == pytest.approx(u / (good.sum() * (60 - good.sum())))


def test_kinds_are_measured_apart() -> None:
    report = measured(
        [*six_pairs(), *four_ratings(), *four_verdicts()],
        reward=TableReward(SCORES | RATED | JUDGED),
    )
    found = {kind: k.overall.value for kind, k in report.kinds.items()}
    assert found == pytest.approx({PAIRWISE: 0.7, RATING: 0.8, BINARY: 0.625})
    assert (report.answers, report.annotators, report.groups) == (14, 2, 2)
    assert (report.prompts, report.texts) == (4 + 4, 9 + 4 + 4)


def test_slices_by_hand() -> None:
    pairs = measured().pairs
    assert pairs is not None
    # Differences 1, 1, 1, 0 and 4; the three equal ones share a quarter.
    assert values(pairs.margins) == {"quarter 1: 0 to 1": 2.5 / 4, "quarter 4: 4 to 4": 1.0}
    # The median of 3, 2, 2 and 1 is 2.
    assert values(pairs.length_differences) == {
        "shorter by at most 2": 0.5,
        "equally long": 1,
        "longer by at most 2": 0.5,
        "longer by more than 2": 1,
    }


def test_equal_counts() -> None:
    bins = equal_count_bins(rng().normal(size=103), 10)
    assert set(np.bincount(bins)) == {10, 11}
    assert equal_count_bins(np.array([5.0, 5.0, 5.0]), 3).tolist() == [0, 0, 0]


def test_calibration_error_by_hand() -> None:
    confidence, agrees = np.array([0.9, 0.5, 0.8, 0.6]), np.array([1, 0.5, 0, 1])
    # Bins {0.5, 0.6} and {0.8, 0.9}: gaps that sum to 0.4 and to -0.7.
    assert calibration_error(confidence, agrees, 2) == pytest.approx(1.1 / 4)
    assert calibration_error(confidence, agrees, 1) == pytest.approx(0.3 / 4)
    assert calibration_error(confidence, agrees, 4) == pytest.approx((0 + 0.4 + 0.8 + 0.1) / 4)


def test_temperature_by_hand() -> None:
    # The likelihood is greatest where sigmoid(2 / T) is the share of right pairs.
    assert fit_temperature(np.array([2.0, 2, 2, -2])).value == pytest.approx(2 / math.log(3))
    assert fit_temperature(np.array([2e6, 2e6, 2e6, -2e6])).value == pytest.approx(
        2e6 / math.log(3)
    )
    assert "best temperature is 0" in fit_temperature(np.array([1.0, 2.0])).missing
    for margin in ([1.0, -2.0], [1.0, -1.0], [0.0, 0.0]):
        assert "no temperature" in fit_temperature(np.array(margin)).missing


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_temperature_of_bradley_terry_answers_is_found(temperature: float) -> None:
    answers, reward = bradley_terry(4000, temperature)
    margin = [
        (reward.scores[a] - reward.scores[b]) * (1 if f.label == 1 else -1)
        for f in answers
        for a, b in [f.question.completions]
    ]
    found = calibrate(np.array(margin), np.arange(4000), sampling(200))
    assert found.temperature.value == pytest.approx(temperature, rel=0.08)
    assert found.tempered_error is not None
    assert found.tempered_error <= found.chance_error_high
    assert (found.error > found.chance_error_high) == (temperature != 1)
    assert len(found.bins) == 10
    if temperature == 1:
        gaps = [b.agreement.value - b.confidence for b in found.bins if b.agreement.value]
        assert np.abs(gaps).max() < 0.07
    else:
        # Answers noisier than the scores say: the top bin is too sure of itself; and conversely.
        top = found.bins[5]
        assert top.agreement.value is not None
        assert (top.agreement.value < top.confidence) == (temperature > 1)


def test_chance_error_is_what_calibrated_rewards_show() -> None:
    errors, expected = [], []
    for seed in range(40):
        draws = rng(seed)
        size = np.abs(draws.normal(0, 2, 100))
        margin = np.where(draws.random(100) < 1 / (1 + np.exp(-size)), size, -size)
        found = calibrate(margin, np.arange(100), sampling(50, seed))
        errors.append(found.error)
        expected.append(found.chance_error)
    assert np.mean(errors) == pytest.approx(np.mean(expected), rel=0.1)
    assert np.mean(errors) > 0.05


def test_order_of_a_pairs_completions_changes_nothing() -> None:
    answers, reward = bradley_terry(60, 1.0)
    chosen_first = [f if f.label == 1 else turned(f) for f in answers]
    assert any(a is not b for a, b in zip(answers, chosen_first, strict=True))
    one, other = (measured(f, reward=reward) for f in (answers, chosen_first))
    assert one.kinds == other.kinds
    assert one.pairs == other.pairs


NAN = math.nan
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]
"""Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, section C."""
MEG, OWEN = (0, 1, 0, 0, 0, 0, 0, 0, 1, 0), (1, 1, 1, 0, 0, 1, 0, 0, 0, 0)
"""The same, section A: alpha is 0.095."""


def test_alpha_of_published_examples() -> None:
    ratings = [
        single(RATING, f"unit {u}", value, f"observer {o}")
        for o, row in enumerate(OBSERVERS)
        for u, value in enumerate(row)
        if not math.isnan(value)
    ]
    found = krippendorff_alpha(ratings)
    assert (found.value, found.count) == (pytest.approx(0.815, abs=5e-4), 11)
    observers = {"Meg": MEG, "Owen": OWEN}
    verdicts = [
        single(BINARY, f"unit {u}", label, name)
        for name, row in observers.items()
        for u, label in enumerate(row)
    ]
    assert krippendorff_alpha(verdicts).value == pytest.approx(1 - 19 * 4 / (14 * 6))
    pairs = [
        pair(f"unit {u}", "one", "two", label, name)
        for name, row in observers.items()
        for u, label in enumerate(row)
    ]
    # Owen saw every pair the other way round.
    shown = [turned(f) if f.annotator == "Owen" else f for f in pairs]
    assert krippendorff_alpha(shown).value == pytest.approx(0.095, abs=5e-4)


def test_alpha_says_why_it_is_missing() -> None:
    assert krippendorff_alpha(six_pairs()).missing == "not enough shared questions"
    assert krippendorff_alpha([]).missing == "not enough shared questions"
    same = [single(RATING, f"t{u}", 4, name) for name in "ab" for u in range(3)]
    assert krippendorff_alpha(same).missing == "all answers to shared questions are the same"
    # Whoever answers twice does not agree with themselves.
    again = [single(RATING, f"t{u}", 4, "a") for _ in range(2) for u in range(3)]
    assert krippendorff_alpha(again).missing == "not enough shared questions"


def test_correlation_within_prompts_is_not_the_one_over_all() -> None:
    texts = {"a": 10.0, "bb": 9.0, "c" * 11: 20.0, "d" * 12: 19.0}
    a, b, c, d = texts
    length = measured([pair("p", a, b, 1), pair("q", c, d, 1)], reward=TableReward(texts)).length
    # Ranks 1, 2, 3, 4 and 2, 1, 4, 3: 1 - 6 * 4 / 60.
    assert length.spearman.value == pytest.approx(0.6)
    assert length.spearman_within.value == pytest.approx(-1)
    assert length.pearson_within.value == pytest.approx(-1)
    x, y = [1, 2, 11, 12], [10, 9, 20, 19]
    assert length.pearson.value == pytest.approx(scipy.stats.pearsonr(x, y).statistic)


def test_gold_is_the_ceiling_and_is_set_against_the_reward() -> None:
    gold = {text: -score for text, score in SCORES.items()}
    report = measured(gold=TableReward(gold, -1.0))
    assert report.kinds[PAIRWISE].baselines["gold"].value == pytest.approx(0.3)
    assert report.gold is not None
    assert report.gold.spearman.value == pytest.approx(-1)
    assert report.gold.pearson_within.value == pytest.approx(-1)
    assert report.points["gold"] == [-score for score in report.points["score"]]
    assert measured().gold is None
    assert set(measured().points) == {"length", "score"}


def test_other_distributions() -> None:
    wrong = [pair(f.question.prompt, *f.question.completions, 1 - f.label) for f in six_pairs()]
    report = measured(off_distribution={"wrong": wrong, "ratings": four_ratings(), "none": []})
    off = report.kinds[PAIRWISE].off_distribution
    assert off["wrong"].value == pytest.approx(0.3)
    assert off["ratings"].missing == off["none"].missing == "no pairwise answers"
    assert report.answers == 6


def relative_to_the_longest(
    prompts: list[str], completions: list[str], **columns: list[Any]
) -> list[float]:
    longest = max(map(len, completions))
    return [len(text) / longest for text in completions]


def test_a_reward_that_looks_at_its_batch_is_flagged() -> None:
    found = measured(reward=relative_to_the_longest).invariance
    # Of four characters at most: alone, a single one scores 1 instead of 1/4.
    assert (found.alone, found.among_others, found.repeated) == (0.75, 0, 0)
    assert found.moves
    assert found.texts == 10


def test_a_reward_that_looks_at_places_or_calls_is_flagged() -> None:
    def by_place(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        return [float(i) for i in range(len(completions))]

    found = measured(reward=by_place).invariance
    assert found.moves
    assert found.repeated == 0
    assert found.among_others > 1
    calls = iter(range(1000))

    def by_call(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        call = next(calls)
        return [len(text) + 10.0 * call for text in completions]

    found = measured(reward=by_call).invariance
    assert found.moves
    assert found.repeated == 10


def test_a_reward_of_texts_alone_does_not_move() -> None:
    found = measured().invariance
    assert (found.repeated, found.alone, found.among_others, found.moves) == (0, 0, 0, False)


def test_rounding_is_no_dependence() -> None:
    def rounded(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        return [len(text) * (1 + 1e-7 * len(completions)) for text in completions]

    found = measured(reward=rounded).invariance
    assert 0 < found.alone < found.tolerance
    assert not found.moves


def test_the_reward_gets_columns_and_who_asks() -> None:
    question = Question("p", ("a", "b"), columns={"topic": "x"})
    answers = [Feedback(question, 1, "ann", "readers"), Feedback(question, 0, "bob")]
    reward = TableReward({})
    report = measured([*answers, pair("q", "c", "d", 1)], reward=reward)
    asked = reward.asked[0]
    assert asked["completions"] == ["a", "b", "a", "b", "c", "d"]
    assert asked["annotator"] == ["ann", "ann", "bob", "bob", "ann", "ann"]
    assert asked["group"] == ["readers", "readers", "", "", "", ""]
    assert asked["topic"] == ["x"] * 4 + [None] * 2
    assert report.texts == 4


def test_a_personal_reward_is_measured_on_each_ones_own_scores() -> None:
    def personal(
        prompts: list[str], completions: list[str], annotator: list[str], **columns: Any
    ) -> list[float]:
        return [
            float(text == ("a" if who == "ann" else "b"))
            for text, who in zip(completions, annotator, strict=True)
        ]

    answers = [pair("p", "a", "b", 1, "ann"), pair("p", "a", "b", 0, "bob")]
    report = measured(answers, reward=personal)
    assert report.kinds[PAIRWISE].overall.value == 1
    assert report.points["score"] == [0.5, 0.5]


def test_same_seed_same_numbers() -> None:
    answers, reward = bradley_terry(30, 1.0)
    options = {"reward": reward, "gold": reward, "off_distribution": {"x": six_pairs()}}
    one, same, other = (measured(answers, generator=rng(s), **options) for s in (3, 3, 4))
    assert one == same
    assert one.kinds[PAIRWISE].overall != other.kinds[PAIRWISE].overall


def test_points_are_limited() -> None:
    answers, reward = bradley_terry(POINTS, 1.0)
    report = measured(answers, reward=reward, resamples=2)
    assert report.texts == 2 * POINTS
    assert {len(column) for column in report.points.values()} == {POINTS}


def test_mistakes_are_quoted_only_on_demand_worst_first() -> None:
    answers = [
        pair("p", "d", "eee", 1),
        pair("q", "h", "g", 1, "bob", "authors"),
        pair("r", "aaaa", "b", 1),
    ]
    assert measured(answers).mistakes == []
    found = measured(answers, examples=5).mistakes
    assert [(m.chosen, m.rejected, m.margin) for m in found] == [("h", "g", -4), ("d", "eee", -1)]
    assert (found[0].prompt, found[0].annotator, found[0].group) == ("q", "bob", "authors")
    assert len(measured(answers, examples=1).mistakes) == 1


def as_json(report: RewardReport) -> str:
    return json.dumps(report.to_json(), allow_nan=False)


def test_a_constant_reward() -> None:
    report = measured(reward=TableReward({}))
    assert report.kinds[PAIRWISE].overall == Estimate(0.5, 0.5, 0.5, 5)
    assert report.length.spearman.missing == "a constant has no correlation"
    assert report.pairs is not None
    assert "no temperature" in report.pairs.calibration.temperature.missing
    assert report.pairs.calibration.error == report.pairs.calibration.chance_error_high == 0
    assert not report.invariance.moves
    assert "NaN" not in as_json(report)


@pytest.mark.parametrize(
    "answers",
    [
        [pair("p", "aaaa", "b", 1)],
        [pair("p", "aaaa", "b", 0.5)],
        [pair("p", "aaaa", "b", 0.5), pair("q", "cc", "d", 0.5, "bob")],
        [single(RATING, "aaaa", 3)],
        [single(RATING, "aaaa", 3), single(RATING, "b", 3, "bob")],
        [single(BINARY, "aaaa", 1), single(BINARY, "b", 1)],
        [single(BINARY, "aaaa", 1, prompt="p"), single(BINARY, "b", 0, prompt="q")],
    ],
)
def test_every_number_is_there_or_said_to_be_missing(answers: list[Feedback]) -> None:
    report = measured(answers, gold=TableReward(SCORES))
    found = estimates(json.loads(as_json(report)))
    assert len(found) > 10
    for e in found:
        assert (e["value"] is None) == bool(e["missing"])


def estimates(tree: Any) -> list[dict[str, Any]]:
    if isinstance(tree, dict) and "missing" in tree:
        return [tree]
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    return [e for value in inner for e in estimates(value)]


def test_one_prompt_has_no_interval() -> None:
    answers = [pair("p", "aaaa", "b", 1), pair("p", "aaaa", "cc", 1)]
    assert measured(answers).kinds[PAIRWISE].overall == Estimate(0.5, count=2)
    assert measured(answers[:1]).pairs is not None
    tie = measured([pair("p", "aaaa", "b", 0.5)])
    assert tie.pairs is None
    assert tie.kinds[PAIRWISE].overall.missing == "no decided pairs"


def test_bad_input_is_one_clear_error() -> None:
    with pytest.raises(FeedbackError, match="needs feedback"):
        measured([])
    with pytest.raises(RewardError, match="'reward' returned nan for completion 0"):
        measured(reward=TableReward({"aaaa": math.nan}))
    with pytest.raises(RewardError, match="'gold' returned inf"):
        measured(gold=TableReward({"b": math.inf}))
    with pytest.raises(RewardError, match="returned nan"):
        measured(off_distribution={"x": four_ratings()}, reward=TableReward({"t1": math.nan}))
    with pytest.raises(RewardError, match="1 values for 10 texts"):
        measured(reward=lambda prompts, completions, **columns: [0.0])
    for wrong in ({"resamples": 0}, {"level": 1.0}, {"examples": -1}):
        with pytest.raises(ConfigError, match="resamples >= 1"):
            measured(**wrong)
