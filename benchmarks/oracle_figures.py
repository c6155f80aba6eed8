"""Draws the oracle suite's figures: `python -m textgym.benchmarks.oracle_figures RESULTS`.

One picture per question, each with the exact optimum beside the agents: entropy kept against
reward, the two modes, credit over horizons, stepping stones, many good answers. Needs matplotlib,
which comes with the extra `plot`.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from textgym.benchmarks import oracle_looks as style
from textgym.benchmarks import oracle_panels as data
from textgym.benchmarks.cell import require_writable
from textgym.benchmarks.oracle_panels import Panel, Runs
from textgym.errors import TextGymError
from textgym.tasks.oracle.credit import Credit

BETAS = (0.0, *np.geomspace(1e-3, 10, 81))
KEPT = "entropy kept (share of the reference's)"


def mode_seeking(panels: Sequence[Panel], looks: style.Looks) -> Any:
    """Draws entropy kept against reward for every agent, and the exact frontier above them.

    The frontier is the best reward at each KL, drawn by the entropy that it keeps. That is no
    bound on entropy unless the reference is uniform; the dotted line is. The known frontier comes
    first and large.
    """
    panels = sorted(panels, key=lambda panel: panel.task.name != "known-frontier")
    columns = len(panels) // 2
    letters = [chr(ord("B") + i) for i in range(len(panels) - 1)]
    cells = [*letters, *"." * (2 * columns - len(letters))]
    rows = ("AA" + "".join(cells[:columns]), "AA" + "".join(cells[columns:]))
    title = "What does reward cost in entropy, and what would it cost at best?"
    figure = style.canvas(5.2 + 2.7 * columns, 6.4, title)
    placed = figure.subplot_mosaic("\n".join(rows))
    for letter, panel in zip(["A", *letters], panels, strict=True):
        _trade(placed[letter], panel, looks, size=9 if letter == "A" else 6)
    main = placed["A"]
    main.set_ylabel(KEPT)
    main.plot([], [], lw=1, color="0.3", label="training, from the reference on")
    bars = "\u00b1 1 standard deviation over seeds"
    main.errorbar([], [], [], [], ls="", color="0.3", label=bars)
    style.finish(figure, 4)
    return figure


def _trade(axes: Any, panel: Panel, looks: style.Looks, size: float) -> None:
    """Draws one task of `mode_seeking`."""
    names = ["reward", "entropy_kept"]
    best, most = data.frontier(panel)[names], data.most_entropy(panel)[names]
    label = "exact frontier: best reward at each KL, $\\beta$ from $\\infty$ to 0"
    axes.plot(*best.to_numpy().T, **style.ALONG_BETA, label=label)
    for runs in panel.having(*names):
        color, marker = looks[runs.agent.label]
        ways = data.paths(panel, runs, names)
        if ways:
            mean = [data.over_seeds(ways, name, "step")["mean"] for name in names]
            axes.plot(*mean, color=color, lw=1, alpha=0.8, zorder=2)
        seeds = np.array([runs.seed_means(name) for name in names])
        (x, y), bars = seeds.mean(axis=1), np.zeros(2)
        if seeds.shape[1] > 1:
            bars = seeds.std(axis=1, ddof=1)
        axes.errorbar(x, y, bars[1], bars[0], ecolor=color, fmt="none", zorder=4)
        # Half-transparent, so that agents that end at the same place are all seen.
        shape = {"ms": size, "mfc": (color, 0.4), "mec": color, "mew": 1.4, "zorder": 4}
        axes.plot(x, y, marker, label=runs.agent.label, **shape)
    x, y = panel.optimum()[names].mean()
    star = {"ms": 1.7 * size, "mfc": "white", "mec": "black", "ls": "", "zorder": 3}
    axes.plot(x, y, "*", label=style.AT_THE_PRICE["label"], **star)
    limits = axes.get_ylim()
    most = most[most["reward"] >= best["reward"].min()]
    label = "most entropy at each reward, where in view"
    axes.plot(*most.to_numpy().T, ":", color="0.3", label=label)
    axes.set(xlabel="reward", title=panel.label, ylim=limits)


def two_modes(panel: Panel, looks: style.Looks, prices: Panel | None = None) -> Any:
    """Draws P(A) and the entropy kept, against the training step and against beta.

    Args:
        panel: the agents at the suite's price.
        looks: the looks of all agents.
        prices: the same task with agents at several prices, each algorithm joined to a line.
    """
    figure = style.canvas(10.5, 7.2, "Of two answers worth 51 and 49, who keeps both?")
    grid = figure.subplots(2, 2, sharey="row", sharex="col")
    optimum, curve = panel.optimum().mean(numeric_only=True), data.along_beta(panel, BETAS)
    labels = {"p_a": "probability of A (worth 51)", "entropy_kept": KEPT}
    for (left, right), (name, label) in zip(grid, labels.items(), strict=True):
        left.set_ylabel(label)
        _against_steps(left, panel, looks, name)
        left.axhline(optimum[name], **style.AT_THE_PRICE)
        right.plot(curve["beta"], curve[name], **style.ALONG_BETA, label="optimum along $\\beta$")
        _against_beta(right, panel, looks, name)
        if prices is not None:
            _joined(right, prices, looks, name)
        right.axvline(panel.task.beta, color="0.3", ls="--", lw=0.8)
    style.explain_band(grid[0, 0])
    grid[1, 0].set_xlabel("training step")
    hollow = "hollow: at the $\\beta$ whose optimum has the same KL"
    right.plot([], [], "o", mfc="none", mec="0.3", label=hollow)
    right.set_xlabel("$\\beta$, price of KL (reward per nat)")
    # 0 has a place, too.
    right.set_xscale("symlog", linthresh=0.002, linscale=0.3)
    right.set_xticks([0, 0.01, 0.1, 1, 10], ["0", "0.01", "0.1", "1", "10"])
    right.minorticks_off()
    style.finish(figure, 4)
    return figure


def _against_steps(axes: Any, panel: Panel, looks: style.Looks, name: str) -> None:
    """Draws agents that train as lines, and the others beside them."""
    ways = {runs.agent.label: data.paths(panel, runs, [name]) for runs in panel.having(name)}
    last = max((way["step"].max() for found in ways.values() for way in found), default=1)
    for runs in panel.having(name):
        label = runs.agent.label
        if ways[label]:
            table = data.over_seeds(ways[label], name, "step")
            style.draw_line(axes, table, looks[label], label, markevery=[-1])
        else:
            y = runs.seed_means(name).mean()
            axes.plot(1.1 * last, y, ls="", label=label, **looks[label]._asdict())
    words = {"ha": "center", "fontsize": 8, "color": "0.3"}
    axes.text(1.1 * last, 1.02, "no training", transform=axes.get_xaxis_transform(), **words)


def _against_beta(axes: Any, panel: Panel, looks: style.Looks, name: str) -> None:
    """Draws agents at their price, or hollow at the price of the KL that they spend."""
    for runs in panel.having(name, "kl_seq"):
        look, x = looks[runs.agent.label], data.price_or_equivalent(panel, runs)
        if x is not None:
            fill = "none" if data.price(runs.agent) is None else look.color
            y = runs.seed_means(name).mean()
            axes.plot(x, y, mfc=fill, ms=7, ls="", zorder=4, **look._asdict())


def _joined(axes: Any, panel: Panel, looks: style.Looks, name: str) -> None:
    """Draws each algorithm's points over its prices, joined to a line."""
    algorithms: dict[str, list[Runs]] = {}
    for runs in panel.having(name, "kl_seq"):
        algorithms.setdefault(runs.agent.name, []).append(runs)
    for algorithm, several in algorithms.items():
        table = data.by_price(panel, several, name)
        agent = several[0].agent
        label = f"{algorithm} along $\\beta$" if len(table) > 1 else agent.label
        look = style.Look(looks[agent.label].color, "o")
        fill = "white" if data.price(agent) is None else look.color
        if len(table):
            style.draw_line(axes, table, look, label, mfc=fill)


