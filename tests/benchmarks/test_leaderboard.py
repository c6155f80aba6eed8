from __future__ import annotations

import dataclasses
import io

import pandas as pd
import pytest
from made_results import make_cell
from rich.console import Console

from textgym.benchmarks.cell import write_cell, write_error, write_json
from textgym.benchmarks.leaderboard import build, read_entries
from textgym.benchmarks.report import markdown, print_table, write
from textgym.benchmarks.suite import Spec
from textgym.errors import ResultsError


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


def test_a_seed_that_was_not_run_marks_its_row_whatever_the_label(results):
    spec = Spec("sft", label="sft, cold: 1/2")
    cells = [dataclasses.replace(make_cell("sft", seed), agent=spec) for seed in (0, 1)]
    store(results, cells[0], gold=[0.4, 0.4])
    write_json(results / "suite.json", {"cells": [cell.name for cell in cells]})
    rows = build(read_entries(results)).set_index("agent")
    assert len(rows) == 4
    row = rows.loc["sft, cold: 1/2"]
    assert (row["seeds"], row["failed_seeds"]) == (1, 1)
    assert row["failures"] == "seed-1 was not run"
    assert "sft, cold: 1/2 † |" in markdown(rows.reset_index())


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
    # Numbers are whole, on one line.
    assert all(text in shown for text in ("ppo", "sft", "best_of_n", "0.900 ± 0.000"))


REGRETS = {
    # Task -> agent -> seed -> prompt.
    "one": {"good": [[0.0, 2.0], [3.0, 3.0]], "bad": [[5.0, 7.0], [6.0, 6.0]]},
    "two": {"good": [[2.0], [10.0]], "bad": [[6.0], [6.0]]},
}


def store_regrets(out, regrets):
    for task, agents in regrets.items():
        for agent, seeds in agents.items():
            for seed, regret in enumerate(seeds):
                store(
                    out,
                    make_cell(agent, seed, task=Spec(task), model="the task's own"),
                    gold=[9.0 - r for r in regret],
                    regret=regret,
                    entropy_kept=[0.5] * len(regret),
                )


def test_regret_ranks_and_less_is_better(tmp_path):
    store_regrets(tmp_path, {"one": REGRETS["one"]})
    # The reward would have put the other first.
    store(tmp_path, make_cell("rich", task=Spec("one")), gold=[99.0] * 2, regret=[8.0, 8.0])
    table = build(read_entries(tmp_path))
    assert table["agent"].tolist() == ["good", "bad", "rich"]
    assert table["rank"].tolist() == [1, 2, 3]
    assert table["regret"].tolist() == [2, 6, 8]
    text = markdown(table)
    assert "| rank | agent | regret (nats) | reward | gold | entropy kept |" in text
    assert "Rank: 1 + the number of rows whose interval of regret lies wholly below." in text
    assert "| 50.0% ± 0.0 |" in text
    # One task has nothing to sum up.
    assert table["task"].unique().tolist() == ["one"]


def test_all_tasks_are_summed_up_by_hand(tmp_path):
    store_regrets(tmp_path, REGRETS)
    store(tmp_path, make_cell("no regret"), gold=[0.5, 0.5])
    table = build(read_entries(tmp_path))
    assert set(table["task"]) == {"one", "two", "summarize", "all tasks"}
    summed = table[table["task"] == "all tasks"]
    assert summed["agent"].tolist() == ["good", "bad"]
    # Seeds by tasks: 1, 2 and 3, 10. The middle half is 2, 3, the plain mean 4.
    good, bad = summed.to_dict("records")
    assert (good["regret"], good["regret_mean"]) == (2.5, 4)
    # Resampled within each task: 1 or 3 twice, 2 or 10 twice; the middle of four.
    assert (good["regret_low"], good["regret_high"]) == (1.5, 6.5)
    assert (bad["regret"], bad["regret_low"], bad["regret_high"]) == (6, 6, 6)
    assert (good["tasks"], good["seeds"], good["failed_seeds"]) == (2, 2, 0)
    # Their intervals overlap.
    assert (good["rank"], bad["rank"]) == (1, 1)
    lines = markdown(summed).splitlines()
    assert lines[0] == "### all tasks"
    assert lines[2] == "| rank | agent | regret (nats) | mean regret |"
    assert lines[4] == "| 1 | good | 2.500 ± 2.500 | 4.000 |"
    assert (
        "Regret is the interquartile mean over 2 seeds of 2 tasks, ± half a 95% bootstrap "
        "interval over seeds within each task.  " in lines
    )


