from collections import Counter

import numpy as np
import pytest

from textgym.errors import ConfigError, ModelError, RewardError, UnknownNameError
from textgym.rewards import REWARDS, load_reward
from textgym.rewards.preferences import Annotator, simulate_preferences
from textgym.rewards.rouge import Rouge, rouge_scores
from textgym.rewards.rules import Relevance, Substance, content_words, relevance, substance


def test_rouge_by_hand():
    # 3 of 3 candidate words are among the 4 of the reference: P = 1, R = 3/4, F1 = 6/7.
    # Bigrams "the cat", "cat sat" against "the cat", "cat sat", "sat down": P = 1, R = 2/3.
    scores = rouge_scores(["the cat sat"], ["the cat sat down"])
    assert scores["rouge1"] == pytest.approx([6 / 7])
    assert scores["rouge2"] == pytest.approx([4 / 5])
    # The longest common subsequence of "a b c d" and "b a c d" has 3 words.
    assert rouge_scores(["p q r s"], ["q p r s"])["rougeL"] == pytest.approx([3 / 4])


def test_rouge_takes_the_best_of_several_references():
    several = rouge_scores(["red boat", "red boat"], [["blue car", "red boat"], ["blue car"]])
    assert several["rouge1"] == [1.0, 0.0]


def test_rouge_reward_reads_its_column():
    reward = Rouge("rouge1")
    assert reward(["p"], ["red boat"], reference=["red boat"]) == [1.0]
    assert reward(["p"], ["red"], reference=["blue"], references=[["green", "red"]]) == [1.0]
    with pytest.raises(RewardError, match=r"'reference'.*the columns are topic"):
        reward(["p"], ["red"], topic=["x"])
    with pytest.raises(RewardError, match="1 references for 2 completions"):
        rouge_scores(["a", "b"], ["a"])
    with pytest.raises(ConfigError, match="unknown ROUGE kind 'rouge9'"):
        Rouge("rouge9")


def test_content_words_leave_out_what_carries_no_topic():
    prompt = "Remark: What do you think of the trams in Oakford?\nReply:"
    assert content_words(prompt) == {"think", "tram", "oakford"}


def test_relevance_wants_a_shared_content_word():
    prompt = "Remark: The tram in Oakford is late.\nReply:"
    replies = [" I love that tram!", " The remark in the reply is it.", "", " Trams are fun."]
    assert relevance([prompt] * 4, replies) == [1.0, 0.0, 0.0, 1.0]
    assert Relevance()([prompt], replies[:1], other=["x"]) == [1.0]


def test_substance_counts_distinct_words():
    assert substance(["", "no", "No no NO no", "one two three four five"]) == [0, 0.25, 0.25, 1]
    assert Substance(2)(["p"], ["one"]) == [0.5]
    with pytest.raises(ConfigError, match="min_words must be >= 1, got 0"):
        Substance(0)


def test_every_registered_reward_is_importable():
    for name in REWARDS:
        assert callable(REWARDS.load(name))


def test_load_reward(tmp_path):
    assert load_reward("substance", min_words=2)(["p"], ["one"]) == [0.5]

    def mine(prompts, completions, **columns):
        return [7.0] * len(prompts)

    assert load_reward(mine) is mine
    plugin = tmp_path / "mine.py"
    plugin.write_text("def make():\n    return lambda p, c, **k: [1.0] * len(p)\n")
    assert load_reward(f"{plugin}:make")(["a"], ["b"]) == [1.0]
    with pytest.raises(UnknownNameError, match="did you mean 'rouge'"):
        load_reward("rogue")
    with pytest.raises(ModelError, match=r"it has no config\.json"):
        load_reward(tmp_path)


def test_annotator_follows_bradley_terry_with_flips():
    # sigmoid(2 * (0.9 - 0.4)) = 0.7311; flipping 10% gives 0.1 + 0.8 * 0.7311 = 0.6849.
    annotator = Annotator(rationality=2.0, flips=0.1)
    picks = annotator.prefers_first(
        np.full(40_000, 0.9), np.full(40_000, 0.4), np.random.default_rng(0)
    )
    assert picks.mean() == pytest.approx(0.6849, abs=0.01)


def test_annotator_at_its_extremes():
    never_errs = Annotator(rationality=np.inf, flips=0.0)
    a, b = np.array([0.2, 0.1] * 500), np.array([0.1, 0.2] * 500)
    assert never_errs.prefers_first(a, b, np.random.default_rng(0)).tolist() == [True, False] * 500
    ties = never_errs.prefers_first(np.ones(4000), np.ones(4000), np.random.default_rng(0))
    assert ties.mean() == pytest.approx(0.5, abs=0.03)
    for wrong in ({"rationality": -1.0}, {"rationality": float("nan")}, {"flips": 0.6}):
        with pytest.raises(ConfigError):
            Annotator(**wrong)


def test_preferences_choose_pairs_of_different_texts_from_one_prompt():
    rows = simulate_preferences(
        ["p", "q", "r"],
        [["bad", "good", "bad"], ["same", "same"], ["x", "y"]],
        [[0.0, 1.0, 0.0], [0.3, 0.9], [1.0, 0.0]],
        Annotator(rationality=np.inf, flips=0.0),
        np.random.default_rng(1),
        pairs_per_prompt=5,
    )
    found = Counter(zip(rows["prompt"], rows["chosen"], rows["rejected"], strict=True))
    assert found == {("p", "good", "bad"): 2, ("r", "x", "y"): 1}


def test_preferences_follow_their_generator():
    def draw(seed):
        texts = [[f"a{i}", f"b{i}", f"c{i}"] for i in range(20)]
        return simulate_preferences(
            [str(i) for i in range(20)],
            texts,
            [[0.1, 0.5, 0.9]] * 20,
            Annotator(),
            np.random.default_rng(seed),
        ).to_list()

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)
