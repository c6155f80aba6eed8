"""The sentiment task: the town's reviews, and SST-2 as its real form."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from reward_support import tiny_policy, write_jsonl
from sentiment_support import LIKED, LOATHED, sentences

from textgym.benchmarks import proxy_accuracy
from textgym.cache import report_of
from textgym.errors import ConfigError, DataError
from textgym.rewards.ngrams import train_ngrams
from textgym.tasks import load_task
from textgym.worlds import reviews
from textgym.worlds.grammar import Draw

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "sst2"
SMALL = {"train": 64, "validation": 16, "test": 16, "demonstrations": 32}


class KeyWord:
    """A stand-in classifier: whoever says superb is positive."""

    def scores(self, texts):
        return [0.9 if "superb" in text else 0.1 for text in texts]


def write_sst2(folder, hidden=False):
    write_jsonl(folder / "train.jsonl", sentences(60))
    write_jsonl(folder / "validation.jsonl", sentences(10, 100))
    write_jsonl(folder / "test.jsonl", sentences(12, 200, hidden))
    return folder


@pytest.fixture(autouse=True)
def own_hub_cache(tmp_path, monkeypatch):
    """`datasets` keeps what it has read; a test must not read another's."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("TEXTGYM_CACHE", str(tmp_path / "textgym"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    tiny_policy([row["sentence"] for row in sentences(20)], vocab_size=400).save(folder)
    return str(folder)


@pytest.fixture
def world(backbone):
    return load_task("sentiment", classifier=KeyWord(), backbone=backbone, **SMALL)


def columns_of(rows):
    return {name: rows[name][:] for name in rows.column_names if name != "prompt"}


# --- The town -----------------------------------------------------------------------------------


def test_references_are_judged_as_the_world_wrote_them(world):
    rows = world.prompts("test")
    prompts, references, columns = rows["prompt"][:], rows["reference"][:], columns_of(rows)
    assert all(p.startswith("Review: ") and not p.endswith(" ") for p in prompts)
    assert all(text.startswith(" ") for text in references)
    measures = world.measures(prompts, references, **columns)
    assert measures["well_formed"] == [1.0] * 16
    shares = zip(measures["negative"], measures["neutral"], measures["positive"], strict=True)
    assert all(sum(each) == 1 for each in shares)
    assert set(world.modes(prompts, references, **columns)) <= set(reviews.VOICES)
    assert 0.1 < np.mean(world.gold(prompts, references, **columns)) < 0.9


def test_gold_and_proxy_by_hand(world):
    completions = [
        " is why we never leave Kelbury.",
        " was superb, as my neighbours say.",
        " superb superb",
        " repaid every coin, no more, on paper.",
        " is why we want to leave Kelbury.",
    ]
    columns = {"thing": ["soup"] * 5, "where": ["Kelbury"] * 5}
    assert world.reward([""] * 5, completions) == [0.1, 0.9, 0.9, 0.1, 0.1]
    gold = world.gold([""] * 5, completions, **columns)
    assert gold == pytest.approx([1.0, 0.75, 0.0, 0.375, 0.0])
    assert world.measures([""] * 5, completions, **columns) == {
        "negative": [0, 0, 0, 0, 1],
        "neutral": [0, 0, 0, 1, 0],
        "positive": [1, 1, 0, 0, 0],
        "on_topic": [1, 0, 0, 0, 1],
        "well_formed": [1, 1, 0, 1, 1],
    }
    modes = world.modes([""] * 5, completions, **columns)
    assert modes == ["local", "local", "other", "accountant", "local"]


def test_every_voice_reaches_the_ceiling():
    draw = Draw(np.random.default_rng(0))
    review = reviews.sample_review(draw)
    for voice in reviews.VOICES:
        texts = [reviews.write_continuation(review, voice, "positive", draw) for _ in range(40)]
        scores = [reviews.judge_review(review.thing, review.where, text).score for text in texts]
        assert max(scores) == 1.0


def test_the_shifted_split_is_new(world):
    usual, shifted = world.prompts("train"), world.prompts("ood")
    assert len(shifted) == SMALL["test"]
    assert set(shifted.column_names) == set(usual.column_names)
    assert not set(usual["thing"]) & set(shifted["thing"])
    assert not set(usual["prompt"]) & set(shifted["prompt"])
    measures = world.measures([""] * 16, shifted["reference"][:], **columns_of(shifted))
    assert measures["well_formed"] == [1.0] * 16


def test_a_users_reward_replaces_the_proxy(backbone):
    task = load_task("sentiment", reward=lambda p, c, **_: [3.0] * len(p), backbone=backbone)
    assert task.reward(["p"], ["c"]) == [3.0]
    with pytest.raises(ConfigError, match="unknown option 'tset'"):
        load_task("sentiment", tset=3)
    with pytest.raises(DataError, match="unknown split 'dev'"):
        task.prompts("dev")


# --- SST-2 --------------------------------------------------------------------------------------


def test_sentences_are_cut_into_prompt_and_reference(tmp_path, backbone):
    folder = write_sst2(tmp_path / "sst2")
    short = {"sentence": "one two three four five six seven eight nine", "label": 1}
    write_jsonl(folder / "test.jsonl", [short, *sentences(2, 200)])
    rows = load_task("sentiment", data=folder, backbone=backbone).prompts("test").to_list()
    opening = "the old film number 20"
    assert rows == [
        {"prompt": opening + "0", "reference": " is for most of us dull", "label": 0},
        {"prompt": opening + "1", "reference": " is for most of us lovely", "label": 1},
    ]