def test_tasks_without_regret_are_summed_up_by_gold(tmp_path):
    for task, agent, gold in (("one", "a", 0.2), ("two", "a", 0.6), ("one", "b", 0.1)):
        store(tmp_path, make_cell(agent, task=Spec(task)), gold=[gold, gold])
    assert "all tasks" not in set(build(read_entries(tmp_path))["task"]), "one seed"
    for task, agent, gold in (("one", "a", 0.4), ("two", "a", 0.8), ("one", "b", 0.1)):
        store(tmp_path, make_cell(agent, task=Spec(task), seed=1), gold=[gold, gold])
    summed = build(read_entries(tmp_path)).query("task == 'all tasks'").set_index("agent")
    # Of 0.2, 0.4, 0.6 and 0.8 the middle half.
    assert summed.loc["a", "gold"] == pytest.approx(0.5)
    assert summed.loc["a", "gold_mean"] == pytest.approx(0.5)
    assert summed.loc["b", "failures"] == "seeds are missing on two"
    text = markdown(summed.reset_index())
    assert "Gold is the interquartile mean over 2 seeds of 2 tasks" in text
    assert "| rank | agent | gold | mean gold |" in text


def test_an_agent_that_lacks_a_task_or_a_seed_has_a_hole_in_the_sum(tmp_path):
    store_regrets(tmp_path, REGRETS)
    partial = {"one": {"partial": [[1.0, 1.0]] * 2, "short": [[1.0, 1.0]] * 2}}
    store_regrets(tmp_path, {**partial, "two": {"short": [[1.0]]}})
    summed = build(read_entries(tmp_path)).query("task == 'all tasks'").set_index("agent")
    assert pd.isna(summed.loc[["partial", "short"], "regret"]).all()
    assert pd.isna(summed.loc[["partial", "short"], "rank"]).all()
    assert summed.loc["good", "rank"] == 1
    text = markdown(summed.reset_index())
    assert "| – | partial † | failed | failed |" in text
    assert "† partial: seeds are missing on two" in text
    assert "† short: seeds are missing on two" in text


def test_an_estimate_is_explained_where_one_is_shown(results):
    note = "~ is the agent's own estimate"
    assert note in markdown(build(read_entries(results)))
    exact = results / "exact"
    cell = make_cell("best_of_n", task=Spec("one"))
    store(exact, cell, gold=[0.5], regret=[1.0], kl_seq=[0.4], metrics={"kl_estimate": 0.5})
    text = markdown(build(read_entries(exact)))
    assert "0.40" in text
    assert "~" not in text


def test_the_frontier_is_shown_where_it_is_known(results):
    columns = {
        "reward": [0.5, 0.9],
        "frontier/reward": [0.8, 1.0],
        "frontier/reference_reward": [0.4, 0.6],
        "diversity/ead": [0.4, 0.4],
        "reference/ead": [0.7, 0.9],
        "frontier/ead": [0.5, 0.7],
    }
    for seed in (0, 1):
        cell = make_cell("frontier", seed)
        store(results, cell, gold=[0.9, 0.9])
        path = results / cell.name / "prompts.parquet"
        pd.read_parquet(path).assign(**columns).to_parquet(path)
    text = markdown(build(read_entries(results)))
    title = next(line for line in text.splitlines() if line.startswith("| rank"))
    assert "| diversity loss | frontier efficiency | loss beyond optimum's |" in title
    lines = {row.split(" | ")[1]: row for row in text.splitlines() if row.startswith("| ")}
    # 0.2 of 0.4, and 0.2 of 0.8 beyond what the optimum gives up.
    assert "| 50.0% ± " in lines["frontier"]
    assert "| 25.0% ± " in lines["frontier"]
    assert lines["ppo"].endswith("| – | – |")


def test_folders_without_results(tmp_path):
    with pytest.raises(ResultsError, match="no results folder"):
        read_entries(tmp_path / "none")
    with pytest.raises(ResultsError, match="holds no results"):
        read_entries(tmp_path)
    (tmp_path / "t" / "a" / "seed-0").mkdir(parents=True)
    (tmp_path / "t" / "a" / "seed-0" / "result.json").write_text("{")
    with pytest.raises(ResultsError, match="cannot read"):
        read_entries(tmp_path)
