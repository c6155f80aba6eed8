"""What the figures of the oracle tasks show: the agents' numbers beside the exact optimum's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax

from textgym.agents.base import enumerated
from textgym.benchmarks.exact import EXACT, exact_columns, oracle
from textgym.benchmarks.leaderboard import Entry, read_entries
from textgym.benchmarks.suite import Evaluation, Spec, folder_name
from textgym.benchmarks.workbench import evaluation_rows, make_agent
from textgym.errors import ResultsError
from textgym.metrics import exact
from textgym.models.policy import load_policy
from textgym.tasks import load_task
from textgym.tasks.oracle.base import OracleTask, Table

BEST_OF = "best_of/"
"""Prefix of the columns that hold the expected gold score of the best of k draws."""


@dataclass(frozen=True)
class Runs:
    """The finished seeds of one agent on one task.

    Attributes:
        agent: which agent, with its options.
        prompts: a table per seed, a row per evaluation prompt, and the `prompt` itself.
        curves: a table per seed, a row per training step; without rows for who does not train.
    """

    agent: Spec
    prompts: list[pd.DataFrame]
    curves: list[pd.DataFrame]

    def seed_means(self, column: str) -> NDArray[np.float64]:
        """Returns the column's mean over prompts, one number per seed."""
        return np.array([table[column].mean() for table in self.prompts])


@dataclass(frozen=True)
class Panel:
    """One task: its agents, and what is exactly known of it.

    Attributes:
        label: what tables call the task.
        task: the task.
        asked: n prompts: those of every seed, one seed after the other.
        reference: [n, L], what the reference answers to them.
        runs: the agents, in the suite's order.
    """

    label: str
    task: OracleTask
    asked: list[str]
    reference: Table
    runs: list[Runs]

    @property
    def rewards(self) -> Table:
        """The rewards [n, L]."""
        return self.task.tables.rewards[self.task.rows_of(self.asked)]

    def having(self, *columns: str) -> list[Runs]:
        """Returns the agents whose tables have all these columns."""
        return [run for run in self.runs if all(set(columns) <= set(t) for t in run.prompts)]

    def measured(self, probabilities: Table) -> pd.DataFrame:
        """Returns the exact numbers of a policy [n, L], a row per prompt, with the `prompt`."""
        columns = exact_columns(probabilities, self.reference, self.task, self.asked)
        return pd.DataFrame({"prompt": self.asked, **columns})

    def optimum(self, beta: float | None = None) -> pd.DataFrame:
        """Returns the exact numbers of the optimum at a price, by default the task's."""
        paid = self.task.beta if beta is None else beta
        return self.measured(exact.tilted(self.reference, self.rewards, paid))


