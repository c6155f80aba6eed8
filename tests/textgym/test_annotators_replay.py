import gzip
import json
from pathlib import Path

import pytest
from annotator_support import answer, pair, single
from datasets import Dataset

from textgym.errors import ConfigError, DataError, FeedbackError
from textgym.feedback.annotators.agreement import agreement
from textgym.feedback.annotators.base import Annotator
from textgym.feedback.annotators.replay import ReplayAnnotator, load_choices
from textgym.feedback.formats import from_preferences

HH = Path(__file__).parents[2].parent / "shared" / "data" / "hh-rlhf"


def test_stored_answers_are_given_again_and_others_left_out():
    stored = [
        answer(pair("p"), 1, "ann", order=(1, 0), seconds=2.5, timestamp=9.0),
        answer(single("rating", "text"), 4, "ann"),
    ]
    replay = ReplayAnnotator(stored, "again", "people")
    assert isinstance(replay, Annotator)
    assert len(replay) == 2
    asked = [pair("p", "b", "a", topic="x"), pair("q"), single("rating", "text"), single("binary")]
    first, second = replay.label(asked)
    assert (first.question, first.label, first.order) == (asked[0], 0, (0, 1))
    assert (first.seconds, first.timestamp) == (2.5, 9.0)
    assert (second.question, second.label) == (asked[2], 4)
    assert {(f.annotator, f.group) for f in (first, second)} == {("again", "people")}
    assert replay.missing == 2
    replay.label([pair("q")])
    assert replay.missing == 3


def test_a_missing_answer_can_be_an_error():
    replay = ReplayAnnotator([answer(pair("p"), 1)], on_missing="raise")
    assert len(replay.label([pair("p")])) == 1
    with pytest.raises(
        FeedbackError, match=r"2 of 3 questions have no stored answer.*'second one'"
    ):
        replay.label([pair("p"), pair("second one"), pair("third")])
    assert replay.missing == 0


def test_the_first_of_several_answers_counts():
    replay = ReplayAnnotator([answer(pair(), 0, "ann"), answer(pair("p", "b", "a"), 0, "bob")])
    assert [f.label for f in replay.label([pair()])] == [0]


def test_settings_of_a_replay():
    with pytest.raises(ConfigError, match="on_missing must be one of"):
        ReplayAnnotator([], on_missing="guess")
    with pytest.raises(ConfigError, match="needs a name"):
        ReplayAnnotator([], "")


def test_a_preference_data_set_replays():
    rows = Dataset.from_dict({"prompt": ["p"], "chosen": ["a"], "rejected": ["b"]})
    (given,) = ReplayAnnotator(from_preferences(rows)).label([pair("p", "b", "a")])
    assert given.label == 0


def write(folder, rows, split="train"):
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{split}.jsonl.gz").write_bytes(gzip.compress(text.encode()))


def dialogue(answer, question="Hi"):
    return f"\n\nHuman: {question}\n\nAssistant: {answer}"


@pytest.fixture
def hh(tmp_path):
    rows = [{"chosen": dialogue("Hello."), "rejected": dialogue("Go away.")}]
    rows += [{"chosen": dialogue("Yes."), "rejected": dialogue("No.", "Another")}]
    rows += [{"chosen": dialogue("Same."), "rejected": dialogue("Same. ")}]
    for split in ("train", "validation", "test"):
        write(tmp_path / "data", rows if split == "test" else rows[:1], split)
    return tmp_path


def test_dialogues_are_split_into_prompt_and_turns(hh):
    (choice,) = load_choices(hh, "data", "test", "people", "crowd")
    assert choice.question.prompt == "\n\nHuman: Hi\n\nAssistant:"
    assert choice.question.completions == (" Hello.", " Go away.")
    assert (choice.label, choice.annotator, choice.group) == (1, "people", "crowd")


def test_data_in_the_preference_format(tmp_path):
    for split in ("train", "validation", "test"):
        write(tmp_path, [{"prompt": split, "chosen": "a", "rejected": "b"}], split)
    (choice,) = load_choices(tmp_path, split="validation")
    assert (choice.question.prompt, choice.ranked) == ("validation", ("a", "b"))
    write(tmp_path, [{"prompt": "p", "chosen": "a", "rejected": "a"}], "test")
    with pytest.raises(FeedbackError, match="record 1: the completions are equal"):
        load_choices(tmp_path, split="test")


def test_data_that_holds_no_choices(hh, tmp_path):
    with pytest.raises(DataError, match="unknown split 'dev'"):
        load_choices(hh, "data", "dev")
    for split in ("train", "validation", "test"):
        write(tmp_path / "other", [{"chosen": dialogue("a"), "text": "b"}], split)
        write(
            tmp_path / "apart", [{"chosen": dialogue("a"), "rejected": dialogue("b", "?")}], split
        )
    with pytest.raises(DataError, match="no column 'rejected'"):
        load_choices(tmp_path / "other")
    with pytest.raises(DataError, match=r"'train' of .* holds no pair of answers"):
        load_choices(tmp_path / "apart")
    with pytest.raises(DataError, match="cannot read"):
        load_choices(tmp_path / "nowhere")


@pytest.mark.skipif(not HH.is_dir(), reason="no local cut of HH-RLHF")
def test_hh_rlhf_replays_whole():
    choices = load_choices(HH, "harmless-base", "test")
    assert len(choices) == 311  # of 312 pairs, one shares no dialogue or has an empty turn
    replay = ReplayAnnotator(choices, on_missing="raise")
    assert len(replay) == 311
    given = replay.label([f.question for f in choices])
    assert agreement(choices, given)["agreement"] == 1
