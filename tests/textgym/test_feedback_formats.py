import json
import os

import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from feedback_support import HARD_TEXTS, full_answers, pair

from textgym.errors import DataError, FeedbackError, StoreError
from textgym.feedback import formats
from textgym.feedback.formats import (
    from_preferences,
    from_unpaired,
    read_feedback,
    to_preferences,
    to_unpaired,
    write_feedback,
)
from textgym.feedback.records import BINARY, RATING, Feedback, Question

ENDINGS = [".jsonl", ".parquet"]


def mixed():
    """Every kind and every label, by two annotators."""
    rated = [Feedback(Question("r", (f"{n}",), RATING), n, "ann", "users") for n in range(1, 6)]
    judged = [Feedback(Question("b", (f"{n}",), BINARY), n, "ann", "users") for n in (0, 1)]
    pairs = [
        Feedback(Question("p", ("x", "y"), columns={"id": 1}), 0, "bob", order=(1, 0)),
        Feedback(Question("p", ("x", "z"), columns={"id": 2}), 1, "bob"),
        Feedback(Question("p", ("y", "z"), columns={"id": 3}), 0.5, "bob"),
    ]
    return [*rated, *pairs, *judged]


def test_preferences_by_hand():
    rows = to_preferences(mixed())
    assert rows.to_list() == [
        {
            "prompt": "p",
            "chosen": chosen,
            "rejected": rejected,
            "tie": False,
            "annotator": "bob",
            "group": "",
            "columns": columns,
        }
        for chosen, rejected, columns in [("y", "x", '{"id": 1}'), ("x", "z", '{"id": 2}')]
    ]
    with_ties = to_preferences(mixed(), ties=True)
    assert with_ties["tie"][:] == [False, False, True]
    assert with_ties[2]["chosen"] == "y"


def test_preferences_read_back():
    again = from_preferences(to_preferences(mixed(), ties=True))
    assert again == [
        Feedback(Question("p", ("y", "x"), columns={"id": 1}), 1, "bob"),
        Feedback(Question("p", ("x", "z"), columns={"id": 2}), 1, "bob"),
        Feedback(Question("p", ("y", "z"), columns={"id": 3}), 0.5, "bob"),
    ]
    assert from_preferences(to_preferences(again, ties=True)) == again


def test_preferences_of_others():
    rows = Dataset.from_dict({"prompt": ["p"], "chosen": ["a"], "rejected": ["b"]})
    assert from_preferences(rows) == [Feedback(Question("p", ("a", "b")), 1, "data")]
    assert from_preferences(rows, "hh", "crowd")[0].group == "crowd"
    assert from_preferences(rows, "hh")[0].annotator == "hh"


def test_unpaired_by_hand():
    rows = to_unpaired(mixed())
    assert list(zip(rows["prompt"], rows["completion"], rows["label"], strict=True)) == [
        ("r", "1", False),
        ("r", "2", False),
        ("r", "4", True),
        ("r", "5", True),
        ("p", "y", True),
        ("p", "x", False),
        ("p", "x", True),
        ("p", "z", False),
        ("b", "0", False),
        ("b", "1", True),
    ]
    assert rows["annotator"][:] == ["ann"] * 4 + ["bob"] * 4 + ["ann"] * 2
    assert rows["group"][3:5] == ["users", ""]
    assert rows["columns"][3:5] == ["{}", '{"id": 1}']


def test_unpaired_read_back():
    again = from_unpaired(to_unpaired(mixed()))
    assert again[1] == Feedback(Question("r", ("2",), BINARY), 0, "ann", "users")
    assert again[4] == Feedback(Question("p", ("y",), BINARY, columns={"id": 1}), 1, "bob")
    assert from_unpaired(to_unpaired(again)) == again


def test_unpaired_of_others():
    rows = Dataset.from_dict({"prompt": ["p"], "completion": ["a"], "label": [False]})
    assert from_unpaired(rows, "kto") == [Feedback(Question("p", ("a",), BINARY), 0, "kto")]


