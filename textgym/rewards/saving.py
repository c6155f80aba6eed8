"""Folders that are written whole or cannot be loaded."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from textgym.errors import ModelError

CONSTANTS = "reward.json"
"""The file that makes a folder a saved reward: taken away first and put back last."""


@contextmanager
def written_whole(out: str | Path) -> Iterator[Path]:
    """Gives an empty folder to write into, whose contents then appear in `out`.

    A folder that is new or empty appears at once. In one that holds files, those of the same name
    are replaced and others stay; until the last is in place it has no `reward.json`, without which
    nothing loads it. When the body fails, `out` is as it was.

    Raises:
        ModelError: something cannot be written.
    """
    out = Path(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
            # A temporary folder is its owner's alone; the one made in it is as any other.
            whole = Path(beside, "whole")
            whole.mkdir()
            yield whole
            _publish(whole, out)
    except (OSError, SafetensorError) as error:
        cause = getattr(error, "strerror", None) or error
        raise ModelError(f"a reward cannot be written to {out}: {cause}") from error


def read_constants(
    path: str | Path, fields: Iterable[str] = (), files: Iterable[str] = (CONSTANTS,)
) -> dict[str, Any]:
    """Returns what a saved reward keeps beside its weights.

    Args:
        path: the folder.
        fields: settings that must be there.
        files: files that must be there.

    Raises:
        ModelError: a file or a setting is missing, or `reward.json` is no JSON object.
    """
    for name in files:
        if not Path(path, name).is_file():
            raise ModelError(f"no reward model in {path}: it has no {name}")
    try:
        constants = json.loads(Path(path, CONSTANTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: {CONSTANTS} cannot be read: {error}") from error
    if not isinstance(constants, dict):
        raise ModelError(f"{path}: {CONSTANTS} holds no settings")
    if missing := [name for name in fields if name not in constants]:
        raise ModelError(f"{path}: {CONSTANTS} has no {', '.join(missing)}")
    return constants


def _publish(whole: Path, out: Path) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        whole.rename(out)
        return
    (out / CONSTANTS).unlink(missing_ok=True)
    for path in sorted(whole.iterdir(), key=lambda path: path.name == CONSTANTS):
        if (out / path.name).is_dir():
            shutil.rmtree(out / path.name)
        path.replace(out / path.name)