def credit(panel: Panel, looks: style.Looks) -> Any:
    """Draws regret against the horizon for every agent."""
    assert isinstance(panel.task, Credit), "only that task has horizons"
    title = "The first token decides, the reward comes last: what does the way cost?"
    figure = style.canvas(6.6, 5.2, title)
    axes = figure.subplots()
    horizon = dict(zip(panel.task.asked, panel.task.horizons, strict=True))
    for runs in panel.having("regret"):
        tables = [t.assign(horizon=t["prompt"].map(horizon)) for t in runs.prompts]
        table = data.over_seeds(tables, "regret", "horizon")
        style.draw_line(axes, table, looks[runs.agent.label], runs.agent.label)
    style.explain_band(axes)
    axes.set(yscale="log", ylabel="regret to the optimum (nats)", xlabel="horizon (tokens)")
    style.powers_of_two(axes, sorted(horizon.values()))
    style.finish(figure, 3)
    return figure


def stepping_stones(panel: Panel, looks: style.Looks) -> Any:
    """Draws the best of k draws against k, and where the reference overtakes each agent."""
    figure = style.canvas(
        7.4, 5.8, "How many draws until the policy before training is the better one?"
    )
    axes = figure.subplots()
    overtaken = data.overtaking(panel).set_index("agent")["overtaken_at"].dropna()
    before, best = data.best_of_curve(panel, panel.reference), data.best_of_curve(panel)
    axes.plot(before, color="black", lw=4, label="reference: before training")
    axes.plot(best, **style.AT_THE_PRICE)
    ring = {"marker": "o", "mfc": "none", "ls": "", "zorder": 5}
    rings: Counter[int] = Counter()
    for runs in panel.having(f"{data.BEST_OF}1"):
        label, look = runs.agent.label, looks[runs.agent.label]
        if runs.agent.name == "reference" and not runs.agent.options:
            continue
        table = data.over_seeds([data.best_of(t) for t in runs.prompts], "gold", "k")
        style.draw_line(axes, table, look, label)
        if label in overtaken:
            k = overtaken[label]
            # Agents overtaken at one k are close together: a wider ring for each.
            axes.plot(k, table["mean"][k], mec=look.color, ms=12 + 5 * rings[k], **ring)
            rings[k] += 1
    axes.plot([], [], mec="0.3", ms=9, label="overtaken by the reference", **ring)
    style.explain_band(axes)
    axes.set(xlabel="k (draws)", ylabel="expected gold score of the best of k")
    style.powers_of_two(axes, list(before.index))
    style.finish(figure, 3)
    return figure


