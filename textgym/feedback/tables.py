"""The tables of a store of feedback, and how their database is opened.

Texts are kept as JSON in ASCII: PostgreSQL takes no NUL and UTF-8 no lone surrogate, but language
models write both.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc

from textgym.errors import FeedbackError, StoreError
from textgym.feedback.records import Feedback, Question
from textgym.registry import unknown_name

VERSION = 1
"""Of the tables; a store of another version is not opened."""
BUSY_MS = 30_000
"""How long a SQLite connection waits for another's writing to end."""
PACKAGES = {"psycopg": "'psycopg[binary]'", "MySQLdb": "mysqlclient"}
"""Drivers whose package has another name than their module."""


class _DamagedError(Exception):
    """A row that cannot be what was stored."""


class Json(sa.types.TypeDecorator[Any]):
    """A value kept as JSON text."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:
        """Returns what is stored."""
        return None if value is None else json.dumps(value, sort_keys=True)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:
        """Returns what was given."""
        try:
            return None if value is None else json.loads(value)
        except ValueError as error:
            raise _DamagedError(str(error)) from error


METADATA = sa.MetaData()
STORE = sa.Table("feedback_store", METADATA, sa.Column("version", sa.Integer, nullable=False))
ANNOTATORS = sa.Table(
    "feedback_annotators",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(255), nullable=False, unique=True),
    sa.Column("group", sa.String(255), nullable=False),
)
# `key` names what is asked; `id` the record, which also has an order, policies and columns.
QUESTIONS = sa.Table(
    "feedback_questions",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(32), nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("prompt", Json, nullable=False),
    sa.Column("completions", Json, nullable=False),
    sa.Column("policies", Json, nullable=False),
    sa.Column("columns", Json, nullable=False),
)
QUEUE = sa.Table(
    "feedback_queue",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("batch", sa.String(255), nullable=False),
    sa.Column("key", sa.String(32), nullable=False),
    sa.Column("question", sa.ForeignKey(QUESTIONS.c.id), nullable=False),
    sa.UniqueConstraint("batch", "key"),
)
# A skip is an answer without a label, so that the last act of an annotator is one row's.
ANSWERS = sa.Table(
    "feedback_answers",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("annotator", sa.ForeignKey(ANNOTATORS.c.name), nullable=False),
    sa.Column("key", sa.String(32), nullable=False),
    sa.Column("question", sa.ForeignKey(QUESTIONS.c.id), nullable=False),
    sa.Column("label", sa.Double),
    sa.Column("order", Json),
    sa.Column("seconds", sa.Double),
    sa.Column("seed", Json),
    sa.Column("timestamp", sa.Double),
    sa.UniqueConstraint("annotator", "key"),
)
_ASKED = [QUESTIONS.c[name] for name in ("kind", "prompt", "completions", "policies", "columns")]


def queued_questions(batch: str) -> sa.Select[Any]:
    """Returns the query for a batch's questions, in order; see `question_of`."""
    asked = sa.select(QUEUE.c.question, *_ASKED)
    asked = asked.join(QUESTIONS, QUEUE.c.question == QUESTIONS.c.id)
    return asked.where(QUEUE.c.batch == batch).order_by(QUEUE.c.id)


def acts_with_questions() -> sa.Select[Any]:
    """Returns the query for answers and skips with their questions and groups; see `answer_of`."""
    acts = sa.select(ANSWERS, ANNOTATORS.c.group, *_ASKED)
    acts = acts.join(QUESTIONS, ANSWERS.c.question == QUESTIONS.c.id)
    return acts.join(ANNOTATORS, ANSWERS.c.annotator == ANNOTATORS.c.name)


def question_row(question: Question) -> dict[str, Any]:
    """Returns a question's row of `QUESTIONS`; its id is a digest of all the rest."""
    row = {
        "key": question.key,
        "kind": question.kind,
        "prompt": question.prompt,
        "completions": list(question.completions),
        "policies": list(question.policies),
        # As they are read again: JSON's keys are text, and sorted as text.
        "columns": json.loads(json.dumps(dict(question.columns))),
    }
    digest = hashlib.sha256(json.dumps(row, sort_keys=True).encode())
    return {"id": digest.hexdigest(), **row}


def question_ids(question: Question) -> dict[str, str]:
    """Returns the two columns by which the other tables name a question."""
    return {"key": question.key, "question": question_row(question)["id"]}


def question_of(row: Any) -> Question:
    """Reads a row that holds a question."""
    try:
        completions, policies = tuple(row.completions), tuple(row.policies)
        question = Question(row.prompt, completions, row.kind, policies, row.columns)
    except (FeedbackError, TypeError) as error:
        raise _DamagedError(str(error)) from error
    if question_row(question)["id"] != row.question:
        raise _DamagedError(f"the question {question.prompt[:40]!r} is not as it was stored")
    return question


