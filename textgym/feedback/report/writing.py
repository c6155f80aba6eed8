"""Writes a report: numbers, pages and pictures in a folder, whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from textgym.errors import ResultsError
from textgym.feedback.report.pages import html_page, markdown
from textgym.feedback.report.plots import drawing, figures, save_png, svg
from textgym.feedback.report.report import RewardReport
from textgym.feedback.report.verdict import verdicts

NUMBERS = "report.json"
MARKDOWN, HTML = "report.md", "report.html"


def write_report(report: RewardReport, folder: str | Path) -> Path:
    """Writes report.json, report.md, report.html and the pictures as PNG; returns the folder.

    A report that is there already is replaced. report.html needs no other file.

    Raises:
        ConfigError: matplotlib is missing.
        ResultsError: the folder holds other things, or cannot be written; nothing has changed.
    """
    folder = Path(folder)
    with drawing(), _whole_folder(folder) as unfinished:
        drawn = figures(report)
        for name, figure in drawn.items():
            save_png(figure, unfinished / f"{name}.png")
        pictures = {name: svg(figure, name) for name, figure in drawn.items()}
        verdict = [dataclasses.asdict(v) for v in verdicts(report)]
        numbers = json.dumps({"verdict": verdict, **report.to_json()}, indent=1, allow_nan=False)
        (unfinished / NUMBERS).write_text(numbers + "\n", "utf-8")
        pages = {MARKDOWN: markdown(report, list(drawn)), HTML: html_page(report, pictures)}
        for name, page in pages.items():
            # Half a surrogate pair, as a cut text may end in, has no place in UTF-8.
            (unfinished / name).write_text(page, "utf-8", "replace")
    return folder


def require_folder(folder: Path) -> None:
    """Raises ResultsError unless a report may take this place: free, empty or an older report."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ResultsError(f"{folder} is no folder; a report needs one of its own")
    names = sorted(path.name for path in folder.iterdir())
    known = (NUMBERS, MARKDOWN, HTML)
    other = [name for name in names if name not in known and not name.endswith(".png")]
    if other or (names and NUMBERS not in names):
        raise ResultsError(
            f"{folder} holds other things ({[*other, *names][0]}); give the report its own folder"
        )


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Gives a temporary folder that takes the place of `folder` only if nothing fails."""
    require_folder(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            unfinished, replaced = temporary / "new", temporary / "old"
            unfinished.mkdir()
            yield unfinished
            if folder.exists():
                folder.rename(replaced)
            try:
                unfinished.rename(folder)
            except OSError:
                if replaced.exists():
                    replaced.rename(folder)
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        if isinstance(error, ResultsError):
            raise
        reason = error.strerror or error
        raise ResultsError(f"the report {folder} cannot be written: {reason}") from error