def many_good_answers(panel: Panel, looks: style.Looks) -> Any:
    """Draws coverage and the probability of a good answer against how many are good."""
    figure = style.canvas(10, 5, "Of K answers that are equally good, how many stay in use?")
    grid = figure.subplots(1, 2)
    labels = {
        "coverage": "coverage (effective number of good answers / K)",
        "good": "probability of a good answer",
    }
    for axes, (name, label) in zip(grid, labels.items(), strict=True):
        for runs in panel.having(name):
            table = data.over_seeds(runs.prompts, name, "good_answers")
            style.draw_line(axes, table, looks[runs.agent.label], runs.agent.label)
        best = data.over_seeds([panel.optimum()], name, "good_answers")["mean"]
        axes.plot(best, **style.AT_THE_PRICE)
        axes.set(xlabel="K, equally good answers of 64", ylabel=label, ylim=(0, 1.04))
        style.powers_of_two(axes, list(best.index))
    style.explain_band(grid[0])
    style.finish(figure, 5)
    return figure


FIGURES: dict[str, Callable[[Panel, style.Looks], Any]] = {
    "two-modes": two_modes,
    "credit": credit,
    "stepping-stones": stepping_stones,
    "many-good-answers": many_good_answers,
}
"""The figures of single tasks; `mode_seeking` shows them all."""


def draw(out: Path, panels: Sequence[Panel], prices: Sequence[Panel] = ()) -> Iterator[str]:
    """Writes every figure that there are results for; yields a line on each.

    Args:
        out: the folder for the pictures, and for `stepping_stones.csv`.
        panels: the oracle suite.
        prices: a suite with two-modes at several prices.
    """
    looks = style.looks([*panels, *prices])
    by_name = {panel.task.name: panel for panel in reversed(panels)}
    at_prices = {panel.task.name: panel for panel in prices}.get("two-modes")
    yield _save(mode_seeking(panels, looks), out / "mode_seeking.png")
    figures: dict[str, Callable[[Panel, style.Looks], Any]] = {
        **FIGURES,
        "two-modes": partial(two_modes, prices=at_prices),
    }
    for name, figure in figures.items():
        file = out / f"{name.replace('-', '_')}.png"
        if name in by_name:
            yield _save(figure(by_name[name], looks), file)
        else:
            yield f"{file.name} skipped: no results of {name}"
    if "stepping-stones" in by_name:
        file = out / "stepping_stones.csv"
        data.overtaking(by_name["stepping-stones"]).to_csv(file, index=False, float_format="%.4f")
        yield str(file)


def _save(figure: Any, path: Path) -> str:
    figure.savefig(path, dpi=150)
    return str(path)


def main(arguments: list[str] | None = None) -> None:
    """Draws and prints what was written; an error the user caused is one line and exit status 2."""
    parser = argparse.ArgumentParser(description="Draw the figures of the oracle suite.")
    parser.add_argument("results", type=Path, help="folder of `textgym bench --suite oracle`")
    parser.add_argument("--betas", type=Path, help="folder of the suite mode-seeking")
    parser.add_argument("--out", type=Path, help="folder for the pictures; the results' own")
    chosen = parser.parse_args(arguments)
    out = chosen.out or chosen.results
    torch.set_num_threads(1)
    try:
        panels = data.read_panels(chosen.results)
        prices = data.read_panels(chosen.betas) if chosen.betas else []
        require_writable(out)
        for line in draw(out, panels, prices):
            sys.stdout.write(f"{line}\n")
    except TextGymError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
