from __future__ import annotations

import dataclasses
import io

import pandas as pd
import pytest
from rich.console import Console

from textgym.benchmarks.cell import Cell, write_cell, write_error, write_json
from textgym.benchmarks.leaderboard import build, read_entries
from textgym.benchmarks.report import markdown, print_table, write
from textgym.benchmarks.suite import Evaluation, Spec
from textgym.errors import ResultsError


def make_cell(agent, seed=0, **changes):
    cell = Cell(
        task=Spec("summarize"),
        agent=Spec(agent),
        seed=seed,
        model="tiny",
        fingerprint="f",
        reference="sft",
        sft={},
        budget=8,
        evaluation=Evaluation(),
    )
    return dataclasses.replace(cell, **changes)


def store(out, cell, *, gold, metrics=None, **columns):
    result = {
        "config": cell.config,
        "seed": cell.seed,
        "budget": {"used": 8, "scored": 8},
        "evaluation": {"samples_per_prompt": 2},
        "seconds": {"train": 1.0},
        "metrics": {name: {"value": value} for name, value in (metrics or {}).items()},
    }
    prompts = pd.DataFrame({"gold": gold, "reward": gold, **columns})
    write_cell(out / cell.name, result, {"prompts": prompts})


@pytest.fixture
def results(tmp_path):
    """Three agents by two prompts: one clearly best, two that overlap."""
    for seed in (0, 1):
        store(
            tmp_path,
            make_cell("sft", seed),
            gold=[0.1, 0.3],
            kl_seq=[0.0, 0.0],
            **{"diversity/ead": [0.8, 0.4], "reference/ead": [0.8, 0.4]},
        )
        store(
            tmp_path,
            make_cell("ppo", seed),
            gold=[0.9, 0.9],
            kl_seq=[2.0, 4.0],
            metrics={"effective_modes": 1.0 + seed},
            **{"diversity/ead": [0.2, 0.1], "reference/ead": [0.8, 0.4]},
        )
        store(
            tmp_path,
            make_cell("best_of_n", seed),
            gold=[0.2, 0.3],
            metrics={"kl_estimate": 0.5, "kl_bound": 0.6},
        )
    return tmp_path


def test_rows_are_ordered_by_gold_and_share_ranks_while_they_overlap(results):
    table = build(read_entries(results))
    assert table["agent"].tolist() == ["ppo", "best_of_n", "sft"]
    assert table["rank"].tolist() == [1, 2, 2]
    assert table["gold"].tolist() == pytest.approx([0.9, 0.25, 0.2])
    best = table.iloc[0]
    assert best["kl_seq"] == 3
    assert (best["diversity_loss/ead"], best["diversity_loss/ead_high"]) == (0.75, 0.75)
    assert best["effective_modes"] == 1.5
    assert (best["seeds"], best["prompts"], best["failed_seeds"]) == (2, 2, 0)


def test_estimated_and_missing_kl_are_marked(results):
    store(results, make_cell("human"), gold=[0.5, 0.5])
    text = markdown(build(read_entries(results)))
    lines = {row.split(" | ")[1]: row for row in text.splitlines() if row.startswith("| ")}
    assert "3.00 ± 1.00" in lines["ppo"]
    assert "~0.50" in lines["best_of_n"]
    assert "| – |" in lines["human"]
    assert "75.0% ± 0.0" in lines["ppo"]


def test_failed_and_missing_cells_leave_holes(results):
    error = {"step": 12, "cause": "loss is nan", "seed": 0}
    for agent in ("reinforce", "sft"):
        cell = make_cell(agent, seed=2)
        write_error(results / cell.name, {**error, "config": cell.config, "seed": 2})
    cells = [f"summarize/{agent}/seed-0" for agent in ("ppo", "planned")]
    write_json(results / "suite.json", {"cells": cells})
    table = build(read_entries(results)).set_index("agent")
    assert table.loc["reinforce", "failures"] == "seed 2: step 12: loss is nan"
    assert table.loc["planned", "failures"] == "seed-0 was not run"
    assert (table.loc["sft", "seeds"], table.loc["sft", "failed_seeds"]) == (2, 1)
    assert pd.isna(table.loc["reinforce", "rank"])
    text = markdown(table.reset_index())
    assert "| – | reinforce † | failed | failed |" in text
    assert "† sft: seed 2: step 12: loss is nan" in text


def test_one_seed_cannot_rank(tmp_path, results):
    warning = "cannot rank algorithms"
    assert warning not in markdown(build(read_entries(results)))
    out = tmp_path / "single"
    store(out, make_cell("ppo"), gold=[0.5, 0.6])
    text = markdown(build(read_entries(out)))
    assert warning in text
    assert "over 1 seed and 2 prompts" in text


def test_unequal_settings_are_pointed_out(results):
    assert "Not a fair comparison" not in markdown(build(read_entries(results)))
    store(results, make_cell("late", budget=99), gold=[0.5, 0.5])
    assert "rows differ in budget: 8, 99" in markdown(build(read_entries(results)))


def test_without_gold_the_reward_ranks(tmp_path):
    for agent, reward in (("a", 1.0), ("b", 2.0)):
        cell = make_cell(agent)
        store(tmp_path, cell, gold=[reward, reward])
        path = tmp_path / cell.name / "prompts.parquet"
        pd.read_parquet(path).drop(columns="gold").to_parquet(path)
    table = build(read_entries(tmp_path))
    assert table["agent"].tolist() == ["b", "a"]
    assert table["rank"].tolist() == [1, 2]


def test_csv_holds_every_column_and_the_terminal_every_row(results):
    table = build(read_entries(results))
    write(table, results)
    read = pd.read_csv(results / "leaderboard.csv")
    assert read.columns.tolist() == table.columns.tolist()
    assert {"gold_low", "gold_high", "diversity_loss/ead_low", "kl_bound"} <= set(read)
    assert (results / "leaderboard.md").read_text("utf-8") == markdown(table)
    console = Console(file=io.StringIO(), width=140)
    print_table(table, console)
    shown = console.file.getvalue()
    assert all(agent in shown for agent in ("ppo", "sft", "best_of_n", "0.900 ± 0.000"))


def test_folders_without_results(tmp_path):
    with pytest.raises(ResultsError, match="no results folder"):
        read_entries(tmp_path / "none")
    with pytest.raises(ResultsError, match="holds no results"):
        read_entries(tmp_path)
    (tmp_path / "t" / "a" / "seed-0").mkdir(parents=True)
    (tmp_path / "t" / "a" / "seed-0" / "result.json").write_text("{")
    with pytest.raises(ResultsError, match="cannot read"):
        read_entries(tmp_path)
