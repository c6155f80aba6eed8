"""Documents whose numbers are put between markers, so that they cannot drift."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from textgym.errors import ConfigError, TextGymError

Maker = Callable[[str], str]


def fill(text: str, makers: Mapping[str, Maker]) -> str:
    """Returns the text with what stands between `<!-- kind:name -->` and its end made anew.

    Args:
        text: a document.
        makers: for each kind what makes a name's Markdown.

    Raises:
        ConfigError: a marker that is not closed.
    """
    kinds = "|".join(map(re.escape, makers))

    def between(found: re.Match[str]) -> str:
        kind, name = found.group(1), found.group(2)
        return f"<!-- {kind}:{name} -->\n{makers[kind](name)}\n<!-- /{kind}:{name} -->"

    pattern = rf"<!-- ({kinds}):(\S+) -->\n.*?<!-- /\1:\2 -->"
    opened = re.findall(rf"<!-- (?:{kinds}):(\S+) -->", text)
    closed = [name for _, name in re.findall(pattern, text, flags=re.DOTALL)]
    if opened != closed:
        raise ConfigError(f"markers that are not closed: {sorted(set(opened) - set(closed))}")
    return re.sub(pattern, between, text, flags=re.DOTALL)


def run(
    about: str, page: str, make: Callable[[str, Path], str], arguments: list[str] | None
) -> int:
    """Rewrites a page from the command line; returns the exit status.

    Args:
        about: the command's help.
        page: the document by default.
        make: from the document's text and the results folder to the new text.
        arguments: of the command line; None for the process's own.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("page", nargs="?", type=Path, default=Path(page))
    parser.add_argument("--results", type=Path, default=Path("results"))
    given = parser.parse_args(arguments)
    try:
        text = given.page.read_text("utf-8")
        given.page.write_text(make(text, given.results), "utf-8")
    except (TextGymError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    return 0
