import numpy as np
import pytest

from textgym.errors import ConfigError, RewardError
from textgym.feedback.learning.aggregate import AggregateReward, aggregate, support

CYCLE = [[3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [2.0, 1.0, 3.0]]
"""Condorcet's: a over b over c, b over c over a, c over a over b."""


def test_mean_and_maximin_by_hand():
    scores = [[1.0, -4.0], [3.0, 2.0]]
    assert aggregate(scores, "mean").tolist() == [2.0, -1.0]
    assert aggregate(scores, "mean", weights=[3, 1]).tolist() == [1.5, -2.5]
    assert aggregate(scores, "maximin").tolist() == [1.0, -4.0]
    assert aggregate(scores, "maximin", weights=[0, 2]).tolist() == [3.0, 2.0]


def test_a_condorcet_cycle_has_no_winner():
    assert aggregate(CYCLE, "majority").tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert aggregate(CYCLE, "borda").tolist() == pytest.approx([0.5, 0.5, 0.5])
    # Twice as many of the first kind: a beats b by 3 of 4, b beats c by 3 of 4, c and a are even.
    assert aggregate(CYCLE, "majority", weights=[2, 1, 1]).tolist() == [0.75, 0.5, 0.25]
    assert aggregate(CYCLE, "borda", weights=[2, 1, 1]).tolist() == pytest.approx(
        [0.625, 0.5, 0.375]
    )


def test_majority_and_borda_can_choose_differently():
    """Three of five rank a, b, c and two b, c, a: a wins by majority, b by Borda's count."""
    voters = [[3, 2, 1]] * 3 + [[1, 3, 2]] * 2
    assert aggregate(voters, "majority").tolist() == [1.0, 0.5, 0.0]
    # Borda's points: a 3 * 2, b 3 * 1 + 2 * 2, c 2 * 1, of 10 each.
    assert aggregate(voters, "borda").tolist() == pytest.approx([0.6, 0.7, 0.2])


def test_majority_wins_over_a_strong_minority_and_maximin_shields_it():
    scores = [[1.0, 0.0], [1.0, 0.0], [-9.0, 0.0]]
    assert aggregate(scores, "majority").argmax() == 0
    assert aggregate(scores, "mean").argmax() == 1
    assert aggregate(scores, "maximin").argmax() == 1


def test_ties_are_half():
    """One is indifferent, one prefers the first: support 3/4, a majority."""
    assert support(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([0.5, 0.5])).tolist() == [
        [0.5, 0.75],
        [0.25, 0.5],
    ]
    assert aggregate([[0.0, 0.0], [1.0, 0.0]], "borda").tolist() == [0.75, 0.25]
    assert aggregate([[0.0, 0.0], [1.0, 0.0]], "majority").tolist() == [1.0, 0.0]
    assert aggregate([[0.0, 0.0], [5.0, 5.0]], "majority").tolist() == [0.5, 0.5]
    # Weights whose halves differ by rounding are even all the same.
    even = aggregate([[1, 0], [1, 0], [0, 1]], "majority", weights=[0.1, 0.2, 0.3])
    assert even.tolist() == [0.5, 0.5]


def test_rankings_stay_within_a_prompt():
    scores = [[1.0, 100.0, 2.0, 50.0, 7.0]]
    prompts = ["p", "q", "p", "q", "alone"]
    for how in ("majority", "borda"):
        assert aggregate(scores, how, prompts).tolist() == [0.0, 1.0, 1.0, 0.0, 0.5]


def test_rankings_ignore_scale_and_origin():
    scores = np.random.default_rng(0).normal(size=(4, 6))
    stretched = scores * [[1.0], [20.0], [0.1], [3.0]] + [[5.0], [0.0], [-9.0], [1.0]]
    for how in ("majority", "borda"):
        assert aggregate(stretched, how).tolist() == aggregate(scores, how).tolist()
    assert not np.allclose(aggregate(stretched, "mean"), aggregate(scores, "mean"))


def test_a_reward_of_rewards():
    def length(prompts, completions, **columns):
        return [float(len(text)) for text in completions]

    def asked(prompts, completions, **columns):
        return [
            float(wish == text) for text, wish in zip(completions, columns["wish"], strict=True)
        ]

    asking = (["p", "p", "q"], ["aa", "b", "cccc"])
    mean = AggregateReward({"length": length, "asked": asked}, "mean", {"asked": 3, "length": 1})
    assert mean(*asking, wish=["b", "b", "c"]) == [0.5, 1.0, 1.0]
    majority = AggregateReward({"length": length}, "majority")
    assert majority(*asking) == [1.0, 0.0, 0.5]
    assert AggregateReward({"length": length}, "mean")([], []) == []
    assert majority([], []) == []


def test_bad_input():
    with pytest.raises(ConfigError, match="did you mean 'majority'"):
        aggregate(CYCLE, "majorty")
    with pytest.raises(ValueError, match=r"shape \[A, M\], got \[3\]"):
        aggregate([1.0, 2.0, 3.0], "mean")
    with pytest.raises(ValueError, match="finite"):
        aggregate([[np.nan]], "mean")
    with pytest.raises(ValueError, match="2 prompts for 3 completions"):
        aggregate(CYCLE, "borda", ["p", "q"])
    for weights in ([1, 2], [0, 0, 0], [1, -1, 1]):
        with pytest.raises(ValueError, match="expected 3 weights >= 0"):
            aggregate(CYCLE, "mean", weights=weights)
    with pytest.raises(ConfigError, match="unknown aggregation"):
        AggregateReward({"a": lambda p, c: [0.0]}, "sum")
    with pytest.raises(ConfigError, match="no rewards"):
        AggregateReward({})
    with pytest.raises(ConfigError, match=r"weights of \['b'\] for rewards of \['a'\]"):
        AggregateReward({"a": lambda p, c: [0.0]}, weights={"b": 1.0})
    for wrong in ([], [float("nan")]):
        with pytest.raises(RewardError, match="the reward of 'a' gave"):
            AggregateReward({"a": lambda p, c, wrong=wrong: wrong})(["p"], ["c"])