@pytest.mark.parametrize("write", [to_preferences, to_unpaired])
def test_nothing_gives_no_rows(write):
    assert len(write([])) == 0


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (from_preferences, "prompt"),
        (from_preferences, "chosen"),
        (from_preferences, "rejected"),
        (from_unpaired, "completion"),
        (from_unpaired, "label"),
    ],
)
def test_a_missing_column_is_named(read, name):
    names = {"prompt", "chosen", "rejected", "completion", "label"} - {name}
    rows = Dataset.from_dict({name: ["a"] for name in sorted(names)})
    with pytest.raises(DataError, match=f"feedback needs a column '{name}'; the columns are"):
        read(rows)


def test_a_row_with_equal_completions_is_named():
    rows = Dataset.from_dict({"prompt": ["p", "p"], "chosen": ["a", "b"], "rejected": ["b", "b"]})
    with pytest.raises(FeedbackError, match="record 2: the completions are equal: 'b'"):
        from_preferences(rows)


@pytest.mark.slow
def test_trl_takes_the_preferences_apart_as_we_do():
    from trl.data_utils import is_conversational, unpair_preference_dataset

    preferences = to_preferences(mixed())
    assert not is_conversational(preferences[0])
    theirs = unpair_preference_dataset(preferences.select_columns(["prompt", "chosen", "rejected"]))
    ours = to_unpaired(f for f in mixed() if f.question.kind == "pairwise")

    def rows(dataset):
        return sorted((r["prompt"], r["completion"], r["label"]) for r in dataset)

    assert rows(ours) == rows(theirs) != []


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_lose_nothing(tmp_path, ending):
    answers = [*full_answers(), *mixed()]
    path = tmp_path / "new" / f"feedback{ending}"
    assert write_feedback(path, iter(answers)) == 13
    assert read_feedback(str(path)) == answers
    assert write_feedback(path, answers[:2]) == 2
    assert read_feedback(path) == answers[:2]
    assert write_feedback(path, []) == 0
    assert read_feedback(path) == []
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_hold_any_text(tmp_path, ending):
    texts = [text for text in HARD_TEXTS if ending == ".jsonl" or "\ud83d" not in text]
    answers = [
        Feedback(
            Question(text, (text, text + "."), policies=(text, ""), columns={text: text}), 1, "a"
        )
        for text in texts
    ]
    write_feedback(tmp_path / f"f{ending}", answers)
    assert read_feedback(tmp_path / f"f{ending}") == answers


@pytest.mark.parametrize("ending", ENDINGS)
def test_who_reads_the_old_file_reads_it_to_its_end(tmp_path, ending):
    path = tmp_path / f"f{ending}"
    write_feedback(path, full_answers())
    content = path.read_bytes()
    with path.open("rb") as old:
        write_feedback(path, mixed())
        assert old.read() == content


def test_a_file_of_lines_by_hand(tmp_path):
    path = tmp_path / "f.jsonl"
    write_feedback(path, [full_answers()[1]])
    (line,) = path.read_text().splitlines()
    assert json.loads(line) == {
        "prompt": "p",
        "completions": ["a"],
        "kind": "rating",
        "policies": ["sft"],
        "columns": '{"reference": "r", "score": 0.1}',
        "label": 4.0,
        "annotator": "ann",
        "group": "authors",
        "order": [0],
        "seconds": 0.1,
        "seed": 0,
        "timestamp": 0.0,
    }
    shortest = {"prompt": "p", "completions": ["é"], "kind": "binary", "label": 1, "annotator": "a"}
    path.write_text(f"\n{json.dumps(shortest, ensure_ascii=False)}\n\n")
    assert read_feedback(path) == [Feedback(Question("p", ("é",), BINARY), 1, "a")]


def test_the_columns_of_a_parquet_file(tmp_path):
    write_feedback(tmp_path / "f.parquet", [Feedback(pair(1), 1, "ann")])
    schema = pq.read_schema(tmp_path / "f.parquet")
    assert {field.name: str(field.type).replace("element", "item") for field in schema} == {
        "prompt": "string",
        "completions": "list<item: string>",
        "kind": "string",
        "label": "double",
        "annotator": "string",
        "policies": "list<item: string>",
        "columns": "string",
        "group": "string",
        "order": "list<item: int64>",
        "seconds": "double",
        "seed": "int64",
        "timestamp": "double",
    }


