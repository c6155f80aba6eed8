"""Names and texts that others chose, made fit to be shown."""

from __future__ import annotations

import html
import re


def one_line(text: str, most: int = 60) -> str:
    """Returns a text on one line of printable characters, cut at `most`.

    >>> one_line("two" + chr(10) + "lines"), one_line("abcdef", 4)
    ('two lines', 'abc…')
    """
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= most else line[: most - 1] + "…"


def markdown_text(text: str) -> str:
    r"""Returns a text that Markdown shows as it is: no markup, no HTML, no end of a table cell.

    >>> print(markdown_text("<b> a|b *c*"))
    &lt;b&gt; a\|b \*c\*
    """
    # Brackets alone, as intervals have them, are no link.
    return re.sub(r"([\\`*_|~]|\](?=[(\[:]))", r"\\\1", html.escape(text, quote=False))


def markdown_block(text: str) -> str:
    """Returns a text as an indented block, in which Markdown reads no markup."""
    return "\n".join("    " + line for line in text.splitlines()) or "    "
