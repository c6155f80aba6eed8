"""What `textgym report` does: writes the page and says what it wrote."""

from __future__ import annotations

import importlib.util
import webbrowser
from pathlib import Path

from textgym.benchmarks.report import terminal
from textgym.errors import ConfigError

LIBRARIES = ("altair", "vl_convert", "PIL")
"""What the extra `report` installs."""


def report(
    folder: Path, out: Path | None, prompts: int, samples: int, figures: bool, show: bool
) -> None:
    """Writes the page of a results folder, prints the files and their sizes, and may show it.

    Args:
        folder: where `textgym bench` wrote to.
        out: the page; `report.html` in the folder.
        prompts: prompts shown of each task.
        samples: responses of each agent to a prompt.
        figures: whether charts are written as PNG files too.
        show: whether the page is opened in the system's browser.

    Raises:
        ConfigError: a library of the extra is missing.
        ResultsError: the folder holds no results, or nothing can be written there.
    """
    require_libraries()
    from textgym.benchmarks.page.build import write_page

    console = terminal()
    with console.status("reading the results") as status:
        written = write_page(
            folder, out, prompts=prompts, samples=samples, pngs=figures, progress=status.update
        )
    page, *pngs = written
    console.print(f"{page.path}: {_size(page.size)}", highlight=False, soft_wrap=True)
    if pngs:
        total = _size(sum(png.size for png in pngs))
        line = f"{pngs[0].path.parent}: {len(pngs)} PNG files, {total}"
        console.print(line, highlight=False, soft_wrap=True)
    if show:
        webbrowser.open(page.path.resolve().as_uri())


def require_libraries() -> None:
    """Raises ConfigError without the libraries that draw, before anything is read for nothing."""
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"reports need {' and '.join(missing)}: pip install 'textgym[report]'")


def _size(size: int) -> str:
    """Returns bytes as people read them.

    >>> _size(1_316_644), _size(84_452)
    ('1.3 MB', '84 kB')
    """
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
