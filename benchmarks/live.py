"""What is seen of a benchmark while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from textgym.benchmarks.cell import Cell

SHOWN = 16
"""Running cells that are listed; machines with more cores have few more lines."""

REFERENCES, CELLS = "references", "cells"
"""The stages of a run."""


class Costs:
    """What cells have cost, and so what others will."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str], list[float]] = {}

    def add(self, cell: Cell, seconds: float) -> None:
        """Learns what a finished cell took."""
        self._seconds.setdefault(_kind(cell), []).append(seconds)

    def left(
        self, waiting: Iterable[Cell], running: Iterable[tuple[Cell, float]], jobs: int
    ) -> float | None:
        """Returns the seconds that are left, or None where nothing has finished yet.

        A cell costs the mean of those of its task and agent, else of all; `jobs` share the cost.

        Args:
            waiting: cells that have not begun.
            running: cells that have, and how many seconds ago.
            jobs: processes.
        """
        every = [seconds for found in self._seconds.values() for seconds in found]
        if not every:
            return None
        mean = sum(every) / len(every)
        means = {kind: sum(found) / len(found) for kind, found in self._seconds.items()}
        rest = [max(0.0, means.get(_kind(cell), mean) - age) for cell, age in running]
        rest += [means.get(_kind(cell), mean) for cell in waiting]
        return sum(rest) / max(1, min(jobs, len(rest)))


def _kind(cell: Cell) -> tuple[str, str]:
    return (cell.task.label, cell.agent.label)


def duration(seconds: float) -> str:
    """Returns a time that people can take in.

    >>> [duration(seconds) for seconds in (20, 100, 3600, 8000)]
    ['less than a minute', 'about 2 min', 'about 1 h', 'about 2 h 13 min']
    """
    hours, minutes = divmod(round(seconds / 60), 60)
    if seconds < 60:
        return "less than a minute"
    return "about " + " ".join(f"{n} {unit}" for n, unit in ((hours, "h"), (minutes, "min")) if n)


class View:
    """Counts cells, and shows them where the output is a terminal; elsewhere only lines.

    Args:
        console: where.
        todo: the cells that are to be run.
        jobs: processes.
        costs: what the cells of earlier runs have cost.
    """

    def __init__(self, console: Console, todo: list[Cell], jobs: int, costs: Costs) -> None:
        self._console, self._jobs, self._costs = console, jobs, costs
        self._start = time.monotonic()
        self._total, self._done, self._failed = len(todo), 0, 0
        self._stage = REFERENCES
        self._todo = {cell.name: cell for cell in todo}
        self._running: dict[str, float] = {}
        self._put_off: set[str] = set()
        self._told: set[str] = set()
        self._live = Live(
            console=console,
            get_renderable=self.render,
            refresh_per_second=2,
            transient=True,
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def stage(self, name: str) -> None:
        """Names what is run from now on."""
        self._stage = name
        self._told.clear()

    def begin(self, cell: Cell) -> None:
        """A job has begun."""
        self._put_off.discard(cell.name)
        self._running[cell.name] = time.monotonic()

    def end(self, cell: Cell) -> None:
        """A job has ended, in whatever way."""
        self._running.pop(cell.name, None)

    def put_off(self, cell: Cell) -> None:
        """A job has ended because another process is at it."""
        self.end(cell)
        self._put_off.add(cell.name)

    def waiting(self) -> None:
        """Nothing is left but what other processes are at: says so once."""
        new = sorted(self._put_off - self._told)
        self._told |= self._put_off
        if new:
            what = "references of " if self._stage == REFERENCES else ""
            self.say(f"waiting for another process, which is at {what}{', '.join(new)}")

    def finish(self, cell: Cell, line: str, seconds: float, failed: bool) -> None:
        """A cell has its outcome: prints a line, with how far the run is."""
        self._done += 1
        self._failed += failed
        self._todo.pop(cell.name, None)
        if not failed:
            self._costs.add(cell, seconds)
        left = self.left()
        rest = "" if left is None else f", {duration(left)} left"
        self.say(f"[{self._done}/{self._total}{rest}] {line}")

    def left(self) -> float | None:
        """Returns the seconds that are left, or None where nobody knows or nothing is left."""
        # A terminal is drawn from another thread: what is copied here does not change below.
        todo, running, now = dict(self._todo), dict(self._running), time.monotonic()
        if not todo:
            return None
        waiting = [cell for name, cell in todo.items() if name not in running]
        ages = [(todo[name], now - began) for name, began in running.items() if name in todo]
        return self._costs.left(waiting, ages, self._jobs)

    def render(self) -> RenderableType:
        """Returns what stands below the lines: how far it is, and what is running."""
        now, left = time.monotonic(), self.left()
        parts = [
            f"{self._stage} {self._done}/{self._total}",
            f"{len(self._running)} running",
            f"{self._failed} failed" if self._failed else "",
            f"{len(self._put_off)} at another process" if self._put_off else "",
            _clock(now - self._start),
            "" if left is None else f"{duration(left)} left",
        ]
        line = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(1, self._total), completed=self._done, width=24)
        line.add_row(bar, Text(" · ".join(part for part in parts if part)))
        rows = Table.grid(padding=(0, 2))
        running = list(dict(self._running).items())
        for name, began in running[:SHOWN]:
            rows.add_row("", Text(name), Text(_clock(now - began), justify="right"))
        if len(running) > SHOWN:
            rows.add_row("", Text(f"and {len(running) - SHOWN} more"), "")
        return Group(line, rows)

    def say(self, line: str) -> None:
        """Prints a line above what is shown."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
