"""Answers of programs are stored as they come, and no question is put twice."""

import pytest

from textgym.errors import FeedbackError
from textgym.feedback import collecting
from textgym.feedback.collecting import collect
from textgym.feedback.records import Feedback, Question
from textgym.feedback.store import FeedbackStore

QUESTIONS = [Question(f"p{i}", ("a", "b")) for i in range(7)]


class Noting:
    """Prefers the first completion; notes what it is asked, and may give up."""

    name, group = "noting", "programs"

    def __init__(self, most=100):
        self.asked, self.most = [], most

    def label(self, questions):
        self.asked += [q.prompt for q in questions]
        if len(self.asked) > self.most:
            raise FeedbackError("no more")
        return [Feedback(q, 1, self.name, self.group) for q in questions if q.prompt != "p2"]


@pytest.fixture
def store(tmp_path):
    with FeedbackStore(tmp_path / "f.db") as opened:
        yield opened


def test_every_answer_is_stored_and_progress_told(store, monkeypatch):
    monkeypatch.setattr(collecting, "PORTION", 3)
    told = []
    annotator = Noting()
    assert collect(annotator, QUESTIONS, store, progress=told.append) == 6
    assert told == [3, 6, 7]
    assert store.annotators() == {"noting": "programs"}
    stored = [f.question.prompt for f in store.feedback()]
    assert stored == ["p0", "p1", "p3", "p4", "p5", "p6"]


def test_a_stop_loses_a_portion_and_the_rest_is_asked_later(store, monkeypatch):
    monkeypatch.setattr(collecting, "PORTION", 3)
    with pytest.raises(FeedbackError, match="no more"):
        collect(Noting(most=4), QUESTIONS, store)
    assert [f.question.prompt for f in store.feedback()] == ["p0", "p1"]
    again = Noting()
    assert collect(again, QUESTIONS, store) == 4
    assert again.asked == ["p2", "p3", "p4", "p5", "p6"]


def test_only_what_is_asked_now_is_answered(store):
    store.ask(QUESTIONS)
    annotator = Noting()
    collect(annotator, QUESTIONS[4:6], store)
    assert annotator.asked == ["p4", "p5"]


def test_another_group_is_an_error(store):
    store.register("noting", "people")
    with pytest.raises(FeedbackError, match="noting"):
        collect(Noting(), QUESTIONS, store)
