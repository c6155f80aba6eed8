import hashlib
import math

import pytest
from feedback_support import HARD_TEXTS, full_answers, pair
from hypothesis import given, settings
from hypothesis import strategies as st

from textgym.errors import FeedbackError
from textgym.feedback.records import BINARY, KINDS, LABELS, PAIRWISE, RATING, Feedback, Question

texts = st.text(st.characters(exclude_categories=()), max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
times = st.none() | st.floats(0, 1e12)


@st.composite
def answers(draw):
    """Any answer that there can be."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    count = KINDS[kind]
    question = Question(
        draw(texts),
        tuple(draw(st.lists(texts, min_size=count, max_size=count, unique=True))),
        kind,
        draw(st.just(()) | st.tuples(*[texts] * count)),
        draw(st.dictionaries(texts, json_values, max_size=3)),
    )
    return Feedback(
        question,
        draw(st.sampled_from(LABELS[kind])),
        draw(texts.filter(bool)),
        draw(texts),
        tuple(draw(st.permutations(range(count)))),
        draw(times),
        draw(st.none() | st.integers(-(2**63), 2**63 - 1)),
        draw(times),
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("p", ("a", "b"), "pairwize"), "unknown kind of feedback 'pairwize'; did you mean 'pairw"),
        (("p", ("a",)), "a pairwise question shows 2 completions, got 1"),
        (("p", ("a", "b", "c")), "a pairwise question shows 2 completions, got 3"),
        (("p", ("a", "b"), RATING), "a rating question shows 1 completions, got 2"),
        (("p", (), BINARY), "a binary question shows 1 completions, got 0"),
        ((None, ("a", "b")), "must be (a string|strings)"),
        (("p", ("a", 1)), "must be (a string|strings)"),
        ((["p"], ("a",), RATING), "must be (a string|strings)"),
        (("p", ("same", "same")), "the completions are equal: 'same'"),
        (("p", ("x" * 99, "x" * 99)), f"equal: '{'x' * 40}'$"),
        (("p", ("a", "b"), PAIRWISE, ("one",)), "2 completions by 1 policies"),
        (("p", ("a",), RATING, ("one", "two")), "1 completions by 2 policies"),
        (("p", ("a", "b"), PAIRWISE, (), {"x": {1}}), "columns of a question are no JSON: .*set"),
    ],
)
def test_questions_that_cannot_be_asked(arguments, message):
    with pytest.raises(FeedbackError, match=message):
        Question(*arguments)


@pytest.mark.parametrize(
    ("question", "label", "options", "message"),
    [
        (pair(1), 0.7, {}, "a pairwise label is one of 0, 0.5, 1, got 0.7"),
        (pair(1), 2, {}, "got 2"),
        (pair(1), math.nan, {}, "got nan"),
        (pair(1), "1", {}, "got '1'"),
        (pair(1), None, {}, "got None"),
        (Question("p", ("a",), RATING), 0, {}, "a rating label is one of 1, 2, 3, 4, 5, got 0"),
        (Question("p", ("a",), RATING), 2.5, {}, "got 2.5"),
        (Question("p", ("a",), RATING), 6, {}, "got 6"),
        (Question("p", ("a",), BINARY), 0.5, {}, "a binary label is one of 0, 1, got 0.5"),
        (pair(1), 1, {"annotator": ""}, "an answer needs its annotator's name"),
        (pair(1), 1, {"order": (0,)}, r"the order shown must permute \(0, 1\), got \(0,\)"),
        (pair(1), 1, {"order": (1, 1)}, r"must permute \(0, 1\), got \(1, 1\)"),
        (pair(1), 1, {"order": (1, 2)}, r"must permute \(0, 1\), got \(1, 2\)"),
        (Question("p", ("a",), BINARY), 1, {"order": (1,)}, r"permute \(0,\), got \(1,\)"),
        (pair(1), 1, {"seconds": -0.1}, "seconds must be finite and >= 0, got -0.1"),
        (pair(1), 1, {"seconds": math.inf}, "seconds must be finite and >= 0, got inf"),
        (pair(1), 1, {"timestamp": math.nan}, "timestamp must be finite and >= 0, got nan"),
        (pair(1), 1, {"timestamp": -1}, "timestamp must be finite and >= 0, got -1"),
    ],
)
def test_answers_that_cannot_be(question, label, options, message):
    with pytest.raises(FeedbackError, match=message):
        Feedback(question, label, **{"annotator": "ann", **options})


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_label_of_every_kind(kind):
    question = Question("p", ("a", "b")[: KINDS[kind]], kind)
    expected = {"pairwise": [0, 0.5, 1], "rating": [1, 2, 3, 4, 5], "binary": [0, 1]}[kind]
    for label in expected:
        given = Feedback(question, label, "ann").label
        assert (given, type(given)) == (label, float)


def test_the_key_names_what_is_asked():
    asked = Question("p", ("a", "b"))
    digest = hashlib.sha256(b'["pairwise", "p", "a", "b"]').hexdigest()
    assert asked.key == digest[:32]
    assert Question("p", ("b", "a")).key == asked.key
    assert Question("p", ("b", "a"), PAIRWISE, ("x", "y"), {"id": 1}).key == asked.key
    others = [
        Question("q", ("a", "b")),
        Question("p", ("a", "c")),
        Question("p", ("a",), RATING),
        Question("p", ("a",), BINARY),
        Question("", ("p", "a"), PAIRWISE),
        Question("p", ("a", "b ")),
    ]
    assert len({asked.key, *(other.key for other in others)}) == 7


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_any_text_has_a_key(text):
    keys = {Question(text, ("a",), kind).key for kind in (RATING, BINARY)}
    assert {len(key) for key in keys} == {32}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("label", "order", "ranked", "tie"),
    [
        (1, (0, 1), ("a", "b"), False),
        (1, (1, 0), ("a", "b"), False),
        (0, (0, 1), ("b", "a"), False),
        (0, (1, 0), ("b", "a"), False),
        (0.5, (1, 0), ("a", "b"), True),
    ],
)
def test_the_label_speaks_of_the_first_completion_whatever_was_shown_first(
    label, order, ranked, tie
):
    answer = Feedback(Question("p", ("a", "b")), label, "ann", order=order)
    assert (answer.ranked, answer.is_tie) == (ranked, tie)


@pytest.mark.parametrize("kind", [RATING, BINARY])
def test_only_pairs_are_ranked(kind):
    answer = Feedback(Question("p", ("a",), kind), 1, "ann")
    assert not answer.is_tie
    with pytest.raises(FeedbackError, match=f"a {kind} answer ranks no pair"):
        _ = answer.ranked


def test_the_order_shown_is_the_order_given_by_default():
    assert Feedback(pair(1), 1, "ann").order == (0, 1)
    assert Feedback(Question("p", ("a",), RATING), 1, "ann").order == (0,)


def test_a_row_by_hand():
    assert full_answers()[0].to_row() == {
        "prompt": "p",
        "completions": ["a", "b"],
        "kind": "pairwise",
        "policies": ["sft", "ppo"],
        "columns": '{"id": 7, "who": ["x", null]}',
        "label": 0.5,
        "annotator": "ann",
        "group": "authors",
        "order": [1, 0],
        "seconds": 2.25,
        "seed": 2**62,
        "timestamp": 1_700_000_000.123456,
    }


@given(answers())
@settings(max_examples=200, deadline=None)
def test_rows_lose_nothing(answer):
    again = Feedback.from_row(answer.to_row())
    assert again == answer
    assert again.question.key == answer.question.key


def test_what_a_row_may_leave_out():
    row = {"prompt": "", "completions": ["a", "b"], "kind": "pairwise", "label": 0}
    expected = Feedback(Question("", ("a", "b")), 0, "ann")
    assert Feedback.from_row({**row, "annotator": "ann"}) == expected
    absent = ("policies", "columns", "group", "order", "seconds", "seed", "timestamp")
    assert Feedback.from_row({**row, "annotator": "ann", **dict.fromkeys(absent)}) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": None}, "the record has no label"),
        ({"prompt": None, "annotator": None}, "the record has no prompt, annotator"),
        ({"lable": 1}, "unknown field 'lable'; did you mean 'label'"),
        ({"kind": "ranking"}, "unknown kind of feedback 'ranking'; did you mean 'rating'"),
        ({"label": 0.3}, "a pairwise label is one of 0, 0.5, 1, got 0.3"),
        ({"label": "good"}, "got 'good'"),
        ({"completions": 7}, "completions must be a list of strings, got 7"),
        ({"completions": ["a", "a"]}, "the completions are equal"),
        ({"columns": "{"}, "the record cannot be read"),
        ({"columns": "7"}, "columns of a question are no JSON"),
        ({"order": ["first"]}, "the record cannot be read"),
        ({"order": 1}, "the record cannot be read"),
        ({"seconds": "long"}, "seconds must be finite and >= 0, got 'long'"),
    ],
)
def test_rows_that_are_no_records(change, message):
    row = {**full_answers()[0].to_row(), **change}
    with pytest.raises(FeedbackError, match=message):
        Feedback.from_row(row)


@pytest.mark.parametrize("name", ["prompt", "completions", "kind", "label", "annotator"])
def test_a_missing_field(name):
    row = full_answers()[0].to_row()
    del row[name]
    with pytest.raises(FeedbackError, match=f"the record has no {name}$"):
        Feedback.from_row(row)


def test_columns_are_equal_when_read_back():
    answer = Feedback(Question("p", ("a",), BINARY, columns={1: (2, 3), "x": 0}), 1, "ann")
    assert Feedback.from_row(answer.to_row()) == answer


def test_a_text_is_no_list_of_completions():
    with pytest.raises(FeedbackError):
        Question("p", "ab")
    with pytest.raises(FeedbackError):
        Feedback.from_row({**full_answers()[0].to_row(), "completions": "ab"})


def test_lists_are_as_good_as_tuples():
    listed = Question("p", ["a", "b"], policies=["x", "y"])
    assert listed == Question("p", ("a", "b"), policies=("x", "y"))
    assert Feedback(listed, 1, "ann", order=[1, 0]).order == (1, 0)


@pytest.mark.parametrize(
    "options", [{"annotator": 5}, {"seconds": "long"}, {"group": None}, {"seed": 1.5}], ids=str
)
def test_fields_of_another_type(options):
    with pytest.raises(FeedbackError):
        Feedback(pair(1), 1, **{"annotator": "ann", **options})
