"""The comparisons as files: what is written, what is a hole, and what few seeds cannot tell."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from textgym.benchmarks import trade_off_tables
from textgym.benchmarks.leaderboard import Entry

NAN = float("nan")
MATCHED = pd.DataFrame(
    [
        ("t", "far", True, "kl_seq", 0.5, 0.2, 0.1, 0.3, 1.0),
        ("t", "far", True, "kl_seq", 2.0, 0.5, 0.4, 0.6, 1.0),
        ("t", "near", True, "kl_seq", 0.5, 0.1, 0.05, 0.15, 1.0),
        ("t", "near", True, "kl_seq", 2.0, NAN, NAN, NAN, 0.0),
        ("t", "nowhere", True, "kl_seq", 0.5, NAN, NAN, NAN, 0.2),
        ("t", "nowhere", True, "kl_seq", 2.0, NAN, NAN, NAN, 0.0),
        ("t", "far", True, "kl_seq", 9.0, NAN, NAN, NAN, 0.0),
    ],
    columns=["task", "agent", "trained", "by", "level", "loss", "low", "high", "reached"],
)
AREA = pd.DataFrame(
    [("t", "near", "gold", 0.1, 0.0, 0.2), ("t", "far", "gold", 0.3, 0.2, 0.4)],
    columns=["task", "agent", "score", "volume", "low", "high"],
)


def test_tables_put_the_least_loss_first_and_leave_holes():
    lines = trade_off_tables.markdown(MATCHED, AREA).splitlines()
    start = lines.index("### t: diversity loss at a matched KL (nats per response)")
    assert lines[start + 2 : start + 8] == [
        "| agent | 0.5 | 2 |",  # nobody reaches 9
        "| --- | ---: | ---: |",
        "| near | 10.0% ± 5.0 | – |",
        "| far | 20.0% ± 10.0 | 50.0% ± 10.0 |",
        # 0.05 to 0.15 and 0.1 to 0.3 overlap.
        "| *trained agents whose intervals lie apart* | 0 of 1 pairs | 0 of 0 pairs |",
        "",
    ]
    area = lines.index("### t: area under (gold, diversity kept)")
    assert lines[area + 4] == "| far | 0.300 ± 0.100 |"
    assert "nothing is extrapolated" in lines[-1]


def test_pairs_of_trained_agents_that_differ_are_counted():
    moved = MATCHED.assign(low=MATCHED["low"] + [0.1, 0, 0, 0, 0, 0, 0])  # far from 0.2 on
    lines = trade_off_tables.markdown(moved, AREA).splitlines()
    assert "| *trained agents whose intervals lie apart* | 1 of 1 pairs | 0 of 0 pairs |" in lines
    swept = moved.assign(trained=moved["agent"] != "near")
    lines = trade_off_tables.markdown(swept, AREA).splitlines()
    assert "| *trained agents whose intervals lie apart* | 0 of 0 pairs | 0 of 0 pairs |" in lines


def entry(task, agent, seeds):
    return Entry(task, agent, prompts=[pd.DataFrame({"gold": values}) for values in seeds])


def test_improvement_by_hand():
    entries = [
        entry("one", "good", [[1.0, 3.0], [2.0]]),  # 2 and 2
        entry("one", "bad", [[1.0], [2.0]]),
        entry("two", "good", [[5.0], [5.0]]),
        entry("two", "bad", [[4.0], [4.0]]),
        entry("two", "partial", [[4.0], [4.0]]),
    ]
    found = trade_off_tables.improvement(entries).set_index(["agent", "other"])
    assert set(found.index) == {("good", "bad"), ("bad", "good")}
    # On one: 2 against 1 and 2, twice: wins 2, ties 2 of 4: 3/4. On two: 1.
    assert found.probability["good", "bad"] == pytest.approx(7 / 8)
    assert found.probability["bad", "good"] == pytest.approx(1 / 8)
    assert found.low["good", "bad"] <= 7 / 8 <= found.high["good", "bad"]


def test_one_seed_cannot_tell():
    assert trade_off_tables.improvement([entry("one", a, [[1.0]]) for a in "xy"]).empty


def test_nothing_is_written_without_checkpoints(tmp_path):
    assert trade_off_tables.write(tmp_path, [entry("one", "x", [[1.0]])]) == {}
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_can_be_read_again(tmp_path):
    for seed in range(2):
        random = np.random.default_rng(seed)
        rows = [
            {
                "step": step,
                "completions": step,
                "prompt_index": i,
                "kl_seq": 0.5 * step,
                "reward": step + random.normal(),
                "diversity/ead": 1 / (1 + step),
            }
            for step in (0, 2, 4, 8)
            for i in range(3)
        ]
        table = pd.DataFrame(rows)
        (tmp_path / f"t/x/seed-{seed}").mkdir(parents=True)
        (tmp_path / "pools/t").mkdir(parents=True, exist_ok=True)
        table.to_parquet(tmp_path / f"t/x/seed-{seed}/checkpoints.parquet")
        start = table[table["step"] == 0].drop(columns=["step", "completions", "prompt_index"])
        start.to_parquet(tmp_path / f"pools/t/start-seed-{seed}.parquet")
    results = [
        {
            "seed": seed,
            "metrics": {},
            "budget": {"logged_steps": 8},
            "config": {"agent": {"name": "x", "options": {}}},
        }
        for seed in range(2)
    ]
    found = trade_off_tables.write(tmp_path, [Entry("t", "x", results)])
    folder = tmp_path / trade_off_tables.FOLDER
    assert sorted(file.name for file in folder.iterdir()) == [
        "area.csv",
        "matched.csv",
        "overoptimization.csv",
        "trade_offs.md",
    ]
    matched = pd.read_csv(folder / "matched.csv")
    assert len(matched) == len(found["matched"])
    # KL 1 is step 2, where a third is kept.
    assert matched.query("by == 'kl_seq' and level == 1.0")["loss"].item() == pytest.approx(2 / 3)
