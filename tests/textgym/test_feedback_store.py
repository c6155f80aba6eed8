import os
import sqlite3
import sys
import tempfile
from pathlib import Path

import pytest
import sqlalchemy as sa
from feedback_support import (
    HARD_TEXTS,
    add_each,
    answer_all,
    ask_all,
    die_before_commit,
    fill_as_nobody,
    fill_with_small_files,
    filled,
    full_answers,
    in_processes,
    killed,
    pair,
    undo_all,
)

from textgym.errors import FeedbackError, StoreError
from textgym.feedback.records import BINARY, RATING, Feedback, Question
from textgym.feedback.store import FeedbackStore


class StoreContract:
    """What holds of every database; a subclass has the fixture `url`."""

    @pytest.fixture
    def store(self, url):
        with FeedbackStore(url) as store:
            yield store

    def test_annotators(self, store):
        assert store.annotators() == {}
        store.register("zoe", "authors")
        store.register("ann")
        store.register("zoe", "authors")
        assert list(store.annotators().items()) == [("zoe", "authors"), ("ann", "")]
        with pytest.raises(FeedbackError, match="'zoe' is of group 'authors', not 'users'"):
            store.register("zoe", "users")
        with pytest.raises(FeedbackError, match="'ann' is of group '', not 'users'"):
            store.register("ann", "users")
        assert store.annotators() == {"zoe": "authors", "ann": ""}

    @pytest.mark.parametrize("name", ["", "a" * 256, "a\0b", "half \ud83d", "two\nlines"])
    def test_names_that_cannot_be(self, store, name):
        with pytest.raises(FeedbackError, match="annotator's name must be 1 to 255 printable"):
            store.register(name)
        with pytest.raises(FeedbackError, match="batch's name must be"):
            store.ask([pair(1)], name)
        if name:
            with pytest.raises(FeedbackError, match="group's name must be"):
                store.register("ann", name)
        assert (store.annotators(), store.batches()) == ({}, [])

    def test_names_at_the_limit(self, store):
        store.register("字" * 255, "😀" * 255)
        assert store.annotators() == {"字" * 255: "😀" * 255}

    def test_batches_keep_their_order_and_each_question_once(self, store):
        assert store.batches() == store.questions() == []
        assert store.ask([pair(3), pair(1), pair(3)], "z") == 2
        turned = Question("prompt 1", ("second 1", "first 1"), policies=("x", "y"))
        assert store.ask([turned, pair(2)], "z") == 1
        assert store.ask([turned], "a") == 1
        assert store.ask(iter([]), "empty") == 0
        assert store.questions("z") == [pair(3), pair(1), pair(2)]
        assert store.ask([turned, pair(1)], "both") == 1
        assert store.questions("both") == [turned]
        assert store.questions("a") == [turned]
        assert store.batches() == ["z", "a", "both"]

    def test_ask_many_more_than_a_statement_holds(self, store):
        many = [pair(number) for number in range(1203)]
        assert store.ask(many[:700]) == 700
        assert store.ask(many, "other") == 1203
        assert store.ask(many) == 503
        assert store.questions() == store.questions("other") == many

    @pytest.mark.slow
    def test_more_at_once_than_databases_compare_with(self, store):
        store.register("ann")
        many = [Feedback(pair(number), 1, "ann") for number in range(70_000)]
        assert store.add(many) == 70_000

    def test_every_field_is_kept(self, store):
        store.register("ann", "authors")
        answers = full_answers()
        assert store.add(answers) == 3
        assert store.feedback() == answers
        assert [f.to_row() for f in store.feedback()] == [f.to_row() for f in answers]

    def test_every_default_is_kept(self, store):
        store.register("ann")
        store.add([Feedback(pair(1), 0, "ann"), Feedback(Question("", ("",), RATING), 1, "ann")])
        first, second = store.feedback()
        assert first == Feedback(pair(1), 0.0, "ann")
        assert (first.seconds, first.seed, first.timestamp, first.group) == (None, None, None, "")
        assert second.question == Question("", ("",), RATING)

    def test_any_text_is_kept(self, store):
        store.register("ann")
        asked = [
            Question(text, (text, text + "."), policies=(text, ""), columns={text: [text]})
            for text in HARD_TEXTS
        ]
        assert store.ask(asked) == len(HARD_TEXTS)
        store.add([Feedback(question, 1, "ann", seed=2**200) for question in asked])
        assert store.questions() == asked
        assert [f.question for f in store.feedback()] == asked
        assert store.feedback()[0].seed == 2**200

    def test_columns_come_back_as_json_has_them(self, store):
        store.ask([Question("p", ("a", "b"), columns={9: (1, 2), 10: None, "x": 0.1})])
        assert store.questions()[0].columns == {"9": [1, 2], "10": None, "x": 0.1}

    def test_answers_keep_the_order_their_labels_speak_of(self, store):
        """The same question by key, but the label is about the other completion."""
        store.register("ann")
        store.register("bob")
        turned = Question("prompt 1", ("second 1", "first 1"), columns={"id": 3})
        store.ask([pair(1)])
        store.add([Feedback(pair(1), 1, "ann"), Feedback(turned, 0, "bob")])
        assert [f.ranked[0] for f in store.feedback()] == ["first 1", "first 1"]
        assert store.feedback(annotator="bob")[0].question == turned
        assert store.pending("bob") == []

    def test_one_answer_per_annotator_and_question(self, store):
        store.register("ann")
        store.register("bob")
        assert store.add([Feedback(pair(1), 1, "ann"), Feedback(pair(1), 0, "bob")]) == 2
        turned = Question("prompt 1", ("second 1", "first 1"))
        with pytest.raises(FeedbackError, match=r"'ann' has already .* question 'prompt 1'"):
            store.add([Feedback(pair(2), 1, "ann"), Feedback(turned, 0, "ann")])
        with pytest.raises(FeedbackError, match=r"'bob' has already .* question 'prompt 4'"):
            store.add([Feedback(pair(n), 1, "bob") for n in (3, 4, 5, 4)])
        kept = [(f.question, f.annotator, f.label) for f in store.feedback()]
        assert kept == [(pair(1), "ann", 1), (pair(1), "bob", 0)]

    def test_answers_of_strangers(self, store):
        store.register("anna", "authors")
        known = Feedback(pair(1), 1, "anna", "authors")
        with pytest.raises(FeedbackError, match="unknown annotator 'ana'; did you mean 'anna'"):
            store.add([known, Feedback(pair(2), 1, "ana")])
        with pytest.raises(FeedbackError, match="'anna' is of group 'authors', not 'users'"):
            store.add([known, Feedback(pair(2), 1, "anna", "users")])
        assert store.feedback() == []
        assert store.add([]) == 0
        for act in (store.pending, store.undo, lambda name: store.skip(name, pair(1))):
            with pytest.raises(FeedbackError, match="unknown annotator 'ana'"):
                act("ana")

    def test_pending_skip_undo_and_progress(self, store):
        store.register("ann")
        store.register("bob")
        one, two, three = asked = [pair(1), pair(2), pair(3)]
        store.ask(asked)
        store.ask([three, pair(4)], "more")
        assert store.undo("ann") is None
        store.skip("ann", two)
        store.add([Feedback(one, 1, "ann")])
        store.add([Feedback(three, 0, "ann"), Feedback(three, 1, "bob")])
        assert (store.pending("ann"), store.pending("bob")) == ([], [one, two])
        assert store.pending("ann", "more") == [pair(4)]
        assert store.pending("ann", "never asked") == []
        assert store.progress() == {"ann": 3, "bob": 1}
        assert store.progress("more") == {"ann": 1, "bob": 1}
        assert store.progress("never asked") == {"ann": 0, "bob": 0}

        assert store.undo("ann") == three
        assert store.pending("ann") == [three]
        assert store.undo("ann") == one
        assert store.undo("ann") == two
        assert store.undo("ann") is None
        assert store.pending("ann") == asked
        assert store.progress() == {"ann": 0, "bob": 1}
        assert [f.annotator for f in store.feedback()] == ["bob"]
        assert store.add([Feedback(three, 1, "ann")]) == 1

    def test_a_skip_is_no_answer(self, store):
        store.register("ann")
        store.ask([pair(1)])
        store.skip("ann", pair(1))
        assert store.feedback() == []
        with pytest.raises(FeedbackError, match="already answered or skipped"):
            store.skip("ann", pair(1))
        store.add([Feedback(pair(1), 0, "ann")])
        assert [f.label for f in store.feedback()] == [0]
        assert store.progress() == {"ann": 1}
        with pytest.raises(FeedbackError, match="already answered or skipped"):
            store.skip("ann", pair(1))
        assert store.undo("ann") == pair(1)
        assert store.pending("ann") == [pair(1)]

    def test_feedback_is_chosen_by_kind_annotator_and_group(self, store):
        for name, group in (("ann", "authors"), ("abe", "authors"), ("una", "users")):
            store.register(name, group)
        rated, judged = Question("p", ("a",), RATING), Question("p", ("a",), BINARY)
        given = [
            Feedback(rated, 5, "una", "users"),
            Feedback(pair(1), 0.5, "ann", "authors"),
            Feedback(judged, 1, "abe", "authors"),
            Feedback(pair(1), 1, "una", "users"),
        ]
        store.add(given)
        assert store.feedback() == given
        assert store.feedback(kind="pairwise") == [given[1], given[3]]
        assert store.feedback(annotator="una") == [given[0], given[3]]
        assert store.feedback(group="authors") == [given[1], given[2]]
        assert store.feedback("pairwise", "una", "users") == [given[3]]
        assert store.feedback("rating", group="authors") == []
        with pytest.raises(FeedbackError, match="unknown kind of feedback 'pair'"):
            store.feedback("pair")
        with pytest.raises(FeedbackError, match="did you mean 'ann'"):
            store.feedback(annotator="anne")
        with pytest.raises(FeedbackError, match="did you mean 'authors'"):
            store.feedback(group="author")

    def test_it_is_all_there_when_opened_again(self, store, url):
        store.register("ann", "authors")
        store.ask([pair(1), pair(2)])
        store.add([Feedback(pair(1), 1, "ann", "authors")])
        store.close()
        with FeedbackStore(url) as again:
            assert again.pending("ann") == [pair(2)]
            assert again.feedback() == [Feedback(pair(1), 1, "ann", "authors")]

    def test_writers_at_once_lose_and_double_nothing(self, url):
        """Two have annotators of their own, two fight over one's; all four make the tables."""
        numbers = list(range(50))
        won = in_processes(
            (answer_all, url, "ann", 1.0, numbers),
            (answer_all, url, "bob", 1.0, numbers),
            (answer_all, url, "cat", 0.0, numbers),
            (answer_all, url, "cat", 1.0, numbers),
        )
        assert won[:2] == [numbers, numbers]
        assert sorted(won[2] + won[3]) == numbers
        with FeedbackStore(url) as store:
            assert store.annotators().keys() == {"ann", "bob", "cat"}
            for name in ("ann", "bob"):
                assert [f.question for f in store.feedback(annotator=name)] == [*map(pair, numbers)]
            kept = store.feedback(annotator="cat")
            assert {f.question.prompt: f.label for f in kept} == {
                pair(number).prompt: label for label, mine in enumerate(won[2:]) for number in mine
            }
            assert len(kept) == 50

    @pytest.mark.slow
    def test_askers_at_once(self, url):
        new = in_processes((ask_all, url, range(60)), (ask_all, url, range(30, 90)))
        assert sum(new) == 90
        with FeedbackStore(url) as store:
            assert len(store.questions()) == 90

    @pytest.mark.slow
    def test_answers_in_opposite_orders_do_not_deadlock(self, store, url):
        store.register("ann")
        numbers = list(range(300))
        won = in_processes(
            (add_each, url, "ann", [numbers] * 5), (add_each, url, "ann", [numbers[::-1]] * 5)
        )
        assert sorted(won) == [0, 300]
        assert len(store.feedback()) == 300

    @pytest.mark.slow
    def test_undo_takes_back_its_own_annotators_last_act(self, store, url):
        """Two processes undo one annotator's answers, while another's are being stored."""
        store.register("ann")
        store.register("bob")
        store.add([Feedback(pair(number), 1, "ann") for number in range(60)])
        first, second, others = in_processes(
            (undo_all, url, "ann", 25),
            (undo_all, url, "ann", 25),
            (add_each, url, "bob", [[number] for number in range(40)]),
        )
        assert {*first, *second} == {f"prompt {number}" for number in range(10, 60)}
        assert len(first) == len(second) == 25
        assert others == 40
        assert [f.question for f in store.feedback(annotator="ann")] == [*map(pair, range(10))]
        assert [f.question for f in store.feedback(annotator="bob")] == [*map(pair, range(40))]

    def test_a_process_killed_before_its_commit_leaves_nothing(self, store, url):
        store.register("ann")
        store.add([Feedback(pair(99), 0, "ann")])
        assert killed(die_before_commit, url) == 9
        assert store.feedback() == [Feedback(pair(99), 0, "ann")]
        with store.engine.connect() as connection:
            count = connection.scalar(sa.text("SELECT count(*) FROM feedback_questions"))
        assert count == 1
        assert store.add([Feedback(pair(number), 1, "ann") for number in range(20)]) == 20

    def test_another_version(self, store, url):
        with store.engine.begin() as connection:
            connection.execute(sa.text("UPDATE feedback_store SET version = 2"))
        with pytest.raises(StoreError, match=r"is a store of version 2, this textgym's is 1$"):
            FeedbackStore(url)

    @pytest.mark.parametrize(
        "damage",
        [
            "feedback_questions SET prompt = '\"other\"'",
            "feedback_questions SET prompt = 'no JSON'",
            "feedback_questions SET completions = '[1, 2]'",
            "feedback_questions SET policies = '7'",
            "feedback_answers SET label = 0.7",
            "feedback_answers SET \"order\" = '[0, 0]'",
        ],
    )
    def test_rows_that_were_not_stored(self, store, damage):
        store.register("ann")
        store.add([Feedback(pair(1), 1, "ann")])
        with store.engine.begin() as connection:
            connection.execute(sa.text(f"UPDATE {damage}"))
        with pytest.raises(StoreError, match="is damaged"):
            store.feedback()