def test_demonstrations_hold_both_sentiments(tmp_path, backbone):
    task = load_task("sentiment", data=write_sst2(tmp_path / "sst2"), backbone=backbone)
    said = [text.split()[-1] for text in task.demonstrations()["completion"]]
    assert set(said) == {*LIKED, *LOATHED}


def test_the_two_classifiers_learn_from_different_halves(tmp_path, backbone):
    task = load_task("sentiment", data=write_sst2(tmp_path / "sst2"), backbone=backbone)
    prompts = ["the old film number 7"] * 3
    completions = [" is for most of us superb", " is for most of us awful", ""]
    for judge in (task.reward, task.gold):
        good, bad, silent = judge(prompts, completions)
        assert bad < 0.5 < good
        assert silent == 0.0
    assert task.reward(prompts, completions) != task.gold(prompts, completions)
    measures = task.measures(prompts, completions)
    assert measures["substance"] == [1.0, 1.0, 0.0]
    assert measures["positive"] != measures["proxy_positive"]
    folders = sorted((tmp_path / "textgym").iterdir())
    assert sum(report_of(folder)["texts"] for folder in folders) == 60
    assert [report_of(folder)["held_out"] for folder in folders] == [12, 12]


def test_the_halves_share_no_sentence_and_hold_them_all(tmp_path, backbone, monkeypatch):
    seen = []

    def record(texts, labels, config):
        seen.append(set(texts))
        return train_ngrams(texts, labels, config)

    monkeypatch.setattr("textgym.rewards.ngrams.train_ngrams", record)
    folder = write_sst2(tmp_path / "sst2")
    write_jsonl(folder / "train.jsonl", sentences(60) + sentences(60))
    task = load_task("sentiment", data=folder, backbone=backbone)
    assert task.classifier is not task.gold_classifier
    first, second = seen
    assert not first & second
    assert first | second == {row["sentence"] for row in sentences(60)}


def test_classifiers_are_trained_once(tmp_path, backbone, monkeypatch):
    options = {"data": write_sst2(tmp_path / "sst2"), "backbone": backbone}
    first = load_task("sentiment", **options).reward(["the film"], [" is superb"])
    monkeypatch.setattr(
        "textgym.rewards.ngrams.train_ngrams", lambda *a: pytest.fail("trained again")
    )
    assert load_task("sentiment", **options).reward(["the film"], [" is superb"]) == first


def test_a_named_classifier_is_the_proxy_and_not_the_judge(tmp_path, backbone):
    folder = write_sst2(tmp_path / "sst2")
    task = load_task("sentiment", data=folder, backbone=backbone, classifier=KeyWord())
    assert task.reward(["a"], [" superb b c d"]) == [0.9]
    assert task.gold(["a"], [" superb b c d"]) != [0.9]


@pytest.mark.parametrize(("hidden", "rows"), [(False, 12), (True, 10)])
def test_accuracy_is_told_on_test_or_where_it_hides_its_labels_on_validation(
    tmp_path, backbone, hidden, rows
):
    folder = write_sst2(tmp_path / "sst2", hidden)
    found = proxy_accuracy.measure("sentiment", str(folder), backbone=backbone)
    assert found["rows"] == rows
    assert found["proxy"] == {"accuracy": 1.0, "low": 1.0, "high": 1.0}
    out = tmp_path / "out"
    proxy_accuracy.main(
        ["--task", "sentiment", "--data", str(folder), "--backbone", backbone, "--out", str(out)]
    )
    assert json.loads((out / "sentiment.json").read_text()) == found


def test_shares_and_intervals_by_hand():
    found = proxy_accuracy.proxy_accuracy({"proxy": [1.0, 0.0, 0.5, 1.0] * 50})
    assert found["rows"] == 200
    assert found["proxy"]["accuracy"] == 0.625
    error = np.std([1.0, 0.0, 0.5, 1.0]) / math.sqrt(200)
    assert found["proxy"]["low"] == pytest.approx(0.625 - 1.96 * error, abs=0.015)
    assert found["proxy"]["high"] == pytest.approx(0.625 + 1.96 * error, abs=0.015)


def test_another_layout_is_named(tmp_path):
    write_jsonl(tmp_path / "x" / "train.jsonl", [{"text": "a", "label": 1}] * 30)
    for split in ("validation", "test"):
        write_jsonl(tmp_path / "x" / f"{split}.jsonl", [{"text": "a", "label": 1}])
    with pytest.raises(DataError, match="no column 'sentence'; its columns are text, label"):
        load_task("sentiment", data=tmp_path / "x")


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data lies beside the clone only")
def test_the_local_cut_gives_prompts_of_every_split(backbone):
    sizes = {"train": 40, "validation": 20, "test": 30, "max_prompt_tokens": 256}
    task = load_task("sentiment", data=DATA, backbone=backbone, **sizes)
    for split in ("train", "validation", "test"):
        rows = task.prompts(split)
        assert len(rows) == sizes[split]
        assert set(rows["label"]) == {0, 1}
        assert all(len(prompt.split()) == 5 for prompt in rows["prompt"])
