"""Author and searcher on preference data: two reward models, ideas told apart, novelty."""

import json
import math

import numpy as np
import pytest

from textgym.tasks import load_task
from textgym.tasks.hh_author import HHAuthor, distinct, novelty, pieces


def dialogue(turn, reply):
    return f"\n\nHuman: {turn}\n\nAssistant: {reply}"


@pytest.fixture(autouse=True)
def own_hub_cache(tmp_path, monkeypatch):
    """`datasets` keeps what it has read; a test must not read another's."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture
def task(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    for split, count in (("train", 20), ("validation", 4), ("test", 4)):
        rows = [
            {
                "chosen": dialogue(f"Where is shop {i}?", f"Down the old road {i}."),
                "rejected": dialogue(f"Where is shop {i}?", f"I will not say {i}."),
            }
            for i in range(count)
        ]
        lines = "\n".join(map(json.dumps, rows))
        (folder / f"{split}.jsonl").write_text(lines)
    return load_task("author", data=folder, cache=folder / "cache")


def test_the_layout_of_preference_pairs_is_the_real_form(task):
    assert isinstance(task, HHAuthor)
    assert task.has_gold
    assert task.eval_samples_per_prompt == 10


def test_each_reward_model_learns_from_its_own_half(task, monkeypatch):
    seen = {}

    def remember(asked, texts, preferences, config=None):
        pairs = preferences(None, None)
        seen[tuple(texts)] = pairs
        return lambda prompts, completions, **columns: [0.0] * len(prompts)

    monkeypatch.setattr("textgym.tasks.hh_dialogue.cached_reward_model", remember)
    task.train_reward()
    task._trained("gold")
    proxy, gold = (set(pairs["prompt"]) for pairs in seen.values())
    assert len(proxy) == len(gold) == 10
    assert not proxy & gold
    names = {"prompt", "chosen", "rejected"}
    assert all(set(pairs.column_names) == names for pairs in seen.values())


def test_two_that_share_half_their_content_words_are_one_idea():
    texts = ["Try the baker.", "Try that baker now", "Ask your friend Ann.", "Ask Bob."]
    assert distinct(texts) == ["Try the baker.", "Ask your friend Ann.", "Ask Bob."]
    assert distinct([]) == []
    assert distinct(["", "the"]) == [""]  # neither has a content word


def test_novelty_is_the_share_of_unknown_trigrams():
    known = frozenset(pieces("down the old road"))
    assert pieces("down the old road") == [("down", "the", "old"), ("the", "old", "road")]
    assert novelty("down the old road", known) == 0
    assert novelty("down the old lane", known) == 0.5
    assert novelty("up a new lane", known) == 1
    assert novelty("", known) == 0
    assert novelty("two words", known) == 1  # a short text is one piece


def test_both_users_by_hand(task, monkeypatch):
    scores = {" Down the old road 0.": 0.0, " a": -50.0, " Take a new lane.": 50.0, " b": 50.0}

    def judge(prompts, completions):
        return [scores[text] for text in completions]

    monkeypatch.setattr(task, "judge", judge, raising=False)
    prompts = [dialogue("Where is shop 0?", "").rstrip()] * 4
    completions = [" a", " Take a new lane.", " b", " Take a new lane."]
    reference = [" Down the old road 0."] * 4
    found = task.set_measures(prompts, completions, 4, reference=reference)
    assert found["searcher"] == [pytest.approx(0.75)]
    assert found["author"] == [pytest.approx(1.0)]
    assert found["good_ideas"] == [2.0]  # the lane, twice, and b
    assert found["novel_ideas"] == [1.0]
    worse = task.set_measures(prompts, [" a"] * 4, 4, reference=reference)
    assert worse["good_ideas"] == [0.0]
    assert math.isnan(worse["novel_ideas"][0])
    np.testing.assert_allclose(task.gold(prompts[:1], [" Down the old road 0."]), [0.5])
