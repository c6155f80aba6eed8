import json
import math

import numpy as np
import pytest
import torch
from reward_support import tiny_policy

from textgym.errors import ConfigError, DataError, ModelError, RewardError
from textgym.rewards.detoxify import Toxicity
from textgym.rewards.learned import RewardModelConfig, load_reward_model
from textgym.tasks import load_task
from textgym.tasks.world_data import PARTS, report_text, world_rows
from textgym.tasks.world_reward import WorldRewardConfig, make_world_reward, order_accuracy
from textgym.tasks.world_toxicity import ToxicityConfig, make_world_toxicity, toxicity_texts
from textgym.worlds import forum, reports

SMALL = {"train": 64, "validation": 16, "test": 16, "demonstrations": 32}
SPLITS = ("train", "validation", "test")
FACTS = {"event": "barn", "who": "Ada", "where": "Oakford", "when": "09:15", "amount": "420"}


class KeyWord:
    """A stand-in classifier: toxic is who says fool."""

    def predict(self, texts):
        scores = [float("fool" in text) for text in texts]
        return {"toxicity": scores if len(scores) > 1 else scores[0]}


OPTIONS = {"summarize": {}, "toxicity": {"classifier": Toxicity(KeyWord())}}


@pytest.fixture(params=sorted(OPTIONS))
def task(request):
    return load_task(request.param, **OPTIONS[request.param], **SMALL)


def columns_of(rows):
    return {name: rows[name][:] for name in rows.column_names if name != "prompt"}


def test_splits_are_disjoint_and_of_the_asked_size(task):
    seen = set()
    for split in SPLITS:
        prompts = task.prompts(split)["prompt"][:]
        assert len(prompts) == SMALL[split]
        assert not seen & set(prompts)
        seen |= set(prompts)
    demonstrations = task.demonstrations()
    assert demonstrations.column_names == ["prompt", "completion"]
    assert len(demonstrations) == 32
    assert not seen & set(demonstrations["prompt"])


def test_a_text_belongs_to_one_part_even_where_texts_are_few():
    def write(draw):
        return {"prompt": f"prompt {draw.integer(0, 60)}"}

    parts = [set(world_rows(write, part, 200, seed=0)["prompt"]) for part in PARTS]
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == 60


def test_rows_follow_the_seed_and_more_rows_extend_fewer(task):
    again = load_task(task.name, **SMALL)
    more = load_task(task.name, **{**SMALL, "test": 24})
    other = load_task(task.name, **SMALL, seed=1)
    rows = task.prompts("test").to_list()
    assert again.prompts("test").to_list() == rows
    assert more.prompts("test").to_list()[:16] == rows
    assert other.prompts("test").to_list() != rows


def test_the_references_are_judged_as_the_world_wrote_them(task):
    rows = task.prompts("test")
    prompts, references, columns = rows["prompt"][:], rows["reference"][:], columns_of(rows)
    gold = task.gold(prompts, references, **columns)
    assert all(0 <= score <= 1 for score in gold)
    assert 0.1 < np.mean(gold) < 0.9, "references should leave room above and below"
    measures = task.measures(prompts, references, **columns)
    assert measures["well_formed"] == [1.0] * 16
    assert "other" not in task.modes(prompts, references, **columns)
    assert all(text.startswith(" ") for text in references)
    assert all(p.endswith((":",)) for p in prompts)


def test_a_seed_that_is_no_number_is_one_clear_line():
    with pytest.raises(ConfigError, match="seed must be an integer, got 'x'"):
        load_task("caveats", seed="x")


def test_an_unknown_split_or_option(task):
    with pytest.raises(DataError, match="unknown split 'dev'"):
        task.prompts("dev")
    with pytest.raises(ConfigError, match="unknown option 'tran'; did you mean 'train'"):
        load_task(task.name, tran=3)
    with pytest.raises(ConfigError, match="test must be >= 1, got 0"):
        load_task(task.name, test=0)


def test_windows_can_be_set(task):
    narrow = load_task(task.name, max_prompt_tokens=7, max_response_tokens=5)
    assert (narrow.max_prompt_tokens, narrow.max_response_tokens) == (7, 5)
    assert task.max_prompt_tokens > 7


def test_summaries_are_judged_by_their_facts():
    task = load_task("summarize")
    prompts = ["Report: ...\nSummary:"] * 3
    summaries = [" A barn, Ada, Oakford.", " A barn, Bob, Oakford.", ""]
    columns = {"facts": [json.dumps(FACTS)] * 3}
    # 3 of 5 facts; 2 of 5 and an invented name; nothing.
    assert task.gold(prompts, summaries, **columns) == pytest.approx([0.6, 0.2, 0.0])
    measures = task.measures(prompts, summaries, **columns)
    assert measures["covered"] == [3, 2, 0]
    assert measures["invented"] == [0, 1, 0]
    assert "rouge1" not in measures
    rouge = task.measures(prompts, summaries, reference=["a barn Ada Oakford"] * 3, **columns)
    assert rouge["rouge1"] == pytest.approx([1.0, 0.75, 0.0])
    with pytest.raises(RewardError, match="column 'facts'; the columns are topic"):
        task.gold(prompts, summaries, topic=["barn"] * 3)


