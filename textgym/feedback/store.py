"""The store of feedback: questions in batches, annotators, and what they answered, in a database.

One process writes at a time, whatever the database: SQLite's `BEGIN IMMEDIATE`, elsewhere a lock on
the one row of `STORE`. Rows are therefore numbered in the order in which they were stored, and no
two writers wait for each other. That nothing is there twice is up to unique constraints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from textgym.errors import FeedbackError
from textgym.feedback.records import KINDS, Feedback, Question
from textgym.feedback.tables import (
    ANNOTATORS,
    ANSWERS,
    QUESTIONS,
    QUEUE,
    STORE,
    acts_with_questions,
    answer_of,
    answer_row,
    open_database,
    question_ids,
    question_of,
    question_row,
    queued_questions,
    transaction,
)
from textgym.registry import unknown_name

Record = TypeVar("Record")

MOST_VALUES = 500
"""Most values that one statement compares with; databases have their limits."""
LONGEST_NAME = 255


class FeedbackStore:
    """Questions, annotators and answers, safe from any number of processes that write at once.

    What a method stores is stored when it returns; when it raises, nothing of it is. Questions are
    the same where their keys are. Every method raises StoreError where the database fails.

    Args:
        url: a file for SQLite, or an SQLAlchemy URL such as postgresql+psycopg://user@host/name.

    Attributes:
        engine: the SQLAlchemy engine, for queries of one's own.

    Raises:
        StoreError: the database cannot be opened, is none, or is of another version.
    """

    def __init__(self, url: str | Path = "feedback.db") -> None:
        self.engine = open_database(url)

    def __enter__(self) -> FeedbackStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self.engine.dispose()

    def register(self, annotator: str, group: str = "") -> None:
        """Makes an annotator known; a second time changes nothing.

        Raises:
            FeedbackError: the annotator is of another group, or the name cannot be one.
        """
        _check_name("annotator", annotator)
        if group:
            _check_name("group", group)
        with self._writing() as connection:
            known = _annotators(connection)
            if annotator in known:
                _check_annotator(known, annotator, group)
            else:
                connection.execute(sa.insert(ANNOTATORS), {"name": annotator, "group": group})

    def annotators(self) -> dict[str, str]:
        """Returns the group of each annotator, in the order in which they were registered."""
        with transaction(self.engine) as connection:
            return _annotators(connection)

    def ask(self, questions: Iterable[Question], batch: str = "default") -> int:
        """Queues questions but for those that the batch already has; returns how many are new.

        Raises:
            FeedbackError: a batch's name that cannot be one.
        """
        _check_name("batch", batch)
        asked: dict[str, Question] = {}
        for question in questions:
            asked.setdefault(question.key, question)
        with self._writing() as connection:
            there = set(connection.scalars(sa.select(QUEUE.c.key).where(QUEUE.c.batch == batch)))
            new = [question for key, question in asked.items() if key not in there]
            _keep(connection, new)
            _insert(connection, QUEUE, [{"batch": batch, **question_ids(q)} for q in new])
        return len(new)

    def questions(self, batch: str = "default") -> list[Question]:
        """Returns a batch's questions in the order in which they were asked."""
        return self._read(question_of, queued_questions(batch))

    def batches(self) -> list[str]:
        """Returns the batches' names in the order of their first questions."""
        first = sa.select(QUEUE.c.batch).group_by(QUEUE.c.batch).order_by(sa.func.min(QUEUE.c.id))
        return self._read(lambda row: str(row.batch), first)

    def pending(self, annotator: str, batch: str = "default") -> list[Question]:
        """Returns what the annotator has neither answered nor skipped, in order.

        Raises:
            FeedbackError: an unknown annotator.
        """
        _check_known("annotator", annotator, self.annotators())
        done = sa.select(ANSWERS.c.key).where(ANSWERS.c.annotator == annotator)
        return self._read(question_of, queued_questions(batch).where(QUEUE.c.key.not_in(done)))

    def add(self, feedback: Iterable[Feedback]) -> int:
        """Stores answers, all or none; an answer takes the place of a skip.

        Returns:
            How many.

        Raises:
            FeedbackError: an unknown annotator or one of another group, or a question that the
                annotator has already answered.
        """
        given = list(feedback)
        with self._writing() as connection:
            known = _annotators(connection)
            for answer in given:
                _check_annotator(known, answer.annotator, answer.group)
            _keep(connection, [answer.question for answer in given])
            rows = [answer_row(answer) for answer in given]
            _forget_skips(connection, rows)
            _insert_acts(connection, rows)
        return len(given)

    def skip(self, annotator: str, question: Question) -> None:
        """Takes a question off the annotator's pending ones, without an answer.

        Raises:
            FeedbackError: an unknown annotator, or a question already answered or skipped.
        """
        with self._writing() as connection:
            _check_known("annotator", annotator, _annotators(connection))
            _keep(connection, [question])
            _insert_acts(connection, [{"annotator": annotator, **question_ids(question)}])

    def undo(self, annotator: str) -> Question | None:
        """Takes back the annotator's last answer or skip, of any batch.

        Returns:
            The question, pending again; None where there is nothing to take back.

        Raises:
            FeedbackError: an unknown annotator.
        """
        acts = acts_with_questions().where(ANSWERS.c.annotator == annotator)
        last = acts.order_by(ANSWERS.c.id.desc()).limit(1)
        with self._writing() as connection:
            _check_known("annotator", annotator, _annotators(connection))
            act = connection.execute(last).one_or_none()
            if act is None:
                return None
            connection.execute(sa.delete(ANSWERS).where(ANSWERS.c.id == act.id))
            return question_of(act)

    def feedback(
        self, kind: str | None = None, annotator: str | None = None, group: str | None = None
    ) -> list[Feedback]:
        """Returns the answers in the order in which they were stored.

        Args:
            kind: "pairwise", "rating" or "binary"; all by default.
            annotator: whose; everyone's by default.
            group: whose annotators' answers; every group's by default.

        Raises:
            FeedbackError: an unknown kind, annotator or group.
        """
        known = self.annotators()
        chosen = (
            ("kind of feedback", kind, KINDS, QUESTIONS.c.kind),
            ("annotator", annotator, known, ANSWERS.c.annotator),
            ("group", group, known.values(), ANNOTATORS.c.group),
        )
        answers = acts_with_questions().where(ANSWERS.c.label.is_not(None)).order_by(ANSWERS.c.id)
        for what, value, values, column in chosen:
            if value is not None:
                _check_known(what, value, values)
                answers = answers.where(column == value)
        return self._read(answer_of, answers)

    def progress(self, batch: str = "default") -> dict[str, int]:
        """Returns how many of the batch's questions each annotator has answered or skipped."""
        asked = sa.and_(ANSWERS.c.key == QUEUE.c.key, QUEUE.c.batch == batch)
        counts = (
            sa.select(ANNOTATORS.c.name, sa.func.count(ANSWERS.c.id).label("acts"))
            .outerjoin(sa.join(ANSWERS, QUEUE, asked), ANSWERS.c.annotator == ANNOTATORS.c.name)
            .group_by(ANNOTATORS.c.id, ANNOTATORS.c.name)
            .order_by(ANNOTATORS.c.id)
        )
        return dict(self._read(lambda row: (str(row.name), int(row.acts)), counts))

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with transaction(self.engine, writes=True) as connection:
            connection.execute(sa.select(STORE.c.version).with_for_update())
            yield connection

    def _read(self, build: Callable[[Any], Record], query: sa.Select[Any]) -> list[Record]:
        with transaction(self.engine) as connection:
            return [build(row) for row in connection.execute(query)]


