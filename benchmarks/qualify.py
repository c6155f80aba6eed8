"""Qualifies the diversity metrics: `python -m textgym.benchmarks.qualify`.

A metric may rank agents only if it falls when the same policy samples colder, and falls when
responses are replaced by copies. This asks the packaged language model for replies and measures
both, per input, at one common length; it writes a table and, where matplotlib is installed, a
picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console

from textgym.benchmarks.cell import require_writable
from textgym.benchmarks.intervals import DIVERSITY
from textgym.benchmarks.sample_numbers import diversity_columns, token_lists
from textgym.metrics import sets
from textgym.models.policy import Policy, load_policy
from textgym.rollout import rollout
from textgym.seeding import Streams
from textgym.tasks import load_task
from textgym.tasks.base import Task
from textgym.types import Rollout, Sampling

TEMPERATURES = (1.0, 0.8, 0.6, 0.4, 0.2)
COPIES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Share of each prompt's responses, the first apart, that become copies of the first."""
PROMPTS, SAMPLES = 32, 16


def with_copies(samples: Rollout, share: float) -> Rollout:
    """Returns the samples with the last `share` of each prompt's K replaced by its first."""
    k = samples.samples_per_prompt
    kept = k - round(share * (k - 1))
    column = torch.arange(k)
    column = torch.where(column < kept, column, 0)
    rows = torch.arange(0, len(samples), k)[:, None] + column
    return samples.select(rows.flatten())


def by_temperature(policy: Policy, task: Task, seed: int) -> list[Rollout]:
    """Returns samples at each of TEMPERATURES, from the same uniform random numbers."""
    rows = task.prompts("test").select(range(PROMPTS))
    return [
        rollout(
            policy,
            task,
            rows,
            samples_per_prompt=SAMPLES,
            generator=Streams(seed).torch("evaluation"),
            sampling=Sampling(temperature=temperature),
        )
        for temperature in TEMPERATURES
    ]


def curves(samples: Sequence[Rollout], policy: Policy, task: Task) -> pd.DataFrame:
    """Returns each metric's mean per-input diversity (columns) for each set of samples (rows)."""
    lists = [token_lists(s.completions, policy) for s in samples]
    length = max(1, int(np.median([len(ids) for ids in lists[0]])))
    found = []
    for s, ids in zip(samples, lists, strict=True):
        modes = task.modes(s.prompts, s.completions, **s.columns)
        inside, _ = diversity_columns(sets.cut(ids, length), s, policy, modes)
        found.append({n.removeprefix(DIVERSITY): v.mean() for n, v in inside.items()})
    return pd.DataFrame(found)


def qualify(seed: int = 0) -> pd.DataFrame:
    """Returns one row per metric: its value along both axes, and whether it falls along each."""
    policy, task = load_policy(), load_task("toxicity")
    colder = by_temperature(policy, task, seed)
    axes = {
        "temperature": (TEMPERATURES, curves(colder, policy, task)),
        "copies": (COPIES, curves([with_copies(colder[0], c) for c in COPIES], policy, task)),
    }
    table = pd.DataFrame(
        {
            f"{axis} {value}": curve.iloc[i]
            for axis, (values, curve) in axes.items()
            for i, value in enumerate(values)
        }
    )
    for axis, (_, curve) in axes.items():
        table[f"falls with {axis}"] = (curve.diff().iloc[1:] < 0).all()
    return table.rename_axis("metric").reset_index()


def write(table: pd.DataFrame, out: Path) -> None:
    """Writes `qualification.csv` and, with matplotlib, `qualification.png`."""
    table.to_csv(out / "qualification.csv", index=False, float_format="%.4f")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, axis, values in ((left, "temperature", TEMPERATURES), (right, "copies", COPIES)):
        for row in table.to_dict("records"):
            line = np.array([row[f"{axis} {value}"] for value in values])
            axes.plot(values, line / line[0], "o-", label=row["metric"])
        axes.set(xlabel={"copies": "share of copies"}.get(axis, axis))
    left.invert_xaxis()
    left.set(ylabel="diversity, relative to the untouched samples")
    right.legend(fontsize="small")
    figure.savefig(out / "qualification.png", dpi=120)


def main() -> None:
    """Qualifies, writes and prints."""
    parser = argparse.ArgumentParser(description="Qualify the diversity metrics.")
    parser.add_argument("--out", type=Path, default=Path("results/qualification"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    require_writable(arguments.out)
    table = qualify(arguments.seed)
    write(table, arguments.out)
    Console().print(table.round(3).to_string(index=False), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
