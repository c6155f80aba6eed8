import itertools

import psycopg
import pytest
import sqlalchemy as sa
from feedback_support import pair, postgres_binaries, postgres_server
from test_feedback_store import StoreContract

from textgym.errors import StoreError
from textgym.feedback.records import Feedback
from textgym.feedback.store import FeedbackStore

URL = "postgresql+psycopg://textgym@"
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def server():
    """The folder of a running server's socket."""
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip(
            "NOT TESTED ON POSTGRESQL: initdb and pg_ctl are not installed; "
            "to test the store on a real server: apt-get install postgresql"
        )
    with postgres_server(binaries) as folder:
        yield folder


@pytest.fixture
def url(server):
    """The URL of a place without tables: a schema is a database in all but the time it takes."""
    name = f"test_{next(NUMBERS)}"
    with psycopg.connect(host=str(server), user="textgym", dbname="postgres") as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"{URL}/postgres?host={server}&options=-csearch_path%3D{name}"


class TestPostgreSQL(StoreContract):
    """All that holds on SQLite."""


def test_it_is_postgresql(url):
    with FeedbackStore(url) as store, store.engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT version()")).startswith("PostgreSQL ")


def test_a_database_that_is_not_there(server):
    with pytest.raises(StoreError, match=r'cannot be used: .*database "nowhere" does not exist'):
        FeedbackStore(f"{URL}/nowhere?host={server}")


def test_a_connection_that_broke(url):
    """Within a transaction nothing of it is stored; the next one connects again."""
    with FeedbackStore(url) as store:
        store.register("ann")
        end = "SELECT pg_terminate_backend(pg_backend_pid())"
        sa.event.listen(store.engine, "commit", lambda c: c.exec_driver_sql(end), once=True)
        with pytest.raises(StoreError, match=r"cannot be used: .*terminating connection"):
            store.add([Feedback(pair(1), 1, "ann")])
        assert store.feedback() == []
        assert store.add([Feedback(pair(1), 1, "ann")]) == 1


def test_a_connection_that_broke_while_idle(url):
    end = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    with FeedbackStore(url) as store, FeedbackStore(url) as other:
        store.register("ann")
        with other.engine.connect() as connection:
            assert len(connection.execute(sa.text(end)).all()) == 1
        assert store.annotators() == {"ann": ""}


def test_the_constraint_alone_keeps_answers_single(url):
    """Also from those who write without the store."""
    with FeedbackStore(url) as store:
        store.register("ann")
        store.add([Feedback(pair(1), 1, "ann")])
        again = sa.text(
            "INSERT INTO feedback_answers (annotator, key, question, label)"
            " SELECT annotator, key, question, 0 FROM feedback_answers"
        )
        with pytest.raises(sa.exc.IntegrityError), store.engine.begin() as connection:
            connection.execute(again)
        assert [f.label for f in store.feedback()] == [1]