class TestSQLite(StoreContract):
    @pytest.fixture
    def url(self, tmp_path):
        return str(tmp_path / "feedback.db")


def test_a_file_of_its_own_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with FeedbackStore() as store:
        store.register("ann")
    assert Path("feedback.db").is_file()
    with FeedbackStore("sqlite:///feedback.db") as store:
        assert store.annotators() == {"ann": ""}


@pytest.mark.parametrize("name", ["two words", "50%?mode=ro#x", "файл.db", "file:a"])
def test_any_name_of_a_file(tmp_path, name):
    filled(tmp_path / name)
    assert (tmp_path / name).is_file()
    with FeedbackStore(tmp_path / name) as store:
        assert len(store.feedback()) == 300


def test_how_sqlite_is_set(tmp_path):
    with FeedbackStore(tmp_path / "feedback.db") as store, store.engine.connect() as connection:
        names = ("journal_mode", "foreign_keys", "busy_timeout")
        values = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]
    assert values == ["wal", 1, 30_000]


def test_readers_do_not_wait_for_a_writer(tmp_path):
    path = filled(tmp_path / "feedback.db")
    with FeedbackStore(path) as store, sqlite3.connect(path) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM feedback_answers")
        assert len(store.feedback()) == 300
        with store.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout=10")
        with pytest.raises(StoreError, match=r"feedback\.db cannot be used: database is locked"):
            store.register("bob")
        other.rollback()
        store.register("bob")
    other.close()


