"""Feedback as data sets: TRL's preference and unpaired formats, JSON lines, Parquet."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textgym.errors import DataError, FeedbackError, StoreError
from textgym.feedback.records import BINARY, PAIRWISE, RATING, Feedback, Question

if TYPE_CHECKING:
    from datasets import Dataset

GOOD_FROM = 3.5
"""Ratings above count as good where a format knows only good and bad; 3 is neither."""
BAD_BELOW = 2.5


def to_preferences(feedback: Iterable[Feedback], *, ties: bool = False) -> Dataset:
    """Returns the pairs in TRL's preference format: `prompt`, `chosen`, `rejected`.

    Args:
        feedback: answers; other kinds are left out.
        ties: whether ties are kept, which the format itself does not know.

    Returns:
        The three columns and `tie`, `annotator`, `group`, `columns` (JSON).
    """
    from datasets import Dataset

    pairs = [f for f in feedback if f.question.kind == PAIRWISE and (ties or not f.is_tie)]
    return Dataset.from_dict(
        {
            "prompt": [f.question.prompt for f in pairs],
            "chosen": [f.ranked[0] for f in pairs],
            "rejected": [f.ranked[1] for f in pairs],
            "tie": [f.is_tie for f in pairs],
            **_whose(pairs),
        }
    )


def from_preferences(rows: Dataset, annotator: str = "data", group: str = "") -> list[Feedback]:
    """Reads TRL's preference format; the chosen completion comes first.

    Args:
        rows: columns `prompt`, `chosen`, `rejected`, and any of those of `to_preferences`.
        annotator: who chose, where no column says.
        group: the annotator's, likewise.

    Raises:
        DataError: a missing column.
        FeedbackError: a row whose completions are equal.
    """
    _require(rows, "prompt", "chosen", "rejected")

    def read(row: dict[str, Any]) -> Feedback:
        question = Question(
            row["prompt"], (row["chosen"], row["rejected"]), PAIRWISE, columns=_columns(row)
        )
        return Feedback(question, 0.5 if row.get("tie") else 1.0, *_by(row, annotator, group))

    return list(_numbered(rows, read))


def to_unpaired(feedback: Iterable[Feedback]) -> Dataset:
    """Returns `prompt`, `completion`, `label` (bool): TRL's unpaired format.

    A pair gives its chosen completion as good and the other as bad; ties and ratings of 3 are left
    out.
    """
    from datasets import Dataset

    judged = [(f, *verdict) for f in feedback for verdict in _verdicts(f)]
    return Dataset.from_dict(
        {
            "prompt": [f.question.prompt for f, _, _ in judged],
            "completion": [text for _, text, _ in judged],
            "label": [good for _, _, good in judged],
            **_whose([f for f, _, _ in judged]),
        }
    )


def from_unpaired(rows: Dataset, annotator: str = "data", group: str = "") -> list[Feedback]:
    """Reads TRL's unpaired format as binary answers; the arguments are `from_preferences`'.

    Raises:
        DataError: a missing column.
    """
    _require(rows, "prompt", "completion", "label")

    def read(row: dict[str, Any]) -> Feedback:
        question = Question(row["prompt"], (row["completion"],), BINARY, columns=_columns(row))
        if row["label"] is None:
            raise FeedbackError("it has no label")
        return Feedback(question, float(row["label"]), *_by(row, annotator, group))

    return list(_numbered(rows, read))


def write_feedback(path: str | Path, feedback: Iterable[Feedback]) -> int:
    """Writes answers to a .jsonl or .parquet file, whole or not at all; returns how many.

    Raises:
        FeedbackError: another ending.
        StoreError: the file cannot be written.
    """
    path = Path(path)
    write = _by_ending(path, _write_jsonl, _write_parquet)
    rows = [f.to_row() for f in feedback]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In a folder of its own: a file that `tempfile` makes can be read by its owner alone.
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
            write(Path(folder) / path.name, rows)
            (Path(folder) / path.name).replace(path)
    except (OSError, UnicodeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"{path} cannot be written: {reason}") from error
    return len(rows)


def read_feedback(path: str | Path) -> list[Feedback]:
    """Reads what `write_feedback` wrote.

    Raises:
        FeedbackError: another ending, or a record that is none; it is named by its number.
        StoreError: the file cannot be read.
    """
    path = Path(path)
    read = _by_ending(path, _read_jsonl, _read_parquet)
    try:
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return list(_numbered(read(path), Feedback.from_row))
    except StoreError:
        raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"{path} cannot be read: {reason}") from error


def _verdicts(feedback: Feedback) -> list[tuple[str, bool]]:
    """Returns completions that were called good or bad."""
    kind, label = feedback.question.kind, feedback.label
    if kind == PAIRWISE:
        chosen, rejected = feedback.ranked
        return [] if feedback.is_tie else [(chosen, True), (rejected, False)]
    (text,) = feedback.question.completions
    if kind == RATING:
        return [] if BAD_BELOW < label < GOOD_FROM else [(text, label > GOOD_FROM)]
    return [(text, label == 1)]


def _whose(feedback: Sequence[Feedback]) -> dict[str, list[str]]:
    return {
        "annotator": [f.annotator for f in feedback],
        "group": [f.group for f in feedback],
        "columns": [json.dumps(dict(f.question.columns), sort_keys=True) for f in feedback],
    }


def _by(row: dict[str, Any], annotator: str, group: str) -> tuple[str, str]:
    return row.get("annotator") or annotator, row.get("group") or group


def _columns(row: dict[str, Any]) -> dict[str, Any]:
    try:
        columns: dict[str, Any] = json.loads(row.get("columns") or "{}")
    except (TypeError, ValueError) as error:
        raise FeedbackError(f"its columns are no JSON: {error}") from None
    return columns


def _require(rows: Dataset, *names: str) -> None:
    for name in names:
        if name not in rows.column_names:
            raise DataError(
                f"feedback needs a column {name!r}; the columns are {', '.join(rows.column_names)}"
            )


def _numbered(rows: Iterable[Any], read: Callable[[Any], Feedback]) -> Iterator[Feedback]:
    for number, row in enumerate(rows, 1):
        try:
            yield read(row)
        except FeedbackError as error:
            raise FeedbackError(f"record {number}: {error}") from error


def _by_ending(path: Path, jsonl: Any, parquet: Any) -> Any:
    try:
        return {".jsonl": jsonl, ".parquet": parquet}[path.suffix]
    except KeyError:
        raise FeedbackError(f"feedback is kept as .jsonl or .parquet, got {path.name!r}") from None


def _write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise FeedbackError(f"line {number} of {path} is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise FeedbackError(f"line {number} of {path} is no record")
        yield row


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), path)


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except pa.ArrowInvalid as error:
        raise StoreError(f"{path} is no Parquet file: {error}") from error
    return rows


def _schema() -> Any:
    import pyarrow as pa

    texts, numbers = pa.list_(pa.string()), pa.list_(pa.int64())
    types = {
        "prompt": pa.string(),
        "completions": texts,
        "kind": pa.string(),
        "label": pa.float64(),
        "annotator": pa.string(),
        "policies": texts,
        "columns": pa.string(),
        "group": pa.string(),
        "order": numbers,
        "seconds": pa.float64(),
        "seed": pa.int64(),
        "timestamp": pa.float64(),
    }
    return pa.schema(list(types.items()))
