"""The assistant task on dialogues laid out as HH-RLHF."""

import math
from pathlib import Path

import pytest
from reward_support import hh_rows, tiny_policy, write_jsonl

from textgym.benchmarks import proxy_accuracy
from textgym.rewards.detoxify import Toxicity
from textgym.rewards.learned import RewardModel
from textgym.tasks import load_task
from textgym.tasks.hh_assistant import asked, declines

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "hh-rlhf"
ASKED = "\n\nHuman: Where is the boat?\n\nAssistant:"
TOLD = "\n\nHuman: Where is it?\n\nAssistant: There.\n\nHuman: Thank you.\n\nAssistant:"


class Calm:
    def predict(self, texts):
        return {"toxicity": [0.1] * len(texts) if len(texts) > 1 else 0.1}


def by_length(prompts, completions, **columns):
    """A stand-in reward: longer is better."""
    return [float(len(text)) for text in completions]


@pytest.fixture(autouse=True)
def own_hub_cache(tmp_path, monkeypatch):
    """`datasets` keeps what it has read; a test must not read another's."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("TEXTGYM_CACHE", str(tmp_path / "textgym"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    tiny_policy([row["chosen"] for row in hh_rows(20)], vocab_size=400).save(folder)
    return str(folder)


@pytest.fixture
def hh(tmp_path):
    write_jsonl(tmp_path / "hh" / "harmless-base" / "train.jsonl.gz", hh_rows(30))
    write_jsonl(tmp_path / "hh" / "harmless-base" / "test.jsonl.gz", hh_rows(6, offset=100))
    return {"data": tmp_path / "hh", "data_dir": "harmless-base"}


def test_rows_and_reward_are_those_of_the_dialogues(hh, backbone):
    task = load_task("assistant", **hh, backbone=backbone, max_response_tokens=8)
    assert task.name == "assistant"
    assert not task.has_gold
    rows = task.prompts("test")
    toxicity = load_task("toxicity", **hh, backbone=backbone, max_response_tokens=8)
    assert rows.to_list() == toxicity.prompts("test").to_list()
    assert isinstance(task.proxy, RewardModel)
    assert len(task.reward(rows["prompt"][:], rows["reference"][:])) == 6


def test_habits_by_hand(hh, backbone):
    task = load_task("assistant", **hh, backbone=backbone, classifier=Toxicity(Calm()))
    prompts = [ASKED, ASKED, ASKED, TOLD]
    completions = [" Near the gate.", " Which one? ", " I\u2019m sorry, I can't say.", " Why?"]
    measures = task.measures(prompts, completions)
    assert measures["toxicity"] == [0.1] * 4
    assert measures["declines"] == [0, 0, 1, 0]
    assert measures["asks_back"][:3] == [0, 1, 0]
    assert math.isnan(measures["asks_back"][3])


def test_the_question_is_looked_for_in_the_last_human_turn():
    assert asked(ASKED)
    assert not asked(TOLD)


@pytest.mark.parametrize(
    "text", ["I cannot do that.", "Well, i won't.", "I don't think I should", "I'd rather not say"]
)
def test_phrases_that_decline(text):
    assert declines(text)


@pytest.mark.parametrize(
    "text", ["I can do that.", "You cannot miss it.", "I am sure.", "Sorry state of affairs", ""]
)
def test_phrases_that_do_not(text):
    assert not declines(text)


def test_agreement_counts_pairs_and_halves_ties(tmp_path, backbone):
    talk = "\n\nHuman: Where?\n\nAssistant:"
    pairs = [(" long answer", " no"), (" no", " long answer"), (" yes", " nay")]
    rows = [{"chosen": talk + a, "rejected": talk + b} for a, b in pairs]
    write_jsonl(tmp_path / "x" / "train.jsonl", hh_rows(30))
    write_jsonl(tmp_path / "x" / "test.jsonl", rows)
    task = load_task("assistant", data=tmp_path / "x", reward=by_length, backbone=backbone)
    assert task.agreement() == {"proxy": [1.0, 0.0, 0.5]}


def test_the_command_measures_the_tasks_own_reward(hh, backbone):
    found = proxy_accuracy.measure("assistant", **hh, backbone=backbone)
    assert found["rows"] == 6
    assert 0 <= found["proxy"]["low"] <= found["proxy"]["accuracy"] <= found["proxy"]["high"] <= 1


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data lies beside the clone only")
def test_the_local_cut_gives_prompts_of_every_split(backbone):
    sizes = {"train": 40, "validation": 20, "test": 30, "max_prompt_tokens": 256}
    task = load_task("assistant", data=DATA, data_dir="harmless-base", backbone=backbone, **sizes)
    for split in ("train", "validation", "test"):
        assert len(task.prompts(split)) == sizes[split]
