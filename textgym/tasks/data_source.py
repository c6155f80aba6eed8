"""Data sets by Hub id or local folder: read, checked, with the three splits every task needs."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from textgym.errors import DataError
from textgym.tasks.base import SPLITS

if TYPE_CHECKING:
    from datasets import Dataset

CARVED = {"validation": 0, "test": 1}
"""Which tenth of the training rows stands in for a split that the data set lacks."""


def load_splits(data: str | Path, data_dir: str | None = None) -> dict[str, Dataset]:
    """Reads a data set's splits by `datasets.load_dataset`, from the Hub or a local folder.

    A data set without a validation or test split keeps a tenth of its training rows apart for
    each, chosen by a checksum of the row's first text column, so that equal texts stay together
    and the choice never changes. A split called "dev" or "valid" counts as validation.

    Args:
        data: a Hub id, or a local folder with the same layout.
        data_dir: the folder inside it to read, as in `load_dataset`.

    Raises:
        DataError: no such data set, no train split, or an empty split.
    """
    import datasets

    where = f"data set {str(data)!r}" + (f" ({data_dir})" if data_dir else "")
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(str(data), data_dir=data_dir)
    except Exception as error:
        # The loader raises its own, builders' and network errors, often over many lines.
        cause = " ".join(str(error).split())[:200]
        raise DataError(f"cannot read {where}: {type(error).__name__}: {cause}") from error
    finally:
        if not bars:
            datasets.enable_progress_bars()
    splits = {{"dev": "validation", "valid": "validation"}.get(k, k): v for k, v in found.items()}
    if "train" not in splits:
        raise DataError(f"{where} has no train split; its splits are {', '.join(splits)}")
    return _three_splits(splits, where)


def _three_splits(splits: dict[str, Dataset], where: str) -> dict[str, Dataset]:
    train = splits["train"]
    missing = [name for name in CARVED if name not in splits]
    key = next((n for n, f in train.features.items() if getattr(f, "dtype", "") == "string"), None)
    if missing and key is not None:
        tenths = [zlib.crc32(str(text).encode()) % 10 for text in train[key]]
        taken = {CARVED[name] for name in missing}
        splits = dict(splits)
        for name in missing:
            rows = [i for i, tenth in enumerate(tenths) if tenth == CARVED[name]]
            splits[name] = train.select(rows)
        splits["train"] = train.select([i for i, t in enumerate(tenths) if t not in taken])
    for name in SPLITS:
        if name not in splits or len(splits[name]) == 0:
            raise DataError(f"{where}: split {name!r} is empty")
    return {name: splits[name] for name in SPLITS}


def require_columns(splits: Mapping[str, Dataset], needed: Sequence[str], data: str | Path) -> None:
    """Raises DataError, naming the columns that are there, unless every split has the `needed`."""
    for split, rows in splits.items():
        for name in needed:
            if name not in rows.column_names:
                raise DataError(
                    f"data set {str(data)!r}, split {split!r}, has no column {name!r}; "
                    f"its columns are {', '.join(rows.column_names)}"
                )