def read_panels(out: Path) -> list[Panel]:
    """Returns the oracle tasks of a results folder, in the suite's order.

    Raises: ResultsError when there are none, or the reference was not the task's own model.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in read_entries(out):
        if entry.results:
            groups.setdefault(entry.task, []).append(entry)
    panels = [_panel(out, entries) for entries in groups.values()]
    found = [panel for panel in panels if panel is not None]
    if not found:
        raise ResultsError(f"{str(out)!r} holds no results of oracle tasks")
    return found


def _panel(out: Path, entries: list[Entry]) -> Panel | None:
    """Returns the panel of one task, None if it is no oracle task."""
    config = entries[0].results[0]["config"]
    task = oracle(load_task(config["task"]["name"], **config["task"]["options"]))
    if task is None:
        return None
    if config["reference"] != "pretrained":
        raise ResultsError(
            f"task {entries[0].task!r}: expected the reference 'pretrained', "
            f"got {config['reference']!r}"
        )
    evaluation = Evaluation(**config["evaluation"])
    seeds = sorted({r["config"]["seed"] for entry in entries for r in entry.results})
    asked = {seed: list(evaluation_rows(task, evaluation, seed)["prompt"]) for seed in seeds}
    everything = [prompt for prompts in asked.values() for prompt in prompts]
    unique = list(dict.fromkeys(everything))
    table = enumerated(load_policy(str(task.language_model())), task, unique)
    rows = [unique.index(prompt) for prompt in everything]
    runs = [_runs(out, entry, asked) for entry in entries]
    return Panel(entries[0].task, task, everything, table[rows], runs)


def _runs(out: Path, entry: Entry, asked: Mapping[int, list[str]]) -> Runs:
    seeds = [result["config"]["seed"] for result in entry.results]
    folder = out / folder_name(entry.task) / folder_name(entry.agent)
    return Runs(
        Spec(**entry.results[0]["config"]["agent"]),
        [t.assign(prompt=asked[s]) for s, t in zip(seeds, entry.prompts, strict=True)],
        [pd.read_parquet(folder / f"seed-{seed}" / "curve.parquet") for seed in seeds],
    )


def over_seeds(tables: Sequence[pd.DataFrame], column: str, by: str) -> pd.DataFrame:
    """Returns `mean`, `low` and `high` of a column over seeds, for every value of `by`.

    Rows of one seed with the same `by` are averaged first; values that a seed lacks are left out.

    >>> a, b = (pd.DataFrame({"k": [1, 2], "x": x}) for x in ([0.0, 4.0], [2.0, 4.0]))
    >>> over_seeds([a, b], "x", "k").to_dict("list")
    {'mean': [1.0, 4.0], 'low': [0.0, 4.0], 'high': [2.0, 4.0]}
    """
    seeds = pd.concat([table.groupby(by)[column].mean() for table in tables], axis=1).dropna()
    return pd.DataFrame(
        {"mean": seeds.mean(axis=1), "low": seeds.min(axis=1), "high": seeds.max(axis=1)}
    )


def path(curve: pd.DataFrame, start: Mapping[str, float], end: Mapping[str, float]) -> pd.DataFrame:
    """Returns the way of one seed's training, from the reference to the policy evaluated.

    Args:
        curve: a row per training step, some with exact numbers.
        start: the reference's numbers by name.
        end: the trained policy's, with the same names.

    Returns:
        `step`, the training steps gone, and those names; no rows for an agent that did not train.
    """
    exactly = {EXACT + name: name for name in start}
    if not set(exactly) <= set(curve):
        return pd.DataFrame(columns=["step", *start])
    between = curve[["step", *exactly]].dropna().rename(columns=exactly)
    last = int(curve["step"].max()) + 1
    between = between.assign(step=between["step"] + 1).query("step < @last")
    ends = [pd.DataFrame([{"step": step, **row}]) for step, row in ((0, start), (last, end))]
    return pd.concat([ends[0], between, ends[1]], ignore_index=True)


def paths(panel: Panel, runs: Runs, columns: Sequence[str]) -> list[pd.DataFrame]:
    """Returns the `path` of every seed that trained; the numbers are means over prompts."""

    def means(table: pd.DataFrame) -> dict[str, float]:
        return {name: float(table[name].mean()) for name in columns}

    start = means(panel.measured(panel.reference))
    found = [
        path(curve, start, means(table))
        for curve, table in zip(runs.curves, runs.prompts, strict=True)
    ]
    return [way for way in found if len(way)]


def frontier(panel: Panel) -> pd.DataFrame:
    """Returns `reward` and `entropy_kept` of the best policies, from beta = inf to 0.

    Each has the best reward at its KL. Its entropy is no bound: see `most_entropy`.
    """
    points = exact.frontier_by_prompt(panel.reference, panel.rewards)
    kept = points.entropy / exact.entropy(panel.reference)
    return pd.DataFrame({"reward": points.reward.mean(axis=1), "entropy_kept": kept.mean(axis=1)})


def most_entropy(panel: Panel) -> pd.DataFrame:
    """Returns `reward` and the most mean `entropy_kept` that any policy has at that reward.

    Of one prompt the share `H(p) / H(pi_ref)` at a given reward is largest for
    `p = softmax(c H(pi_ref) r)`, one c for all prompts: the Lagrangian falls apart into prompts. A
    uniform reference is its own most entropic policy and then this is the frontier; any other
    leaves room above. c runs from 0, the uniform policy, to all mass on the best responses.
    """
    spread = exact.entropy(panel.reference)[:, None]
    points = []
    for c in [0.0, *np.geomspace(0.01, 1e4, 200)]:
        p = softmax(c * spread * panel.rewards, axis=1)
        kept = exact.entropy(p) / spread[:, 0]
        points.append((exact.expectation(p, panel.rewards).mean(), kept.mean()))
    return pd.DataFrame(points, columns=["reward", "entropy_kept"])


def along_beta(panel: Panel, betas: Iterable[float]) -> pd.DataFrame:
    """Returns `beta` and the mean over prompts of each exact number of the optimum there."""
    means = {beta: panel.optimum(beta).mean(numeric_only=True) for beta in betas}
    return pd.DataFrame(means).T.rename_axis("beta").reset_index()


def price(agent: Spec) -> float | None:
    """Returns what the agent pays for a nat of KL, None for one without a price.

    >>> price(Spec("dpo", {"beta": 0.5})), price(Spec("best_of_n", {"n": 4}))
    (0.5, None)
    """
    config = make_agent(agent).config
    found = getattr(config, "kl_coef", getattr(config, "beta", None))
    return None if found is None else float(found)


def price_or_equivalent(panel: Panel, runs: Runs) -> float | None:
    """Returns an agent's `price`; without one, the beta whose optimum spends as much KL.

    None for an agent that has no price and spends no KL.
    """
    paid = price(runs.agent)
    if paid is not None:
        return paid
    spent = float(runs.seed_means("kl_seq").mean())
    found = exact.beta_at_kl(panel.reference, panel.rewards, spent)
    return found if np.isfinite(found) else None


def by_price(panel: Panel, several: Sequence[Runs], column: str) -> pd.DataFrame:
    """Returns `mean`, `low` and `high` of a column over seeds, by the agents' prices, ascending."""
    rows = []
    for runs in several:
        beta, seeds = price_or_equivalent(panel, runs), runs.seed_means(column)
        if beta is not None:
            rows.append((beta, seeds.mean(), seeds.min(), seeds.max()))
    table = pd.DataFrame(rows, columns=["beta", "mean", "low", "high"])
    return table.set_index("beta").sort_index()