def answer_row(feedback: Feedback) -> dict[str, Any]:
    """Returns an answer's row of `ANSWERS`."""
    return {
        "annotator": feedback.annotator,
        **question_ids(feedback.question),
        "label": feedback.label,
        "order": list(feedback.order),
        "seconds": feedback.seconds,
        "seed": feedback.seed,
        "timestamp": feedback.timestamp,
    }


def answer_of(row: Any) -> Feedback:
    """Reads a row that holds an answer, its question and its annotator's group."""
    question = question_of(row)
    try:
        answer = (row.label, row.annotator, row.group, tuple(row.order))
        return Feedback(question, *answer, row.seconds, row.seed, row.timestamp)
    except (FeedbackError, TypeError) as error:
        raise _DamagedError(str(error)) from error


def open_database(url: str | Path) -> sa.Engine:
    """Opens a database and makes the tables where there are none.

    Args:
        url: a file for SQLite, or an SQLAlchemy URL.

    Raises:
        StoreError: it cannot be opened, is no database, or holds tables of another version.
    """
    engine = _engine(_address(url))
    try:
        version = _version(engine) or _create(engine)
        if version != VERSION:
            raise StoreError(
                f"{_where(engine)} is a store of version {version}, this textgym's is {VERSION}"
            )
    except StoreError:
        engine.dispose()
        raise
    return engine


@contextmanager
def transaction(engine: sa.Engine, *, writes: bool = False) -> Iterator[sa.Connection]:
    """A transaction: all of it is stored, or nothing where anything is raised.

    Raises:
        StoreError: whatever the database raises, and a row that cannot be read.
    """
    try:
        with engine.execution_options(writes=writes).begin() as connection:
            yield connection
    except exc.SQLAlchemyError as error:
        raise _store_error(engine, error) from error
    except _DamagedError as error:
        raise StoreError(f"{_where(engine)} is damaged: {error}") from error


def _address(url: str | Path) -> sa.URL:
    try:
        if "://" in str(url):
            return sa.make_url(str(url))
    except exc.ArgumentError:
        raise StoreError(f"{url!r} is no database URL such as sqlite:///feedback.db") from None
    if not os.path.isdir(Path(url).absolute().parent):
        raise StoreError(f"{url} cannot be opened: no folder {Path(url).parent} can be entered")
    return sa.URL.create("sqlite", database=str(url))


def _engine(address: sa.URL) -> sa.Engine:
    try:
        # A server may have closed a connection that an annotator's pause left idle.
        engine = sa.create_engine(address, pool_pre_ping=True)
    except exc.NoSuchModuleError:
        known = sa.dialects.__all__
        raise StoreError(str(unknown_name("database", address.drivername, known))) from None
    except ModuleNotFoundError as error:
        package = PACKAGES.get(str(error.name), error.name)
        raise StoreError(
            f"{address.drivername} needs a driver that is not installed: pip install {package}"
        ) from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    # Python's driver would begin transactions itself, and too late: not before the first write.
    connection.isolation_level = None
    for setting in (f"busy_timeout={BUSY_MS}", "journal_mode=WAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {setting}")


def _begin_sqlite(connection: sa.Connection) -> None:
    # Two that read and then both write would each wait for the other.
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _version(engine: sa.Engine) -> int | None:
    with transaction(engine) as connection:
        if not sa.inspect(connection).has_table(STORE.name):
            return None
        return connection.scalar(sa.select(STORE.c.version))


def _create(engine: sa.Engine) -> int | None:
    try:
        with transaction(engine, writes=True) as connection:
            METADATA.create_all(connection)
            if connection.scalar(sa.select(STORE.c.version)) is None:
                connection.execute(sa.insert(STORE), {"version": VERSION})
    except StoreError:
        # Of two that create the tables of a PostgreSQL at once, one fails and finds the other's.
        if _version(engine) is None:
            raise
    return _version(engine)


def _where(engine: sa.Engine) -> str:
    if engine.dialect.name == "sqlite":
        return engine.url.database or "the database in memory"
    return engine.url.render_as_string(hide_password=True)


def _store_error(engine: sa.Engine, error: exc.SQLAlchemyError) -> StoreError:
    cause = getattr(error, "orig", None) or error.args[0]
    text = f"{_where(engine)} cannot be used: {' '.join(str(cause).split())}"
    if getattr(cause, "sqlite_errorname", "") == "SQLITE_FULL":
        file = os.path.abspath(engine.url.database or "")
        size, free = os.path.getsize(file), shutil.disk_usage(os.path.dirname(file)).free
        text += f"; it has {size:,} bytes and its disk {free:,} free"
    return StoreError(text)
