"""Locks inside a results folder, so that processes which share it make everything once.

A lock is one of the operating system's, which a process gives up when it dies, however it dies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from textgym.errors import BusyError, ResultsError

LOCKS = ".locks"
"""Folder of the lock files. They stay: who removes one may divide those who wait for it."""


@contextmanager
def held(out: Path, target: Path, *, wait: bool) -> Iterator[None]:
    """Holds the lock of something inside a results folder. It does not nest.

    Args:
        out: the results folder.
        target: what only one process may make at a time, a path inside it that need not exist.
        wait: whether to wait while another process holds the lock.

    Raises:
        BusyError: another process holds it, and `wait` is False.
        ResultsError: the lock file cannot be made.
    """
    name = target.relative_to(out)
    path = out / LOCKS / name.with_name(f"{name.name}.lock")
    try:
        ignored_by_git(out / LOCKS)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        lock.acquire(blocking=wait)
    except Timeout:
        raise BusyError(f"{name.as_posix()} is being made by another process") from None
    except OSError as error:
        raise ResultsError(f"cannot lock {path}: {error}") from error
    try:
        yield
    finally:
        lock.release()


def ignored_by_git(folder: Path) -> Path:
    """Makes a folder of a results folder that git leaves alone; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    return folder


def make_once(out: Path, folder: Path, make: Callable[[], None], *, wait: bool) -> None:
    """Calls `make` unless the folder is there, or is once another process is done making it.

    Raises:
        BusyError: another process is making it, and `wait` is False.
        Whatever `make` raises.
    """
    if folder.is_dir():
        return
    with held(out, folder, wait=wait):
        if not folder.is_dir():
            make()
