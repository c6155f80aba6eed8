"""Puts what the studies found into the README: `python -m textgym.benchmarks.studies.readme`."""

from __future__ import annotations

import re
from pathlib import Path

from textgym.benchmarks import filling
from textgym.benchmarks.studies.study import STUDIES, Study


def fill(text: str, results: Path) -> str:
    """Returns the document with the findings between its markers `studies:FIRST,SECOND,...`."""

    def told(names: str) -> str:
        return "\n\n".join(paragraph(name, results) for name in names.split(","))

    return filling.fill(text, {"studies": told})


def paragraph(name: str, results: Path) -> str:
    """Returns a study's question and findings, from the page that its command wrote.

    Raises: UnknownNameError for a study there is not.
    """
    study: type[Study] = STUDIES.load(name)
    page = (results / name / "study.md").read_text("utf-8")
    findings = re.findall(r"^- .*$", page, re.MULTILINE)
    return "\n".join([f"**[{name}](results/{name}/study.md)** {study.question}", "", *findings])


def main(arguments: list[str] | None = None) -> int:
    """Rewrites the README; returns the exit status."""
    about = (__doc__ or "").partition("\n")[0]
    return filling.run(about, "README.md", fill, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
