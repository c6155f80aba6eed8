"""Training curves to TensorBoard, Weights & Biases or Trackio, while a cell trains.

No result depends on a tracker: it is no part of a cell's config, and one that fails ends nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from textgym.benchmarks.locks import ignored_by_git
from textgym.errors import ConfigError
from textgym.registry import unknown_name

if TYPE_CHECKING:
    from textgym.benchmarks.cell import Cell

TENSORBOARD, WANDB, TRACKIO = TRACKERS = ("tensorboard", "wandb", "trackio")
"""What can be told of a training; each is the extra that installs it, too."""
NONE = "none"
PROJECT = "textgym"
FINAL = "final/"
"""Prefix of what was measured when training had ended."""

Metrics = Mapping[str, Mapping[str, float | None]]
"""A result's: name -> `value` and, where there is an interval, `low` and `high`."""


class Tracker(Protocol):
    """Is told of one cell."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes a row of the training curve."""

    def finish(self, metrics: Metrics) -> None:
        """Takes what was measured in the end, nothing of a cell that failed, and closes."""


@dataclass(frozen=True)
class Tracking:
    """Who is told of the cells.

    Attributes:
        names: of `TRACKERS`.
        group: what the cells have in common, the suite's name.
    """

    names: tuple[str, ...] = ()
    group: str = ""


def choose_trackers(names: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the trackers that are meant: those named, or TensorBoard where it is installed.

    Args:
        names: of `TRACKERS`, or "none" alone; None or nothing leaves the choice open.

    Raises:
        UnknownNameError: no such tracker.
        ConfigError: one that is named and not installed, or "none" beside another.
    """
    if not names:
        return (TENSORBOARD,) if _is_installed(TENSORBOARD) else ()
    if NONE in names:
        if set(names) != {NONE}:
            raise ConfigError(f"trackers {', '.join(names)}: 'none' stands alone")
        return ()
    for name in names:
        if name not in TRACKERS:
            raise unknown_name("tracker", name, (*TRACKERS, NONE))
        if not _is_installed(name):
            raise ConfigError(f"{name} is not installed; pip install 'textgym[{name}]'")
    return tuple(dict.fromkeys(names))


def _is_installed(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    # Runs lie in folders of the trackers' names, which Python takes for packages without a file.
    return spec is not None and spec.origin is not None


@contextmanager
def tracked(tracking: Tracking, out: Path, cell: Cell) -> Iterator[Tracker]:
    """Gives what passes a cell's curve on to every tracker, closed at the end in any case.

    A tracker that fails is left out from then on, with one line on stderr.

    Args:
        tracking: to whom.
        out: the results folder.
        cell: what is trained.
    """
    trackers = _Trackers(tracking, out, cell)
    try:
        yield trackers
    finally:
        trackers.finish({})


class _Trackers:
    """All of a cell's trackers; none of them can raise."""

    def __init__(self, tracking: Tracking, out: Path, cell: Cell) -> None:
        self._cell = cell.name
        self._open: dict[str, Tracker] = {}
        for name in tracking.names:
            with self._forgiven(name):
                self._open[name] = _make(name, out, cell, tracking.group)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, tracker in list(self._open.items()):
            with self._forgiven(name):
                tracker.log(step, metrics)

    def finish(self, metrics: Metrics) -> None:
        for name, tracker in list(self._open.items()):
            with self._forgiven(name):
                tracker.finish(metrics)
        self._open.clear()

    @contextmanager
    def _forgiven(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            line = f"warning: {self._cell}: {name} is told no more: {cause}"
            print(line, file=sys.stderr, flush=True)
            broken = self._open.pop(name, None)
            if broken is not None:
                with suppress(Exception):
                    broken.finish({})


def _make(name: str, out: Path, cell: Cell, group: str) -> Tracker:
    if name == TENSORBOARD:
        return TensorBoard(out, cell)
    return ThreeFunctions(name, out, cell, group)


class TensorBoard:
    """Event files in `out/tensorboard`, a folder per cell; a cell that is run again begins anew."""

    def __init__(self, out: Path, cell: Cell) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = ignored_by_git(out / TENSORBOARD) / cell.name
        shutil.rmtree(folder, ignore_errors=True)
        self._writer: Any = SummaryWriter(str(folder), flush_secs=10)
        self._step = 0
        config = "".join(f"    {line}\n" for line in json.dumps(cell.config, indent=1).splitlines())
        self._writer.add_text("config", config)  # indented, which Markdown leaves as it is

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes a row's numbers, each a scalar of its name."""
        self._step = step
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, metrics: Metrics) -> None:
        """Writes the final numbers beside the last row."""
        for name, value in _flat(metrics).items():
            self._writer.add_scalar(name, value, self._step)
        self._writer.close()


class ThreeFunctions:
    """Weights & Biases, or Trackio, which has the same `init`, `log` and `finish`."""

    def __init__(self, name: str, out: Path, cell: Cell, group: str) -> None:
        self._module: Any = importlib.import_module(name)
        options = _wandb_options(self._module, out) if name == WANDB else {}
        self._module.init(
            project=PROJECT, group=group, name=cell.name, config=cell.config, **options
        )
        self._step = 0

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Sends a row."""
        self._step = step
        self._module.log(dict(metrics), step=step)

    def finish(self, metrics: Metrics) -> None:
        """Sends the final numbers beside the last row."""
        if metrics:
            self._module.log(_flat(metrics), step=self._step)
        self._module.finish()


def _wandb_options(wandb: Any, out: Path) -> dict[str, Any]:
    ignored_by_git(out / WANDB)
    return {
        "dir": str(out),
        # Nothing leaves the machine unless the user says so.
        "mode": os.environ.get("WANDB_MODE", "offline"),
        "settings": wandb.Settings(silent=True, console="off"),
    }


def _flat(metrics: Metrics) -> dict[str, float]:
    """Returns the final numbers by name, an interval's ends as `NAME_low` and `NAME_high`."""
    return {
        FINAL + (name if end == "value" else f"{name}_{end}"): value
        for name, ends in metrics.items()
        for end, value in ends.items()
        if value is not None
    }
