"""One point of a suite, and the directory its result lives in: written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from textgym.benchmarks.locks import held
from textgym.benchmarks.suite import Evaluation, Options, Spec, Suite, folder_name
from textgym.errors import BusyError, ResultsError

if TYPE_CHECKING:
    import pandas as pd

RESULT = "result.json"
ERROR = "error.json"
SUITE = "suite.json"
TEMPORARY = ".tmp"
"""How the names of half-written files and folders end; they begin with a dot."""
OLD = "-old"
"""What stands before that in the name of a whole folder that is about to be replaced."""
LEAN: dict[str, Any] = {"write_statistics": False, "store_schema": False}
"""Most of a small parquet file is what describes it."""
OWN_MODEL = "the task's own"
"""What stands for a language model that a task brings."""
DEFAULT_PRECISION, FIRST_PRECISION = "auto", "float32"
"""What results that name no precision were asked for and made in."""
FIRST_EVALUATION = {"checkpoint_prompts": 0, "checkpoint_samples": 8}
FIRST_SETTINGS: dict[str, Any] = {"precision": DEFAULT_PRECISION, "lora": None}
"""What results of the time before there was a choice were made with."""


class Pretrained(NamedTuple):
    """What a task's cells start from: a model's name and the hash of its weights."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class Cell:
    """One task, one agent, one seed, and everything that decides the outcome.

    Attributes:
        model: the suite's, or `OWN_MODEL` where the task brings its own.
        fingerprint: hash of the pretrained model's weights, so that a model that was trained
            anew under the same name is not taken for the old one.

    The others are as in `Suite`.
    """

    task: Spec
    agent: Spec
    seed: int
    model: str
    fingerprint: str
    reference: str
    precision: str
    sft: Options
    budget: int
    evaluation: Evaluation
    lora: int | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The cell as plain JSON values; equal configs give equal metrics."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return plain

    @property
    def name(self) -> str:
        """Task, agent and seed as a relative folder."""
        parts = (folder_name(self.task.label), folder_name(self.agent.label), f"seed-{self.seed}")
        return "/".join(parts)

    def is_finished(self, out: Path) -> bool:
        """Returns whether `out` holds this cell's result, made with the same config.

        A precision is the same if it is the one asked for then, or the one that was used. Results
        that name none are of the time when there was float32 alone.
        """
        path = out / self.name / RESULT
        if not path.is_file():
            return False
        result = read_json(path)
        made = {**FIRST_SETTINGS, **result.get("config", {})}
        made["evaluation"] = {**FIRST_EVALUATION, **made.get("evaluation", {})}
        precisions = (made["precision"], result.get("precision", FIRST_PRECISION))
        return self.precision in precisions and made | {"precision": self.precision} == self.config

    def failure(self, out: Path, since: float) -> str | None:
        """Returns why this cell failed in `out` at or after a time (seconds since 1970), if so."""
        path = out / self.name / ERROR
        if not path.is_file() or path.stat().st_mtime < since:
            return None
        error = read_json(path)
        return str(error["cause"]) if error["config"] == self.config else None


def cells(suite: Suite, models: Mapping[str, Pretrained]) -> list[Cell]:
    """Returns the product, seed by seed so that a stopped run has whole comparisons.

    Args:
        suite: what is crossed.
        models: what the cells of each task (by its label) start from.
    """
    return [
        Cell(
            task=task,
            agent=agent,
            seed=seed,
            model=models[task.label].name,
            fingerprint=models[task.label].fingerprint,
            reference=suite.reference,
            precision=suite.precision,
            sft=suite.sft,
            budget=suite.budget,
            evaluation=suite.evaluation,
            lora=suite.lora,
        )
        for seed in suite.seeds
        for task in suite.tasks
        for agent in suite.agents
    ]


@contextmanager
def whole_directory(directory: Path) -> Iterator[Path]:
    """Gives a temporary directory that takes the place of `directory` only if nothing fails.

    Whenever the process or the machine stops, the place holds all of the old, all of the new or
    nothing. The caller holds the place's lock where other processes may write it.
    """
    temporary, old = _beside(directory), _beside(directory, OLD)
    _remove(temporary)  # process numbers come again
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            _flush(path)
        if directory.exists():
            directory.rename(old)
        temporary.rename(directory)
        _flush(directory.parent)
    finally:
        if old.exists() and not directory.exists():
            old.rename(directory)
        _remove(temporary)
        _remove(old)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives where to write a file that takes the place of `path` only if nothing fails."""
    temporary = _beside(path)
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    finally:
        _remove(temporary)


def _beside(target: Path, mark: str = "") -> Path:
    """Returns where to write before a rename; `sweep` reads the target from the name."""
    return target.with_name(f".{target.name}.{os.getpid()}{mark}{TEMPORARY}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Waits until a file or a directory is on the disk, so that a power cut does not empty it."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no directory
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(out: Path) -> None:
    """Removes what killed processes left half-written, and nothing that a living one writes."""
    for folder, folders, files in os.walk(out):
        hidden = [name for name in (*folders, *files) if name.startswith(".")]
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in hidden:
            if name.endswith(TEMPORARY):
                target = Path(folder) / name[1:].rsplit(".", 2)[0]
                with suppress(BusyError), held(out, target, wait=False):
                    _clear(Path(folder) / name, target)


def _clear(left: Path, target: Path) -> None:
    """Removes what a killed process has left, or puts it back if nothing has taken its place."""
    if left.name.endswith(f"{OLD}{TEMPORARY}") and not target.exists():
        left.rename(target)
    else:
        _remove(left)


def write_cell(directory: Path, result: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
    """Writes `result.json` and one parquet file per table, all or nothing."""
    with whole_directory(directory) as temporary:
        for name, table in tables.items():
            write_table(table, temporary / f"{name}.parquet")
        write_json(temporary / RESULT, result)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Writes a parquet file as small as it can be: hundreds of cells are kept.

    Numbers are in single precision, which is more than any of them is known to.
    """
    floats = {name: "float32" for name, kind in table.dtypes.items() if kind == "float64"}
    repeats = "object" in table.dtypes.astype(str).to_list()  # texts do, measurements do not
    table.astype(floats).to_parquet(path, index=False, use_dictionary=repeats, **LEAN)


def is_reference(config: dict[str, Any]) -> bool:
    """Returns whether a stored config's agent is the reference policy itself, sampled as it is."""
    agent = config["agent"]
    return not agent["options"] and agent["name"] in ("reference", config.get("reference"))


def write_error(directory: Path, error: dict[str, Any]) -> None:
    """Writes the `error.json` of a failed cell."""
    with whole_directory(directory) as temporary:
        write_json(temporary / ERROR, error)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes indented JSON, whole or not at all; NaN is refused, since JSON has none."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    with whole_file(path) as temporary:
        temporary.write_text(text, "utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file. Raises: ResultsError when it holds none."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ResultsError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise ResultsError(f"{path} holds no JSON object")
    return value


def require_writable(out: Path) -> None:
    """Makes the results folder. Raises: ResultsError when nothing can be written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ResultsError(f"results folder {str(out)!r} is not writable: {error}") from error