def _annotators(connection: sa.Connection) -> dict[str, str]:
    rows = connection.execute(sa.select(ANNOTATORS).order_by(ANNOTATORS.c.id))
    return {row.name: row.group for row in rows}


def _keep(connection: sa.Connection, questions: Iterable[Question]) -> None:
    """Stores the questions that are not there, whoever asked them first."""
    rows = {row["id"]: row for row in map(question_row, questions)}
    names = list(rows)
    for start in range(0, len(names), MOST_VALUES):
        part = names[start : start + MOST_VALUES]
        for name in connection.scalars(sa.select(QUESTIONS.c.id).where(QUESTIONS.c.id.in_(part))):
            del rows[name]
    _insert(connection, QUESTIONS, list(rows.values()))


def _insert(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    # Without values, the statement would insert a row of defaults.
    if rows:
        connection.execute(sa.insert(table), rows)


def _forget_skips(connection: sa.Connection, rows: list[dict[str, Any]]) -> None:
    skips = sa.delete(ANSWERS).where(
        ANSWERS.c.annotator == sa.bindparam("by"),
        ANSWERS.c.key == sa.bindparam("of"),
        ANSWERS.c.label.is_(None),
    )
    if rows:
        connection.execute(skips, [{"by": row["annotator"], "of": row["key"]} for row in rows])


def _insert_acts(connection: sa.Connection, rows: list[dict[str, Any]]) -> None:
    try:
        with connection.begin_nested():
            _insert(connection, ANSWERS, rows)
    except exc.IntegrityError as error:
        raise FeedbackError(_twice(connection, rows)) from error


def _twice(connection: sa.Connection, rows: list[dict[str, Any]]) -> str:
    """Names the first act that an annotator has done before."""
    done = set()
    for row in rows:
        annotator, key = act = row["annotator"], row["key"]
        there = sa.select(ANSWERS.c.id).where(ANSWERS.c.annotator == annotator)
        if act in done or connection.scalar(there.where(ANSWERS.c.key == key)) is not None:
            break
        done.add(act)
    asked = sa.select(QUESTIONS.c.prompt).where(QUESTIONS.c.id == row["question"])
    prompt = str(connection.scalar(asked))[:40]
    return f"annotator {annotator!r} has already answered or skipped the question {prompt!r}"


def _check_known(what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise FeedbackError(str(unknown_name(what, name, set(known))))


def _check_annotator(known: Mapping[str, str], annotator: str, group: str) -> None:
    _check_known("annotator", annotator, known)
    if known[annotator] != group:
        right = known[annotator]
        raise FeedbackError(f"annotator {annotator!r} is of group {right!r}, not {group!r}")


def _check_name(what: str, name: str) -> None:
    """Refuses names that some database cannot hold."""
    if not (0 < len(name) <= LONGEST_NAME and name.isprintable()):
        needed = f"1 to {LONGEST_NAME} printable characters"
        raise FeedbackError(f"the {what}'s name must be {needed}, got {name!r}")