def test_a_file_that_is_no_database(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, " * 1000)
    with pytest.raises(StoreError, match=r"notes\.txt cannot be used: file is not a database"):
        FeedbackStore(path)
    assert path.read_text() == "not a database, " * 1000


def test_a_corrupt_database(tmp_path):
    path = filled(tmp_path / "feedback.db")
    content = bytearray(path.read_bytes())
    content[8192 : len(content) - 4096] = b"\xa5" * (len(content) - 12288)
    path.write_bytes(content)
    with (
        pytest.raises(StoreError, match=r"feedback\.db cannot be used: .*malformed"),
        FeedbackStore(path) as store,
    ):
        store.feedback()


def test_a_database_cut_short(tmp_path):
    path = filled(tmp_path / "feedback.db")
    os.truncate(path, path.stat().st_size // 2)
    with (
        pytest.raises(StoreError, match=r"feedback\.db cannot be used: .*malformed"),
        FeedbackStore(path) as store,
    ):
        store.feedback()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(StoreError, match=r"no folder .*/nowhere can be entered$"):
        FeedbackStore(tmp_path / "nowhere" / "feedback.db")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(StoreError, match="cannot be used: unable to open database file"):
        FeedbackStore(tmp_path)


def test_a_folder_that_cannot_be_written():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o555)
        (message,) = in_processes((fill_as_nobody, f"{folder}/feedback.db"))
        assert message == f"{folder}/feedback.db cannot be used: unable to open database file"
        os.mkdir(f"{folder}/inner")
        os.chmod(folder, 0o600)
        (message,) = in_processes((fill_as_nobody, f"{folder}/inner/feedback.db"))
        assert message.endswith(f"cannot be opened: no folder {folder}/inner can be entered")


def test_a_file_that_may_not_grow(tmp_path):
    path = filled(tmp_path / "feedback.db", 10)
    (message,) = in_processes((fill_with_small_files, str(path)))
    assert message.startswith(f"{path} cannot be used: ")
    with FeedbackStore(path) as store:
        assert store.feedback() == [Feedback(pair(number), 1, "ann") for number in range(10)]


def test_a_full_disk(tmp_path):
    with FeedbackStore(tmp_path / "feedback.db") as store:
        store.register("ann")
        store.add([Feedback(pair(number), 1, "ann") for number in range(50)])
        with store.engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        with pytest.raises(
            StoreError,
            match=r"database or disk is full; it has [\d,]{5,} bytes and its disk [\d,]+ free",
        ):
            store.add([Feedback(pair(number), 1, "ann") for number in range(50, 5000)])
        assert [f.question for f in store.feedback()] == [*map(pair, range(50))]
        assert len(store.pending("ann")) == 0
        with store.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count=100000")
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        assert store.add([Feedback(pair(number), 1, "ann") for number in range(50, 5000)]) == 4950


def test_an_unreachable_server():
    url = "postgresql+psycopg://me:secret@127.0.0.1:1/feedback?connect_timeout=2"
    with pytest.raises(StoreError, match=r"cannot be used: .*127\.0\.0\.1.*refused") as caught:
        FeedbackStore(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgres://me@host/x", "unknown database 'postgres'; did you mean 'postgresql'"),
        ("postgresql+psycopq://host/x", "unknown database 'postgresql\\+psycopq'"),
        ("://x", "is no database URL such as sqlite:///feedback.db"),
        ("sqlite+pysqlite:///no/such/folder/x.db", "x.db cannot be used: unable to open"),
    ],
)
def test_urls_that_are_none(url, message):
    with pytest.raises(StoreError, match=message):
        FeedbackStore(url)


@pytest.mark.parametrize(
    ("url", "module", "package"),
    [
        ("postgresql+psycopg://host/x", "psycopg", "'psycopg\\[binary\\]'"),
        ("mysql://host/x", "MySQLdb", "mysqlclient"),
        ("mysql+pymysql://host/x", "pymysql", "pymysql"),
    ],
)
def test_a_missing_driver(monkeypatch, url, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(StoreError, match=f"not installed: pip install {package}$"):
        FeedbackStore(url)
