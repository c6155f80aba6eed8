"""Questions to label, and the page served from a thread."""

import threading
from contextlib import contextmanager

from textgym.feedback.page.server import LabelServer
from textgym.feedback.records import PAIRWISE, Question
from textgym.feedback.store import FeedbackStore


def make_questions(count, kind=PAIRWISE):
    """Numbered questions; of a pair, the first completion is called left, the second right."""
    names = ("left", "right") if kind == PAIRWISE else ("only",)
    return [
        Question(
            f"prompt {i}",
            tuple(f"{name} {i}" for name in names),
            kind,
            tuple(f"policy-{name}" for name in names),
            {"row": i},
        )
        for i in range(count)
    ]


def stored(path, questions, batch="default"):
    """Queues the questions in a new or old store and returns its path."""
    with FeedbackStore(path) as store:
        store.ask(questions, batch)
    return path


def answers(path, annotator=None):
    with FeedbackStore(path) as store:
        return store.feedback(annotator=annotator)


@contextmanager
def serving(path, annotators=("ada",), port=0, **options):
    """A label server that runs in a thread."""
    with LabelServer(path, "default", annotators, port=port, **options) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join(timeout=20)
            assert not thread.is_alive()
