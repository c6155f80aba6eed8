"""Paths from a results folder: checkpoints written by hand, two seeds of two prompts."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from textgym.benchmarks import trade_offs
from textgym.benchmarks.leaderboard import Entry
from textgym.functional.best_of_n import best_of_n_kl_bound

STEPS = (0, 2, 4)
KL = {0: [0.0, 0.0], 2: [0.2, 0.4], 4: [1.0, 1.2]}
GOLD = {0: [0.2, 0.4], 2: [0.5, 0.5], 4: [0.7, 0.9]}
EAD = {0: [0.8, 0.4], 2: [0.6, 0.3], 4: [0.4, 0.2]}
"""Of each prompt, by step; the reference is step 0."""


def result(seed, agent, logged_steps, kl_estimate=None):
    metrics = {} if kl_estimate is None else {"kl_estimate": {"value": kl_estimate}}
    config = {"agent": agent}
    budget = {"logged_steps": logged_steps}
    return {"seed": seed, "config": config, "metrics": metrics, "budget": budget}


def table(steps, kl=True):
    rows = []
    for step in steps:
        for i in range(2):
            row = {"step": step, "completions": 10 * step, "prompt_index": i}
            row |= {"reward": 2 * GOLD[step][i], "gold": GOLD[step][i]}
            rows.append(row | ({"kl_seq": KL[step][i]} if kl else {}))
            rows[-1]["diversity/ead"] = EAD[step][i]
    return pd.DataFrame(rows)


def write(path, frame):
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(path, index=False)


@pytest.fixture
def out(tmp_path):
    for seed in (0, 1):
        start = table([0]).drop(columns=["step", "completions", "prompt_index"])
        write(tmp_path / f"pools/t/start-seed-{seed}.parquet", start)
        write(tmp_path / f"t/rl/seed-{seed}/checkpoints.parquet", table(STEPS))
        for name, step in (("best_of_2", 2), ("best_of_4", 4)):
            last = table([step], kl=False).assign(step=0, completions=0)
            write(tmp_path / f"t/{name}/seed-{seed}/checkpoints.parquet", last)
    return tmp_path


def entries():
    def entry(label, agent, steps, **more):
        return Entry("t", label, [result(seed, agent, steps, **more) for seed in (0, 1)])

    def best(n):
        return {"name": "best_of_n", "options": {"n": n}}

    return [
        entry("rl", {"name": "rl", "options": {}}, 4),
        entry("best of 2", best(2), 0, kl_estimate=0.2),
        entry("best of 4", best(4), 0, kl_estimate=0.6),
    ]


@pytest.fixture
def paths(out):
    return {path.agent: path for path in trade_offs.read_paths(out, entries())}


def test_a_path_is_the_mean_of_seeds_and_prompts(paths):
    path = paths["rl"]
    assert path.completions.tolist() == [0, 20, 40]
    assert path.values["kl_seq"] == pytest.approx([0, 0.3, 1.1])
    assert path.values["gold"] == pytest.approx([0.3, 0.5, 0.8])
    # A ratio of means: (0.6 + 0.3) / (0.8 + 0.4), not a mean of ratios.
    assert path.values["kept"] == pytest.approx([1, 0.75, 0.5])
    assert path.score == "gold"
    assert not path.kl_is_estimated


def test_resamples_draw_prompts_and_are_the_same_for_all_agents(paths):
    again = paths["rl"].resampled
    assert again["kl_seq"].shape == (trade_offs.RESAMPLES, 3)
    assert {round(x, 6) for x in again["kl_seq"][:, 1]} == {0.2, 0.25, 0.3, 0.35, 0.4}
    # Gold at step 2 is that of the same prompts: 0.7 goes with KL 1.0 and 0.9 with 1.2.
    assert again["gold"][:, 2] == pytest.approx(again["kl_seq"][:, 2] - 0.3)
    assert (paths["best of 4"].resampled["gold"][:, 1] == again["gold"][:, 2]).all()


def test_an_agent_without_training_stands_at_one_point_beside_the_reference(paths):
    path = paths["best of 2"]
    assert path.kl_is_estimated
    assert path.values["kl_seq"] == pytest.approx([0, 0.2])
    assert path.values["gold"] == pytest.approx([0.3, 0.5])
    assert path.values["kept"] == pytest.approx([1, 0.75])


def test_rows_that_differ_in_one_setting_make_a_path(paths):
    path = paths["best_of_n over n"]
    assert path.values["kl_seq"] == pytest.approx([0, 0.2, 0.6])
    assert path.values["kept"] == pytest.approx([1, 0.75, 0.5])
    assert set(paths) == {"rl", "best of 2", "best of 4", "best_of_n over n"}


def test_the_loss_at_a_matched_kl(paths):
    found = trade_offs.matched(list(paths.values()), "kl_seq", [0.1, 0.5]).set_index(
        ["agent", "level"]
    )
    # Between KL 0.3 (loss 0.25) and 1.1 (loss 0.5), straight over the square roots.
    share = (0.5**0.5 - 0.3**0.5) / (1.1**0.5 - 0.3**0.5)
    assert found.loss["rl", 0.5] == pytest.approx(0.25 + 0.25 * share)
    assert found.loss["rl", 0.1] == pytest.approx(0.25 / 3**0.5)
    assert found.low["rl", 0.5] <= found.loss["rl", 0.5] <= found.high["rl", 0.5]
    share = (0.5**0.5 - 0.2**0.5) / (0.6**0.5 - 0.2**0.5)
    assert found.loss["best_of_n over n", 0.5] == pytest.approx(0.25 + 0.25 * share)
    # Best of 2 is one point at 0.2 nats, not a way there.
    assert {agent for agent, _ in found.index} == {"rl", "best_of_n over n"}


def test_a_level_that_is_not_reached_is_a_hole(paths):
    found = trade_offs.matched(list(paths.values()), "kl_seq", [1.0]).set_index("agent")
    assert found.loss["rl"] > 0
    assert math.isnan(found.loss["best_of_n over n"])
    assert found.reached["best_of_n over n"] == 0


def test_a_level_that_resamples_often_miss_is_a_hole(paths):
    # KL ends at 1.0 to 1.2, at 1.1 in the mean: 1.09 is reached, but not by every resample.
    found = trade_offs.matched([paths["rl"]], "kl_seq", [1.09])
    assert 0.5 < found.reached[0] < trade_offs.OFTEN
    assert math.isnan(found.loss[0])


def test_rewards_are_matched_at_shares_of_the_way(paths):
    found = trade_offs.matched(list(paths.values()), "gold", [0.5])
    # From 0.3 to 0.8, the most any path reached.
    assert found.level.unique().tolist() == pytest.approx([0.55])
    by_agent = found.set_index("agent")
    # Gold 0.55 lies a sixth of the way from 0.5 to 0.8. Resampled to the first prompts only it
    # lies between 0.5 and 0.7: always reached.
    assert by_agent.reached["rl"] == 1
    assert by_agent.loss["rl"] == pytest.approx(0.25 + 0.25 / 6)


def test_the_area_starts_at_the_reference(paths):
    found = trade_offs.volumes(list(paths.values())).set_index("agent")
    # Gains 0.2 keeping 0.75, then 0.5 keeping 0.5: 0.2 x 0.75 + 0.3 x 0.5.
    assert found.volume["rl"] == pytest.approx(0.3)
    assert found.volume["best of 2"] == pytest.approx(0.15)
    assert found.low["rl"] < 0.3 < found.high["rl"]


def test_best_of_n_from_a_pool_is_unbiased_and_judged_by_gold(tmp_path):
    # The proxy likes the third sample of four, the judge the first.
    scores = pd.DataFrame({"prompt": 0, "reward": [0, 1, 2, 1], "gold": [1.0, 0.5, 0.0, 0.5]})
    write(tmp_path / "pools/t/seed-0.parquet", scores)
    write(tmp_path / "pools/t/optima-seed-0.parquet", scores)
    (path,) = trade_offs.pool_paths(tmp_path, ["t", "without a pool"])
    assert path.values["kl_seq"] == pytest.approx([0, best_of_n_kl_bound(2), best_of_n_kl_bound(4)])
    # Pairs: 01 1, 02 2, 03 1, 12 2, 13 1, 23 2: their maxima average 1.5.
    assert path.values["reward"] == pytest.approx([1, 1.5, 2])
    # Half of the pairs are won by the third sample, half by a 1.
    assert path.values["gold"] == pytest.approx([0.5, 0.25, 0])


def test_fits_follow_the_law_of_the_method(out):
    scores = pd.DataFrame({"prompt": 0, "reward": np.arange(16.0), "gold": np.arange(16.0)})
    write(out / "pools/t/seed-0.parquet", scores)
    paths = trade_offs.read_paths(out, entries()) + trade_offs.pool_paths(out, ["t"])
    found = trade_offs.fits(paths)
    # Only the pool has three points beyond the reference.
    assert found[["agent", "score", "law"]].to_numpy().tolist() == [
        [trade_offs.FROM_POOL, "reward", "best_of_n"],
        [trade_offs.FROM_POOL, "gold", "best_of_n"],
    ]
    assert (found.a_low <= found.a).all()
    assert (found.a <= found.a_high).all()
    assert (found.b > 0).all()
    assert json.dumps(found.points.tolist()) == "[4, 4]"


def test_no_checkpoints_no_path(tmp_path):
    assert trade_offs.read_paths(tmp_path, entries()) == []
    assert trade_offs.matched([], "kl_seq").empty
    assert trade_offs.volumes([]).empty
    assert trade_offs.fits([]).empty
