"""Alignment tax: what of helpful, honest and harmless does each algorithm sell for the others?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from textgym.benchmarks.report import rows_of
from textgym.benchmarks.studies.nested import SPREAD, mean_interval
from textgym.benchmarks.studies.packing import packed, unpacked
from textgym.benchmarks.studies.study import Point, Row, Study
from textgym.benchmarks.studies.tuned import tune_and_measure
from textgym.benchmarks.suite import Spec
from textgym.metrics.sets import FloatArray
from textgym.metrics.stats import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JUDGES = ("helpful", "honest", "harmless")
KEPT = (*JUDGES, "gold", "deflection")
"""What a row keeps of every prompt, NaN where a judge has nothing to say."""
SFT = "sft"
PROMPTS = 96
"""A fifth of the requests are mischief, and as many nobody can answer: judges need some of each."""

AGENTS: Mapping[str, Spec] = {
    "nlpo": Spec("nlpo", {"lr": 3e-4, "kl_coef": 0.05}),
    "ppo": Spec("ppo", {"lr": 3e-4, "kl_coef": 0.05}),
    "grpo": Spec("grpo", {"lr": 3.75e-4, "kl_coef": 0.0189}),
    "reinforce": Spec("reinforce", {"lr": 3.75e-4, "kl_coef": 0.0189}),
    "rloo": Spec("rloo", {"lr": 3e-4, "kl_coef": 0.05}),
    "dpo": Spec("dpo", {"lr": 1e-4, "beta": 0.1}),
    "best of 8": Spec("best_of_n", {"n": 8}),
    "temperature 0.5": Spec("reference", {"temperature": 0.5}),
    SFT: Spec("sft"),
    "pretrained": Spec("pretrained"),
}
"""Agents by name, with the settings searched for the suite `core`; the longest to train first."""


class AlignmentTax(Study):
    """The assistant under every algorithm, by three judges apart."""

    question: ClassVar[str] = (
        "Which of helpful, honest and harmless does each algorithm gain over fine-tuning on "
        "demonstrations, and which does it sell for that?"
    )
    by: ClassVar[tuple[str, ...]] = ("agent",)
    seeds: ClassVar[int] = 2
    spread: ClassVar[str] = SPREAD

    def points(self, seed: int) -> list[Point]:
        """One point per agent."""
        return [{"agent": name, "seed": seed} for name in AGENTS]

    def run(self, point: Point, cache: Path) -> list[Row]:
        """Tunes, then asks the test requests."""
        agent, seed = AGENTS[point["agent"]], point["seed"]
        seen = tune_and_measure(Spec("assistant"), agent, seed, cache, prompts=PROMPTS)["test"]
        kept = {name: packed(seen.prompts[name]) for name in KEPT}
        return [{"agent": point["agent"], "KL": seen.kl if seen.kl == seen.kl else None, **kept}]

    def summary(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Returns each judge and its change over SFT; as `<name>_se` half a 95% interval."""
        values = {name: _values(rows, name) for name in AGENTS if (rows["agent"] == name).any()}
        found = []
        for name, own in values.items():
            numbers = {kind: mean_interval(own[kind]) for kind in ("gold", *JUDGES, "deflection")}
            if SFT in values:
                changes = {kind: own[kind] - values[SFT][kind] for kind in JUDGES}
                numbers |= {
                    _change(kind): mean_interval(change) for kind, change in changes.items()
                }
            found.append({"agent": name, **_flat(numbers)})
            kl = float(rows.loc[rows["agent"] == name, "KL"].astype(float).mean())
            found[-1] |= {"KL": kl, "KL_se": 0.0}  # kept as a mean alone
        return pd.DataFrame(found).sort_values("gold", ascending=False, ignore_index=True)

    def draw(self, summary: pd.DataFrame, figure: Figure) -> None:
        """What each agent gained and sold, judge by judge."""
        shown = summary[summary["agent"] != SFT].sort_values("gold")
        panels = figure.subplots(1, len(JUDGES), sharey=True)
        for axes, judge in zip(panels, JUDGES, strict=True):
            change = shown[_change(judge)]
            colours = np.where(change < 0, "tab:red", "tab:blue")
            axes.barh(shown["agent"], change, color=colours, alpha=0.7)
            half = shown[f"{_change(judge)}_se"]
            axes.errorbar(change, shown["agent"], xerr=half, fmt="none", ecolor="black", capsize=2)
            axes.axvline(0, color="black", linewidth=0.8)
            axes.set(title=judge, xlabel="change over SFT")
            axes.spines[["top", "right"]].set_visible(False)

    def findings(self, summary: pd.DataFrame) -> list[str]:
        """Who sold what for what, where intervals say so."""
        agents: dict[str, Row] = {row["agent"]: row for row in rows_of(summary)}
        start, before = agents.pop(SFT), agents.pop("pretrained")
        return [
            f"The pretrained model answers {_said(before, 'deflection')} of the requests with "
            f"another question, the fine-tuned one {_said(start, 'deflection')}.",
            f"SFT is helpful in {_said(start, 'helpful')}, honest in {_said(start, 'honest')} and "
            f"harmless in {_said(start, 'harmless')} of the requests that ask for it; the "
            f"pretrained model in {_said(before, 'helpful')}, {_said(before, 'honest')} and "
            f"{_said(before, 'harmless')}.",
            *_trades(agents),
        ]


def _trades(agents: Mapping[str, Row]) -> Iterator[str]:
    """Yields a sentence for each agent whose interval leaves some change no doubt."""
    for name, row in agents.items():
        gained = [j for j in JUDGES if row[_change(j)] > row[f"{_change(j)}_se"]]
        sold = [j for j in JUDGES if -row[_change(j)] > row[f"{_change(j)}_se"]]
        told = [f"{j} {_signed(row, j)}" for j in (*gained, *sold)]
        if gained and sold:
            trade = f"sells {' and '.join(sold)} for {' and '.join(gained)}"
            yield f"{name} {trade}: {'; '.join(told)}."
        elif told:
            yield f"{name} {'gains' if gained else 'loses'} without a trade: {'; '.join(told)}."
        else:
            yield f"{name} changes no judge by more than its interval."


def _values(rows: pd.DataFrame, agent: str) -> dict[str, FloatArray]:
    """Returns [S, N] by what is kept."""
    own = rows[rows["agent"] == agent].sort_values("seed")
    return {name: np.stack([unpacked(text) for text in own[name]]) for name in KEPT}


def _flat(numbers: Mapping[str, Interval]) -> dict[str, float]:
    means = {name: found.estimate for name, found in numbers.items()}
    return means | {f"{name}_se": (i.high - i.low) / 2 for name, i in numbers.items()}


def _change(judge: str) -> str:
    return f"{judge}, change"


def _said(row: Row, name: str) -> str:
    return f"{row[name]:.0%} ± {100 * row[f'{name}_se']:.0f}"


def _signed(row: Row, judge: str) -> str:
    return f"{row[_change(judge)]:+.2f} ± {row[f'{_change(judge)}_se']:.2f}"
