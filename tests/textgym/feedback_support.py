"""Questions and answers, processes that share a store, and a PostgreSQL server of one's own."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from textgym.errors import FeedbackError, StoreError
from textgym.feedback.records import BINARY, RATING, Feedback, Question
from textgym.feedback.store import FeedbackStore

SPAWN = multiprocessing.get_context("spawn")
HARD_TEXTS = [
    "",
    "two\nlines\ttab \r\n",
    "NUL \0 inside",
    "half a pair \ud83d",
    "😀 ﷽ é",
    "'; DROP TABLE feedback_answers; --",
    '\\u0000 "quoted" \\',
    "long 字" * 20_000,
]


def pair(number: int) -> Question:
    return Question(f"prompt {number}", (f"first {number}", f"second {number}"))


def full_answers() -> list[Feedback]:
    """One answer of each kind, every field set to what is not its default."""
    asked = Question(
        "p", ("a", "b"), policies=("sft", "ppo"), columns={"id": 7, "who": ["x", None]}
    )
    rated = Question("p", ("a",), RATING, ("sft",), {"reference": "r", "score": 0.1})
    judged = Question("p", ("a",), BINARY, ("ppo",), {"nested": {"é": [1.5, True]}})
    return [
        Feedback(asked, 0.5, "ann", "authors", (1, 0), 2.25, 2**62, 1_700_000_000.123456),
        Feedback(rated, 4, "ann", "authors", (0,), 0.1, 0, 0.0),
        Feedback(judged, 0, "ann", "authors", (0,), 1e-9, -1, 1.1),
    ]


def in_processes(*calls: tuple[Any, ...]) -> list[Any]:
    """Runs each `work, *arguments` in a process of its own, all at once; returns the results.

    The work gets a barrier before its arguments, to wait at until the others are there too.
    """
    ready, results = SPAWN.Barrier(len(calls)), SPAWN.Queue()
    processes = [
        SPAWN.Process(target=_put, args=(results, number, work, ready, *arguments))
        for number, (work, *arguments) in enumerate(calls)
    ]
    for process in processes:
        process.start()
    done = dict(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    return [done[number] for number in range(len(processes))]


def _put(results: Any, number: int, work: Callable[..., Any], *given: Any) -> None:
    try:
        results.put((number, work(*given)))
    except BaseException as error:
        given[0].abort()
        results.put((number, repr(error)))


def answer_all(ready: Any, url: str, annotator: str, label: float, numbers: list[int]) -> list[int]:
    """Answers one by one; returns the questions that no other process had answered."""
    won = []
    ready.wait()
    with FeedbackStore(url) as store:
        store.register(annotator)
        for number in numbers:
            try:
                store.add([Feedback(pair(number), label, annotator)])
            except FeedbackError:
                continue
            won.append(number)
    return won


def add_each(ready: Any, url: str, annotator: str, parts: list[list[int]]) -> int:
    """Adds answers part by part; returns how many went in."""
    count = 0
    with FeedbackStore(url) as store:
        ready.wait()
        for numbers in parts:
            try:
                count += store.add([Feedback(pair(number), 1, annotator) for number in numbers])
            except FeedbackError:
                continue
    return count


def undo_all(ready: Any, url: str, annotator: str, times: int) -> list[str]:
    with FeedbackStore(url) as store:
        ready.wait()
        undone = [store.undo(annotator) for _ in range(times)]
        return [question.prompt for question in undone if question is not None]


def ask_all(ready: Any, url: str, numbers: list[int]) -> int:
    ready.wait()
    with FeedbackStore(url) as store:
        return store.ask([pair(number) for number in numbers])


def die_before_commit(url: str) -> None:
    """Adds answers and loses its process when all are written but none committed."""
    store = FeedbackStore(url)
    sa.event.listen(store.engine, "commit", lambda _: os._exit(9))
    store.add([Feedback(pair(number), 1, "ann") for number in range(20)])


def filled(path: str | Path, count: int = 300, first: int = 0) -> str | Path:
    """A store with answers of "ann" to so many pairs."""
    with FeedbackStore(path) as store:
        store.register("ann")
        store.add([Feedback(pair(number), 1, "ann") for number in range(first, first + count)])
    return path


def fill_as_nobody(ready: Any, path: str) -> str:
    """Returns the error of who may not write."""
    FeedbackStore("sqlite://").close()  # Who is nobody cannot import.
    if os.geteuid() == 0:
        os.setresuid(65534, 65534, 65534)
    return _error_of(path)


def fill_with_small_files(ready: Any, path: str) -> str:
    """Returns the error where the system lets no file grow beyond 200 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    return _error_of(path)


def _error_of(path: str) -> str:
    try:
        filled(path, 20_000, first=10)
    except StoreError as error:
        return str(error)
    return ""


def killed(work: Callable[..., Any], *arguments: Any) -> int | None:
    process = SPAWN.Process(target=work, args=arguments)
    process.start()
    process.join(60)
    return process.exitcode


def postgres_binaries() -> Path | None:
    """Returns the folder of PostgreSQL's server programs; Debian keeps them off the path."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


@contextmanager
def postgres_server(binaries: Path) -> Iterator[Path]:
    """A server on a Unix socket in a new folder, which it gives, and on no port."""
    # The path of a socket has at most 107 characters, too few for some temporary folders.
    folder = Path(tempfile.mkdtemp(prefix="textgym-pg-", dir="/tmp"))
    who: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root.
        who = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        shutil.chown(folder, "nobody", "nogroup")

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [binaries / program, "-D", folder / "data", *arguments],
            **who, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip

    try:
        run("initdb", "-U", "textgym", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        options = f"-k {folder} -c listen_addresses= -c fsync=off"
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield folder
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