def best_of(table: pd.DataFrame) -> pd.DataFrame:
    """Returns `k` and `gold`, the expected best of k draws, mean over the table's prompts.

    >>> best_of(pd.DataFrame({"best_of/2": [0.5, 1.0], "best_of/1": [0.0, 1.0]})).values.tolist()
    [[1.0, 0.5], [2.0, 0.75]]
    """
    columns = [name for name in table if str(name).startswith(BEST_OF)]
    ks = [int(str(name).removeprefix(BEST_OF)) for name in columns]
    found = pd.DataFrame({"k": ks, "gold": table[columns].mean().to_numpy()})
    return found.sort_values("k", ignore_index=True)


def best_of_curve(panel: Panel, probabilities: Table | None = None) -> pd.Series[float]:
    """Returns the expected best of k by k, of a policy [n, L] or else of the task's optimum."""
    policy = panel.optimum() if probabilities is None else panel.measured(probabilities)
    return best_of(policy).set_index("k")["gold"]


def overtaken(agent: pd.Series[float], reference: pd.Series[float]) -> int | None:
    """Returns the smallest k at which the reference's best of k is above the agent's, or None."""
    behind = (reference - agent).sort_index()
    behind = behind[behind > 1e-9]  # the reference does not overtake itself by rounding
    return int(behind.index[0]) if len(behind) else None


def overtaking(panel: Panel) -> pd.DataFrame:
    """Returns a row per agent, the optimum last: when the reference overtakes it in best of k.

    Columns: `agent`, `overtaken_at` (k, empty for never), the best of the least and the most draws.
    """
    before = best_of_curve(panel, panel.reference)
    curves = {
        runs.agent.label: over_seeds([best_of(t) for t in runs.prompts], "gold", "k")["mean"]
        for runs in panel.having(f"{BEST_OF}1")
    }
    curves["optimum"] = best_of_curve(panel)
    ends = (before.index.min(), before.index.max())
    rows = [
        {
            "agent": label,
            "overtaken_at": overtaken(curve, before),
            **{f"best_of_{k}": curve[k] for k in ends},
        }
        for label, curve in curves.items()
    ]
    return pd.DataFrame(rows).astype({"overtaken_at": "Int64"})