def test_a_reply_must_be_kind_and_on_topic_to_be_rewarded():
    task = load_task("toxicity", classifier=Toxicity(KeyWord()))
    prompts = ["Remark: The tram in Oakford is a disgrace.\nReply:"] * 4
    replies = [" I love the tram!", " Go away, fool, and take the tram.", "", " Lovely weather."]
    assert task.reward(prompts, replies) == [1.0, 0.0, 0.0, 0.0]
    columns = {"thing": ["tram"] * 4, "where": ["Oakford"] * 4}
    measures = task.measures(prompts, replies, **columns)
    assert measures["toxicity"] == [0.0, 1.0, 0.0, 0.0]
    assert measures["insult"] == [0.0, 1.0, 0.0, 0.0]
    with pytest.raises(RewardError, match="column 'thing'"):
        task.gold(prompts, replies)


def test_modes_name_the_voice():
    summaries, replies = load_task("summarize"), load_task("toxicity")
    draw = reports.Draw(np.random.default_rng(0))
    remark = forum.sample_remark(draw)
    texts = [" " + forum.write_reply(remark, voice, draw) for voice in forum.VOICES]
    columns = {"thing": [remark.thing] * 5, "where": [remark.where] * 5}
    assert replies.modes([""] * 5, texts, **columns) == list(forum.VOICES)
    report = reports.sample_report(draw)
    texts = [" " + reports.write_summary(report, writer, draw) for writer in reports.WRITERS]
    found = summaries.modes([""] * 5, texts, facts=[json.dumps(report.facts)] * 5)
    assert found == list(reports.WRITERS)


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_a_users_reward_replaces_the_proxy(name):
    task = load_task(name, reward=lambda prompts, completions, **columns: [3.0] * len(prompts))
    assert task.reward(["p"], ["c"]) == [3.0]
    with pytest.raises(ModelError):
        load_task(name, reward="/tmp").reward(["p"], ["c"])


def test_report_text_undoes_the_prompt():
    row = load_task("summarize", **SMALL).prompts("test")[0]
    assert reports.accepts_report(report_text(row["prompt"]))


def test_order_accuracy_by_hand():
    # Pairs of unequal gold: row 0 has (0, 1) and (0, 2), both right; row 1 has (1, 2), a tie.
    scores = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 5.0]])
    gold = np.array([[1.0, 0.0, 0.0], [0.5, 0.1, 0.2]])
    # Row 1: (0, 1) and (0, 2) wrong, (1, 2) tied in score, so wrong.
    assert order_accuracy(scores, gold) == pytest.approx(2 / 5)
    assert order_accuracy(scores, np.zeros_like(gold)) == 0.5


def test_world_reward_is_trained_on_comparisons(tmp_path):
    texts = load_task("summarize", **SMALL).prompts("train")["prompt"][:]
    policy = tiny_policy(texts, vocab_size=600, context=256)
    config = WorldRewardConfig(
        reports=8,
        held_out=6,
        samples=1,
        written=3,
        training=RewardModelConfig(epochs=1, batch_size=8, max_tokens=256),
    )
    torch.rand(2)  # the global state must not matter
    report = make_world_reward(policy, tmp_path / "a", 3, config)
    assert report == make_world_reward(policy, tmp_path / "b", 3, config)
    assert report["pairs"] == 24
    assert 0.5 < report["annotator_accuracy"] <= 1
    assert all(math.isfinite(value) for value in report.values())
    model = load_reward_model(tmp_path / "a")
    assert model.std > 0
    task = load_task("summarize", reward=tmp_path / "a", **SMALL)
    rows = task.prompts("test")
    rewards = task.reward(rows["prompt"][:], rows["reference"][:], **columns_of(rows))
    assert len(set(rewards)) > 1


def test_world_toxicity_labels_and_training(tmp_path):
    texts, labels = toxicity_texts(300, seed=0)
    for text, label in zip(texts, labels, strict=True):
        assert label == any(
            insult in text.lower().split() or insult in text for insult in forum.INSULTS
        )
    assert 0.1 < np.mean(labels) < 0.4
    config = ToxicityConfig(vocab_size=400, width=16, heads=2, layers=1, epochs=1)
    report = make_world_toxicity(tmp_path, config=config, texts=300)
    assert report["texts"] == 300
