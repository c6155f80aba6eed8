"""Processes that run jobs on cells; one that dies takes only its own cell with it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, Protocol

import torch

from textgym.benchmarks.cell import Cell
from textgym.benchmarks.options import ONE_THREAD
from textgym.benchmarks.workbench import Workbench
from textgym.errors import ProcessDiedError

PRELOADED = (
    "textgym.benchmarks.experiment",
    "transformers.models.llama.modeling_llama",
    "datasets",
)
"""Slow imports that every worker needs."""
GRACE = 10.0
"""Seconds that an idle worker has to end in by itself."""

Job = Callable[[Workbench, Cell], Any]


class Ended(NamedTuple):
    """A job that has ended: what it returned or what it raised, and how long it took."""

    cell: Cell
    value: Any
    error: BaseException | None
    seconds: float


class Pool(Protocol):
    """What runs jobs, `size` of them at a time."""

    size: int

    def submit(self, job: Job, cell: Cell) -> None:
        """Takes a job; the caller keeps count, so that no more than `size` are under way."""

    def wait(self, seconds: float | None) -> list[Ended]:
        """Returns the jobs that have ended, after so many seconds an empty list."""

    def close(self, *, now: bool) -> None:
        """Lets go of the workers; with `now`, of what they are doing too."""


class Here:
    """Runs one job at a time in this process, where a debugger can follow."""

    size = 1

    def __init__(self, bench: Workbench) -> None:
        torch.set_num_threads(1)
        self._bench = bench
        self._next: tuple[Job, Cell] | None = None

    def submit(self, job: Job, cell: Cell) -> None:
        """Takes a job."""
        self._next = (job, cell)

    def wait(self, seconds: float | None) -> list[Ended]:
        """Runs the job that was taken, or sleeps."""
        if self._next is None:
            time.sleep(seconds or 0)
            return []
        (job, cell), self._next = self._next, None
        value: Any = None
        error: BaseException | None = None
        began = time.monotonic()
        try:
            value = job(self._bench, cell)
        except (Exception, SystemExit) as raised:
            error = raised
        return [Ended(cell, value, error, time.monotonic() - began)]

    def close(self, *, now: bool) -> None:
        """Does nothing."""


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    connection: Connection

    def death(self) -> ProcessDiedError:
        self.process.join(GRACE)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            return ProcessDiedError("its process no longer answers")
        if code >= 0:
            return ProcessDiedError(f"its process ended with status {code}")
        memory = " (out of memory?)" if -code == getattr(signal, "SIGKILL", 9) else ""
        return ProcessDiedError(f"its process was killed by signal {-code}{memory}")


class Workers:
    """Runs jobs in processes of one thread each, which keep what they have loaded.

    `concurrent.futures` gives up all jobs when one process dies, and cannot tell which job it was.

    Args:
        size: processes, started when they are needed.
        make: makes the workbench of a process, in that process.
    """

    def __init__(self, size: int, make: Callable[[], Workbench]) -> None:
        self.size = size
        self._make = make
        self._context = worker_context()
        self._idle: list[_Worker] = []
        self._busy: dict[_Worker, tuple[Cell, float]] = {}

    def submit(self, job: Job, cell: Cell) -> None:
        """Gives a job to an idle process, or to a new one."""
        self._idle = [worker for worker in self._idle if worker.process.is_alive()]
        worker = self._idle.pop() if self._idle else self._start()
        self._busy[worker] = (cell, time.monotonic())
        with suppress(OSError):  # it has just died, as `wait` will find
            worker.connection.send((job, cell))

    def wait(self, seconds: float | None) -> list[Ended]:
        """Returns the jobs that have ended; one whose process died, with `ProcessDiedError`."""
        # A process that the job itself has started may keep the connection open beyond its death.
        signs: dict[_Worker, set[Any]] = {w: {w.connection, w.process.sentinel} for w in self._busy}
        ready = set(wait(set().union(*signs.values()), seconds))
        ended = []
        for worker, its in signs.items():
            if not ready & its:
                continue
            cell, began = self._busy.pop(worker)
            try:
                if not worker.connection.poll():
                    raise EOFError
                value, error = worker.connection.recv()
                self._idle.append(worker)
            except (EOFError, OSError):
                value, error = None, worker.death()
            ended.append(Ended(cell, value, error, time.monotonic() - began))
        return ended

    def close(self, *, now: bool) -> None:
        """Ends the processes, with `now` in the middle of what they do."""
        workers = [*self._idle, *self._busy]
        for worker in workers:
            if now:
                worker.process.kill()
            worker.connection.close()
        for worker in workers:
            worker.process.join(GRACE)
            worker.process.kill()
            worker.process.join()

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._make))
        process.start()
        theirs.close()
        return _Worker(process, ours)


def worker_context() -> ForkServerContext | SpawnContext:
    """Returns how workers are started; on Linux from a process that has imported what they need.

    That process runs nothing, so that no thread of PyTorch's is lost in the copy. Calling this
    early lets it import beside other work.
    """
    # Batches differ in size from step to step, and oneDNN keeps a plan for every size it has met.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    os.environ.update(ONE_THREAD)
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    # Ctrl-C reaches every process of the terminal, and this one would show where it stopped. What
    # is first here would take the mask off again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _serve(connection: Connection, make: Callable[[], Workbench]) -> None:
    """What a worker process does: jobs, until the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which stops us
    watch_parent()
    torch.set_num_threads(1)
    bench = make()
    while True:
        try:
            job, cell = connection.recv()
        except EOFError:
            return
        connection.send(_answer(job, bench, cell))
        _give_memory_back()


def watch_parent() -> None:
    """Makes this process end when its parent dies, so that no worker outlives a killed command."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when its parent has died, in the middle of whatever it does.

    The system cannot be asked to: on Linux the process that forked the workers is another one.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answer(job: Job, bench: Workbench, cell: Cell) -> tuple[Any, BaseException | None]:
    try:
        return job(bench, cell), None
    except (Exception, SystemExit) as error:
        error.add_note("".join(traceback.format_exception(error)))
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return None, RuntimeError(f"{type(error).__name__}: {error}")
        return None, error


def _give_memory_back() -> None:
    """Returns freed memory to the system, where the C library would keep it (glibc)."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
