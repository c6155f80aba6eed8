"""Reading feedback from wherever it is kept."""

from __future__ import annotations

from pathlib import Path

from textgym.errors import StoreError
from textgym.feedback.formats import read_feedback
from textgym.feedback.records import Feedback

FILES = (".jsonl", ".parquet")


def read_answers(source: str | Path) -> list[Feedback]:
    """Returns the answers in a .jsonl or .parquet file, or in a store.

    Args:
        source: a file, a store's file or its SQLAlchemy URL; a store is never made where none is.

    Raises:
        StoreError: nothing is there, or it cannot be read.
        FeedbackError: a record that is none.
    """
    if Path(source).suffix in FILES:
        return read_feedback(source)
    if "://" not in str(source) and not Path(source).is_file():
        raise StoreError(f"no feedback at {source}: expected a store, .jsonl or .parquet file")
    from textgym.feedback.store import FeedbackStore

    with FeedbackStore(source) as store:
        return store.feedback()
