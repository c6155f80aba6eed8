"""A folder of things that took long to train, each found again by what it was made from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from textgym.errors import ConfigError

ENTRY = "entry.json"


def cache_root(cache: str | Path | None = None) -> Path:
    """Returns the cache folder: the argument, else $TEXTGYM_CACHE, else ~/.cache/textgym."""
    return Path(cache or os.environ.get("TEXTGYM_CACHE") or "~/.cache/textgym").expanduser()


def cached(
    cache: str | Path | None,
    kind: str,
    key: dict[str, Any],
    build: Callable[[Path], dict[str, Any]],
) -> Path:
    """Returns the folder of one entry, built on first use, written whole or not at all.

    Args:
        cache: the cache folder, see `cache_root`.
        kind: what it is, the beginning of the folder's name.
        key: everything the entry follows from, as JSON; another key is another entry.
        build: writes into the folder it is given and returns a report, which is kept beside.

    Raises:
        ConfigError: the cache folder cannot be written.
        Whatever `build` raises; nothing is left behind then.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    root = cache_root(cache)
    folder = root / f"{kind}-{digest}"
    if (folder / ENTRY).is_file():
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{kind}-", dir=root))
    except OSError as error:
        raise ConfigError(f"the cache folder {root} cannot be written: {error.strerror}") from error
    try:
        report = build(unfinished)
        entry = json.dumps({"key": key, "report": report}, indent=2, sort_keys=True)
        (unfinished / ENTRY).write_text(entry + "\n")
        _publish(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _publish(unfinished: Path, folder: Path) -> None:
    try:
        unfinished.rename(folder)
    except OSError:
        # Another process may have built the same entry meanwhile; theirs is as good.
        if not (folder / ENTRY).is_file():
            raise


def report_of(folder: Path) -> dict[str, Any]:
    """Returns the report that an entry's build gave."""
    report: dict[str, Any] = json.loads((folder / ENTRY).read_text())["report"]
    return report


def fingerprint(texts: Iterable[str]) -> str:
    """Returns a digest of texts and their order."""
    digest = hashlib.sha256()
    for text in texts:
        content = text.encode()
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()


def model_fingerprint(name_or_path: str | Path) -> str:
    """Returns a digest of a local model's files; a Hub id stands for itself."""
    from textgym.models.tokenize import resolve

    folder = Path(resolve(name_or_path))
    if not folder.is_dir():
        return str(name_or_path)
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".json", ".bin"):
            with path.open("rb") as file:
                digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