@pytest.mark.parametrize("act", [read_feedback, lambda path: write_feedback(path, [])])
def test_another_ending(tmp_path, act):
    with pytest.raises(FeedbackError, match=r"kept as \.jsonl or \.parquet, got 'f\.csv'"):
        act(tmp_path / "f.csv")
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(StoreError, match=r"f\.jsonl cannot be read: No such file or directory"):
        read_feedback(tmp_path / "f.jsonl")


def test_a_parquet_file_that_is_not_there(tmp_path):
    with pytest.raises(StoreError, match=r"f\.parquet cannot be read: No such file"):
        read_feedback(tmp_path / "f.parquet")


@pytest.mark.parametrize(
    "answer",
    [
        Feedback(Question("half \ud83d", ("a", "b")), 1, "ann"),
        Feedback(pair(1), 1, "ann", seed=2**70),
    ],
    ids=["surrogate", "seed"],
)
def test_what_parquet_cannot_hold(tmp_path, answer):
    with pytest.raises(StoreError, match=r"f\.parquet cannot be written"):
        write_feedback(tmp_path / "f.parquet", [answer])


def test_lines_that_are_no_text(tmp_path):
    (tmp_path / "f.jsonl").write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises((StoreError, FeedbackError), match=r"f\.jsonl"):
        read_feedback(tmp_path / "f.jsonl")


@pytest.mark.parametrize("columns", ["{", {"id": 1}])
def test_columns_that_are_no_json(columns):
    rows = {"prompt": ["p"], "chosen": ["a"], "rejected": ["b"], "columns": [columns]}
    with pytest.raises(FeedbackError, match="record 1: "):
        from_preferences(Dataset.from_dict(rows))


def test_a_verdict_that_is_missing():
    rows = Dataset.from_dict({"prompt": ["p"], "completion": ["a"], "label": [None]})
    with pytest.raises(FeedbackError, match="record 1: "):
        from_unpaired(rows)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_may_be_read_by_whoever_may_read_others(tmp_path, ending):
    (tmp_path / "other").write_text("")
    write_feedback(tmp_path / f"f{ending}", full_answers())
    modes = [os.stat(tmp_path / name).st_mode for name in (f"f{ending}", "other")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_place_that_cannot_be_written(tmp_path, ending):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written: "):
        write_feedback(tmp_path / "file" / f"f{ending}", mixed())
    (tmp_path / f"folder{ending}").mkdir()
    with pytest.raises(StoreError, match="cannot be written: Is a directory"):
        write_feedback(tmp_path / f"folder{ending}", mixed())
    assert sorted(os.listdir(tmp_path)) == ["file", f"folder{ending}"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_failed_writing_leaves_the_old_file(tmp_path, ending, monkeypatch):
    path = tmp_path / f"f{ending}"
    write_feedback(path, full_answers())

    def half(target, rows):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        formats, {".jsonl": "_write_jsonl", ".parquet": "_write_parquet"}[ending], half
    )
    with pytest.raises(StoreError, match="cannot be written: No space left on device"):
        write_feedback(path, mixed())
    assert os.listdir(tmp_path) == [path.name]
    assert read_feedback(path) == full_answers()


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ('{"prompt": "p", "comple', r"line 2 of .*f\.jsonl is no JSON: Unterminated string"),
        ("[1]", r"line 2 of .*f\.jsonl is no record"),
        ('{"prompt": "p"}', "record 2: the record has no completions, kind, label, annotator"),
    ],
)
def test_a_broken_line_is_named(tmp_path, second, message):
    path = tmp_path / "f.jsonl"
    write_feedback(path, [Feedback(pair(1), 1, "ann")])
    path.write_text(path.read_text() + second)
    with pytest.raises(FeedbackError, match=message):
        read_feedback(path)


@pytest.mark.parametrize("keep", [0, 40, -5])
def test_a_broken_parquet_file(tmp_path, keep):
    path = tmp_path / "f.parquet"
    write_feedback(path, mixed())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StoreError, match=r"f\.parquet (is no Parquet file|cannot be read)"):
        read_feedback(path)


def test_a_parquet_file_of_something_else(tmp_path):
    path = tmp_path / "f.parquet"
    Dataset.from_dict({"text": ["a"]}).to_parquet(path)
    with pytest.raises(FeedbackError, match="record 1: the record has no prompt, completions"):
        read_feedback(path)
