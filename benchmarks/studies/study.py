"""What a study is: points that are run apart, and what is told of them together."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textgym.registry import Registry, unknown_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Point = dict[str, Any]
"""One run of a study, as JSON values; its `seed` is one of them."""
Row = dict[str, Any]
"""Numbers of a point, and the names they are told apart by."""

STUDIES = Registry(
    "study",
    {
        "label-noise": "textgym.benchmarks.studies.label_noise:LabelNoise",
        "depreciation": "textgym.benchmarks.studies.depreciation:Depreciation",
        "whose-preferences": "textgym.benchmarks.studies.whose:WhosePreferences",
        "ai-feedback": "textgym.benchmarks.studies.ai_feedback:AIFeedback",
        "amount-of-data": "textgym.benchmarks.studies.amount:AmountOfData",
        "overoptimization": "textgym.benchmarks.studies.overoptimization:Overoptimization",
        "alignment-tax": "textgym.benchmarks.studies.alignment_tax:AlignmentTax",
        "author-searcher": "textgym.benchmarks.studies.author_searcher:AuthorSearcher",
        "generalisation": "textgym.benchmarks.studies.generalisation:Generalisation",
        "sensitivity": "textgym.benchmarks.studies.sensitivity:Sensitivity",
    },
    "textgym.studies",
)


class Study(ABC):
    """A question that many runs answer together.

    Attributes:
        question: one sentence.
        seeds: how many its published results have.
        by: what rows are told apart by, beside the seed; means are taken over the rest.
        defaults: settings of what is told, by name. What is run does not depend on them.
        spread: what stands behind the ± of the summary, its `<name>_se`.
    """

    question: ClassVar[str]
    seeds: ClassVar[int] = 3
    by: ClassVar[tuple[str, ...]]
    defaults: ClassVar[dict[str, float]] = {}
    spread: ClassVar[str] = "standard error"

    def __init__(self, settings: Mapping[str, float] | None = None) -> None:
        """Takes settings in place of the defaults. Raises: UnknownNameError for another name."""
        for name in settings or {}:
            if name not in self.defaults:
                raise unknown_name("setting", name, self.defaults)
        self.settings = {**self.defaults, **(settings or {})}

    @abstractmethod
    def points(self, seed: int) -> list[Point]:
        """Returns what is run for a seed; the longest first."""

    @abstractmethod
    def run(self, point: Point, cache: Path) -> list[Row]:
        """Runs a point in this process, and returns its rows.

        Args:
            point: one of `points`.
            cache: a folder for what points share, see `textgym.cache.cached`.
        """

    @abstractmethod
    def draw(self, summary: pd.DataFrame, figure: Figure) -> None:
        """Draws what was found."""

    @abstractmethod
    def findings(self, summary: pd.DataFrame) -> list[str]:
        """Returns what the numbers say, in sentences made of them."""

    def summary(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Returns each number's mean over the seeds and, as `<name>_se`, its standard error."""
        numbers = [c for c in rows.columns if c not in (*self.by, "seed")]
        grouped = rows.groupby(list(self.by), sort=False)[numbers]
        means = grouped.mean()
        errors = grouped.sem().fillna(0.0).add_suffix("_se")
        return means.join(errors).reset_index()


def point_name(point: Point) -> str:
    """Names a point's file.

    >>> point_name({"flips": 0.1, "seed": 2})
    'flips-0.1_seed-2'
    """
    return "_".join(f"{name}-{value}" for name, value in point.items())


def shown(summary: pd.DataFrame, by: Sequence[str]) -> str:
    """Returns the summary as a Markdown table; numbers as mean ± what `<name>_se` holds."""
    names = [c for c in summary.columns if c not in by and not c.endswith("_se")]
    lines = [f"| {' | '.join([*by, *names])} |", "| " + " | ".join(["---"] * len(by))]
    lines[1] += " | " + " | ".join(["---:"] * len(names)) + " |"
    for row in summary.to_dict("records"):
        cells = [str(row[name]) for name in by]
        cells += [_number(row[name], row[f"{name}_se"]) for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(mean: float, error: float) -> str:
    if math.isnan(mean):
        return "–"
    return f"{mean:.3f} ± {error:.3f}" if error else f"{mean:.3f}"


def read_rows(folder: Path) -> pd.DataFrame:
    """Returns the rows of all points that a results folder holds."""
    import pandas as pd

    found = []
    for path in sorted((folder / "points").glob("*.json")):
        kept = json.loads(path.read_text("utf-8"))
        found += [{"seed": kept["point"]["seed"], **row} for row in kept["rows"]]
    return pd.DataFrame(found)
