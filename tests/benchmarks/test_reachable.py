"""The reachable frontier from a pool of samples: four samples by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from textgym.benchmarks.intervals import intervals
from textgym.benchmarks.reachable import ReferencePool
from textgym.errors import ResultsError

FIRSTS = {"first": lambda texts: float(len({text[0] for text in texts}))}
"""Diversity is how many first tokens there are."""


def pool():
    """Two prompts of four samples: one or three are worth 1, each begins in its own way."""
    rewards = np.array([[0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0]])
    return ReferencePool(rewards, [[i, 9, 9] for i in range(8)])


def test_the_best_at_the_end_of_the_pool():
    # All weight on the 1s costs log 4 and log 4/3, log(4) - log(3) / 2 = 0.837 on average.
    columns = pool().columns(1.0, 1, FIRSTS, 3)
    assert columns["frontier/reward"] == pytest.approx([1, 1], abs=1e-6)
    assert columns["frontier/reference_reward"].tolist() == [0.25, 0.75]


def test_the_best_on_the_way_by_hand():
    # One prompt, half the samples worth 1, tilted by 3: (1/4, 3/4) over the two halves.
    one = ReferencePool(np.array([[0.0, 1.0, 0.0, 1.0]]), [[i] for i in range(4)])
    spent = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    columns = one.columns(spent, 1, FIRSTS, 1)
    assert columns["frontier/reward"] == pytest.approx([0.75], abs=1e-6)
    assert set(columns) == {"frontier/reward", "frontier/reference_reward"}, "k = 1"


def test_nothing_where_nothing_can_be_told():
    assert pool().columns(0.0, 2, FIRSTS, 3) == {}
    assert pool().columns(0.0099, 2, FIRSTS, 3) == {}
    assert pool().columns(math.log(4) + 1e-6, 2, FIRSTS, 3) == {}
    assert pool().columns(math.nan, 2, FIRSTS, 3) == {}
    assert "frontier/reward" in pool().columns(0.01, 2, FIRSTS, 3)
    assert "frontier/reward" in pool().columns(math.log(4), 2, FIRSTS, 3)


def test_diversity_needs_k_samples_in_play():
    # log(4 / 2) nats for two draws.
    assert "frontier/first" in pool().columns(math.log(2), 2, FIRSTS, 3)
    assert "frontier/first" not in pool().columns(math.log(2) + 1e-6, 2, FIRSTS, 3)
    assert "frontier/first" not in pool().columns(0.1, 5, FIRSTS, 3)
    assert "frontier/first" not in pool().columns(0.1, 1, FIRSTS, 3)


def test_diversity_is_of_cut_texts_drawn_without_replacement():
    seen = []

    def remember(texts):
        seen.extend(map(tuple, texts))
        return float(len({text[0] for text in texts}))

    found = pool().columns(0.1, 2, {"first": remember}, 1)["frontier/first"]
    # No sample is drawn twice, and no two begin alike.
    assert found.tolist() == [2, 2]
    assert set(map(len, seen)) == {1}
    again = [pool().columns(0.1, 2, FIRSTS, 1)["frontier/first"].tolist() for _ in range(2)]
    assert again[0] == again[1]


def test_a_pool_is_read_as_it_was_written(tmp_path):
    pool().save(tmp_path / "pool.parquet")
    read = ReferencePool.load(tmp_path / "pool.parquet")
    assert read.rewards.tolist() == pool().rewards.tolist()
    assert read.ids == pool().ids
    ragged = ReferencePool(np.array([[0.25, 1e-9]]), [[], [1, 2]])
    ragged.save(tmp_path / "ragged.parquet")
    read = ReferencePool.load(tmp_path / "ragged.parquet")
    assert (read.rewards.tolist(), read.ids) == (ragged.rewards.tolist(), ragged.ids)


def test_a_pool_that_cannot_be_read(tmp_path):
    (tmp_path / "pool.parquet").write_text("no parquet")
    with pytest.raises(ResultsError, match="cannot read"):
        ReferencePool.load(tmp_path / "pool.parquet")
    with pytest.raises(ResultsError, match="cannot read"):
        ReferencePool.load(tmp_path / "none.parquet")


def frame(reward, diversity):
    """The agent's numbers on two prompts; the best has 0.9 and 0.6, the reference 0.5 and 0.8."""
    return pd.DataFrame(
        {
            "reward": reward,
            "frontier/reward": [0.8, 1.0],
            "frontier/reference_reward": [0.4, 0.6],
            "diversity/ead": diversity,
            "reference/ead": [0.7, 0.9],
            "frontier/ead": [0.5, 0.7],
        }
    )


def test_ratios_to_the_frontier_by_hand():
    found = intervals([frame([0.5, 0.9], [0.4, 0.4])])
    # (0.7 - 0.5) / (0.9 - 0.5), (0.6 - 0.4) / 0.8 and 1 - 0.4 / 0.8, means over prompts.
    assert found["frontier_efficiency"].estimate == pytest.approx(0.5)
    assert found["loss_beyond_optimum/ead"].estimate == pytest.approx(0.25)
    assert found["diversity_loss/ead"].estimate == pytest.approx(0.5)
    # Of the frontier there is no row of its own.
    assert not [name for name in found if name.startswith("frontier/")]
    best = intervals([frame([0.8, 1.0], [0.5, 0.7])])
    assert best["frontier_efficiency"].estimate == pytest.approx(1)
    assert best["loss_beyond_optimum/ead"].estimate == pytest.approx(0)
    # Whoever is as diverse as the reference has lost less than the best had to.
    kept = intervals([frame([0.4, 0.6], [0.7, 0.9])])
    assert kept["frontier_efficiency"].estimate == pytest.approx(0)
    assert kept["loss_beyond_optimum/ead"].estimate == pytest.approx(-0.25)


def test_a_seed_beyond_the_frontiers_end_leaves_the_figure_out():
    # The mean over the other seeds would be of those that spent less.
    beyond = frame([9.0, 9.0], [0.4, 0.4]).drop(columns=["frontier/reward", "frontier/ead"])
    for seeds in ([frame([0.5, 0.9], [0.4, 0.4]), beyond], [beyond, frame([0.5, 0.9], [0.4, 0.4])]):
        found = intervals(seeds)
        assert "diversity_loss/ead" in found
        assert "frontier_efficiency" not in found
        assert "loss_beyond_optimum/ead" not in found


def test_no_ratio_without_room_above_the_reference():
    flat = frame([0.5, 0.9], [0.4, 0.4])
    flat["frontier/reward"] = flat["frontier/reference_reward"]
    assert "frontier_efficiency" not in intervals([flat])
