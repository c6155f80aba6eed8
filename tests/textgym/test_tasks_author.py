"""The author task: both users' satisfaction, on cases worked by hand."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from reward_support import tiny_policy

from textgym.errors import ConfigError
from textgym.rewards.learned import RewardModelConfig
from textgym.tasks import load_task
from textgym.tasks.author import ASKED, SEEN, expected_distinct, make_author
from textgym.tasks.world_reward import WorldRewardConfig, make_world_reward
from textgym.worlds import requests, stories
from textgym.worlds.catalogue import houses
from textgym.worlds.grammar import Draw
from textgym.worlds.stories import Idea, Opening
from textgym.worlds.town import request_prompt

SMALL = {"train": 120, "validation": 16, "test": 40, "demonstrations": 80}
IDA = Opening("", "Ida", "lamp", "")


def nothing(prompts, completions, **columns):
    return [0.0] * len(completions)


@pytest.fixture(scope="module")
def task():
    return make_author(reward=nothing, **SMALL)


def columns_of(rows):
    return {name: rows[name][:] for name in rows.column_names if name != "prompt"}


def asked(k, **about):
    return {name: [about.get(name, "")] * k for name in ASKED}


def told(turn, ending, teller="plain"):
    draw = Draw(np.random.default_rng(0))
    return " " + stories.write_continuation(IDA, Idea(turn, ending), teller, draw)


def sets(task, texts, **about):
    columns = asked(len(texts), **about)
    return task.set_measures(["p"] * len(texts), texts, len(texts), **columns)


STORY = {"kind": "story", "hero": "Ida", "thing": "lamp"}
HOUSE = houses()[0]
QUESTION = {"kind": "question", "house": HOUSE.kind, "town": HOUSE.town, "attribute": "price"}
RIGHT = f" {HOUSE.facts['price']} pence."
# Full marks, three ideas; of one of them a second telling.
WOLVES, AGAIN = told("wolves", "song"), told("wolves", "song", "wry")
DOOR = told("door", "truth")
# Quiet and good: 0.8. Resolved but unfit: 0.6. Nothing that the grammar accepts: 0.
CROWD, COINS, NOISE = told("crowd", "home"), told("coins", "home"), " Once there was a lamp."


def test_both_users_of_a_story_by_hand(task):
    ten = [WOLVES, AGAIN, DOOR, CROWD, CROWD, COINS, NOISE, NOISE, NOISE, NOISE]
    found = sets(task, ten, **STORY)
    assert found["searcher"] == [pytest.approx((3 * 1 + 2 * 0.8 + 0.6) / 10)]
    assert found["author"] == [1]
    assert found["good_ideas"] == [3]
    ideas = [Idea("wolves", "song"), Idea("door", "truth"), Idea("crowd", "home")]
    novel = [stories.withheld("lamp", idea) for idea in ideas]
    assert found["novel_ideas"] == [np.mean(novel)]


def test_an_author_without_good_ideas(task):
    found = sets(task, [COINS, NOISE], **STORY)
    assert found["author"] == [0.6]  # the best of the two there are
    assert found["good_ideas"] == [0]
    assert math.isnan(found["novel_ideas"][0])


def test_novel_is_the_share_of_ideas_not_of_tellings(task):
    ideas = [Idea("wolves", "song"), Idea("door", "truth"), Idea("fire", "led")]
    hidden = [i for i in stories.IDEAS if stories.withheld("lamp", i)]
    new = next(i for i in hidden if stories.idea_score("lamp", i) == 1)
    old = next(i for i in ideas if not stories.withheld("lamp", i))
    found = sets(task, [told(*new), told(*old), told(*old, "wry"), told(*old, "gloomy")], **STORY)
    assert found["novel_ideas"] == [0.5]
    assert found["good_ideas"] == [2]


def test_both_users_of_a_question_by_hand(task):
    found = sets(task, [RIGHT, *[" 1 pence."] * 9], **QUESTION)
    assert found["searcher"] == [0.1]
    assert found["author"] == [1]
    assert math.isnan(found["good_ideas"][0])
    assert math.isnan(found["novel_ideas"][0])


def test_of_more_than_ten_an_author_is_shown_ten(task):
    # One good in twenty: half of the sets of ten have it.
    twenty = [WOLVES, *[NOISE] * 19]
    found = sets(task, twenty, **STORY)
    assert found["author"] == [pytest.approx(0.5)]
    assert found["good_ideas"] == [pytest.approx(0.5)]


@pytest.mark.parametrize("seen", [1, 2, 3, 4, 5])
def test_expected_distinct_is_the_mean_over_all_subsets(seen):
    kinds = ["a", "b", "a", None, "c"]
    counted = [len({k for k in part if k}) for part in itertools.combinations(kinds, seen)]
    assert expected_distinct(kinds, seen) == pytest.approx(np.mean(counted))


def test_sets_are_prompt_major(task):
    texts = [WOLVES, DOOR, RIGHT, " 1 pence."]
    columns = {n: [STORY.get(n, "")] * 2 + [QUESTION.get(n, "")] * 2 for n in ASKED}
    found = task.set_measures(["p", "p", "q", "q"], texts, 2, **columns)
    assert found["searcher"] == [1, 0.5]
    assert found["good_ideas"][0] == 2
    assert math.isnan(found["good_ideas"][1])


def test_measures_do_not_apply_to_the_other_kind(task):
    texts = [WOLVES, RIGHT]
    columns = {n: [STORY.get(n, ""), QUESTION.get(n, "")] for n in ASKED}
    found = task.measures(["p", "q"], texts, **columns)
    assert math.isnan(found["right"][0])
    assert found["right"][1] == 1
    for name in ("coherent", "fits", "resolves", "full_marks", "novel"):
        assert math.isnan(found[name][1])
    assert [found[n][0] for n in ("coherent", "fits", "resolves", "full_marks")] == [1] * 4
    assert task.gold(["p", "q"], texts, **columns) == [1, 1]
    assert task.modes(["p", "q"], texts, **columns) == ["plain", "plain, answering"]


def test_rows_are_half_stories_and_the_demonstrations_can_be_beaten(task):
    rows = task.prompts("train")
    kinds = Counter(rows["kind"])
    assert 0.35 < kinds["story"] / len(rows) < 0.65
    columns = columns_of(rows)
    gold = np.array(task.gold(rows["prompt"][:], columns["reference"], **columns))
    story = np.array(columns["kind"]) == "story"
    assert 0.5 < gold[story].mean() < 0.8
    assert 0.6 < gold[~story].mean() < 0.9
    voices = task.modes(rows["prompt"][:], columns["reference"], **columns)
    assert "other" not in voices
    assert len(set(voices)) == 9


def test_the_shifted_split_is_one_that_the_town_never_writes(task):
    rows = task.prompts("ood")
    assert len(rows) == SMALL["test"]
    columns = columns_of(rows)
    things = {thing for thing in columns["thing"] if thing}
    assert things
    assert things <= set(stories.UNSEEN_THINGS)
    draw = Draw(np.random.default_rng(0))
    seen = {request_prompt(requests.sample_question(draw).text) for _ in range(5000)}
    assert not seen & set(rows["prompt"])
    voices = task.modes(rows["prompt"][:], columns["reference"], **columns)
    assert "other" not in voices


def test_completions_to_compare_are_the_corpus_s(task):
    draw = Draw(np.random.default_rng(0))
    asking = next(row for row in task.prompts("validation") if row["kind"] == "question")
    asked_back = [text.endswith("?") for text in task.write_completions(asking, 200, draw)]
    assert 0.25 < np.mean(asked_back) < 0.45  # the corpus's 0.35, not the demonstrations' 0.05
    for row in task.prompts("validation"):
        texts = task.write_completions(row, 6, draw)
        columns = asked(6, **{name: row[name] for name in ASKED})
        assert len(texts) == 6
        if row["kind"] == "story":
            assert "other" not in task.modes([row["prompt"]] * 6, texts, **columns)
            assert not any(task.measures([row["prompt"]] * 6, texts, **columns)["novel"])


def test_an_author_is_shown_ten(task):
    assert task.eval_samples_per_prompt == SEEN == 10


def test_a_reward_is_taught_by_comparisons(tmp_path, task):
    policy = tiny_policy(task.prompts("train")["prompt"][:], vocab_size=400)
    training = RewardModelConfig(epochs=1, batch_size=8, max_tokens=128)
    config = WorldRewardConfig(reports=12, held_out=4, training=training)
    report = make_world_reward(policy, tmp_path / "reward", 0, config, task="author")
    assert report["pairs"] == 36
    assert 0.5 < report["annotator_accuracy"] <= 1
    assert "truth_accuracy" not in report
    learned = make_author(reward=tmp_path / "reward", **SMALL)
    rows = learned.prompts("test")
    rewards = learned.reward(rows["prompt"][:], rows["reference"][:], **columns_of(rows))
    assert len(set(rewards)) > 10


def test_no_reward_is_taught_where_no_world_writes():
    with pytest.raises(ConfigError, match="caveats"):
        load_task("caveats", train=2).write_completions({}, 1, Draw(np.random.default_rng(0)))
