"""Exact numbers on a coin whose optimum is worked out by hand, and on real cells' policies."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from textgym.agents.base import Setup, enumerated, make_config
from textgym.agents.best_of_n import BestOfN
from textgym.agents.reference import Human, Reference
from textgym.benchmarks.exact import (
    PROBE_EVERY,
    best_columns,
    exact_columns,
    measure_exactly,
    oracle,
    probe,
)
from textgym.benchmarks.intervals import intervals
from textgym.benchmarks.recording import CountedTask, Curve
from textgym.functional import best_of_n_kl
from textgym.models.policy import load_policy
from textgym.models.tabular import fit_distribution
from textgym.seeding import Streams
from textgym.tasks import load_task
from textgym.tasks.oracle.base import OracleTask, Tables
from textgym.types import Budget

# exp(r / beta) is 1 and 3, so pi* is 1/4 and 3/4.
BETA = 1 / math.log(3)
REFERENCE, BEST = np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])
QUARTER_ENTROPY = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)


class Coin(OracleTask):
    """Silence is worth 0 and each symbol 1; all are as likely."""

    name = "coin"
    question = "Heads or tails?"

    def __init__(self, symbols="a", **options):
        super().__init__(symbols=symbols, horizon=1, prompts=[""], beta=BETA, **options)

    def write_tables(self):
        rewards = np.array([[float(bool(text)) for text in self.texts]])
        known = np.full(rewards.shape, 1 / len(self.texts))
        return Tables(known=known, rewards=rewards, gold=rewards)


def test_two_outcomes_by_hand():
    coin = Coin()
    assert coin.texts == ["", "a"]
    columns = exact_columns(REFERENCE, REFERENCE, coin, [""])
    # KL((1/2, 1/2) || (1/4, 3/4)).
    assert columns["regret"] == pytest.approx([0.5 * math.log(2) + 0.5 * math.log(2 / 3)])
    assert columns["reward"] == [0.5]
    assert (columns["kl_seq"], columns["kl_reverse"]) == ([0], [0])
    assert columns["entropy_seq"] == pytest.approx([math.log(2)])
    assert columns["entropy_kept"] == [1]
    assert "gold" not in columns, "it is the reward"

    columns = exact_columns(BEST, REFERENCE, coin, [""])
    assert columns["regret"] == pytest.approx([0], abs=1e-15)
    assert columns["reward"] == [0.75]
    assert columns["kl_seq"] == pytest.approx([0.25 * math.log(0.5) + 0.75 * math.log(1.5)])
    assert columns["kl_reverse"] == pytest.approx([0.5 * math.log(2) + 0.5 * math.log(2 / 3)])
    assert columns["entropy_kept"] == pytest.approx([QUARTER_ENTROPY / math.log(2)])

    # What the agent never says costs an infinite KL back, and nothing else.
    columns = exact_columns(np.array([[0.0, 1.0]]), REFERENCE, coin, [""])
    assert columns["kl_reverse"] == [math.inf]
    assert columns["regret"] == pytest.approx([math.log(4 / 3)])
    assert columns["entropy_kept"] == [0]


def test_a_reference_that_says_one_thing_keeps_no_share_of_entropy():
    sure = np.array([[0.0, 1.0]])
    assert np.isnan(exact_columns(sure, sure, Coin(), [""])["entropy_kept"]).all()


def test_gold_where_it_is_not_the_reward_and_the_tasks_own_measures():
    task = load_task("stepping-stones")
    known = task.tables.known
    columns = exact_columns(known, known, task, [""])
    assert columns["gold"] == pytest.approx((known * task.tables.gold).sum(axis=1))
    assert columns["gold"] > columns["reward"]
    assert columns["best_of/1"] == pytest.approx(columns["gold"])


def test_the_best_at_ones_own_kl_by_hand():
    coin = Coin()
    columns = best_columns(BEST, REFERENCE, coin, [""])
    # pi* at beta spends what BEST spends: it is BEST.
    assert columns["frontier/reward"] == pytest.approx([0.75])
    assert columns["frontier/reference_reward"] == [0.5]
    assert columns["frontier/entropy"] == pytest.approx([QUARTER_ENTROPY])
    assert columns["diversity/entropy"] == pytest.approx([QUARTER_ENTROPY])
    assert columns["reference/entropy"] == pytest.approx([math.log(2)])
    # The other way round costs as much and earns less than nothing.
    worst = best_columns(BEST[:, ::-1], REFERENCE, coin, [""])
    assert worst["frontier/reward"] == pytest.approx([0.75])
    near = np.array([[0.46, 0.54]])  # 0.003 nats
    assert set(best_columns(near, REFERENCE, coin, [""])) == {
        "diversity/entropy",
        "reference/entropy",
    }


def summed_up(p, reference, task):
    columns = exact_columns(p, reference, task, [""]) | best_columns(p, reference, task, [""])
    return {name: found.estimate for name, found in intervals([pd.DataFrame(columns)]).items()}


def test_efficiency_and_the_loss_beyond_the_optimums():
    coin = Coin()
    found = summed_up(BEST, REFERENCE, coin)
    assert found["frontier_efficiency"] == pytest.approx(1)
    assert found["loss_beyond_optimum/entropy"] == pytest.approx(0, abs=1e-9)
    assert found["diversity_loss/entropy"] == pytest.approx(1 - QUARTER_ENTROPY / math.log(2))
    assert summed_up(BEST[:, ::-1], REFERENCE, coin)["frontier_efficiency"] == pytest.approx(-1)
    assert "frontier_efficiency" not in summed_up(REFERENCE, REFERENCE, coin)

    # Of two answers worth 1 it drops one: (1/3) log 2 nats for nothing.
    coin = Coin("ab")
    even, dropped = np.full((1, 3), 1 / 3), np.array([[1 / 3, 2 / 3, 0.0]])
    found = summed_up(dropped, even, coin)
    assert found["kl_seq"] == pytest.approx(2 / 3 * math.log(2))
    assert found["frontier_efficiency"] == pytest.approx(0)
    # log 3/2 of the silence given up is all that reward can ask for; the optimum, at this price
    # still short of it, would say both answers alike.
    best = best_columns(dropped, even, coin, [""])
    silence = 1 - float(best["frontier/reward"][0])
    optimum = np.array([silence, (1 - silence) / 2, (1 - silence) / 2])
    kept = -(optimum[optimum > 0] * np.log(optimum[optimum > 0])).sum()
    own = math.log(3) - 2 / 3 * math.log(2)
    assert best["frontier/entropy"] == pytest.approx([kept])
    assert found["loss_beyond_optimum/entropy"] == pytest.approx((kept - own) / math.log(3))


@pytest.fixture(scope="module")
def two_modes():
    task = load_task("two-modes")
    return task, load_policy(task.language_model()).freeze()


def trained(agent, task, policy):
    agent.train(Setup(task, policy.copy(), policy, Budget(0), Streams(0), lambda *_: None))
    return agent


def test_the_references_regret_is_what_tilting_gains(two_modes):
    task, policy = two_modes
    p = enumerated(policy, task, [""])[0]
    columns, summaries = measure_exactly(trained(Reference(), task, policy), policy, task, [""])
    # KL(pi_ref || pi*) = log Z - E r / beta.
    r = np.array([{"": 0, "A": 0.51, "B": 0.49}[text] for text in task.texts]) / 0.2
    gain = math.log((p * np.exp(r)).sum()) - (p * r).sum()
    assert columns["regret"] == pytest.approx([gain], abs=1e-9)
    assert columns["kl_seq"] == [0]
    assert columns["p_a"] == pytest.approx([p[task.texts.index("A")]])
    assert "frontier/reward" not in columns
    assert summaries == {}


def test_best_of_ns_kl_is_its_enumerated_one(two_modes):
    task, policy = two_modes
    agent = trained(BestOfN(make_config(BestOfN.config_class, {"n": 4})), task, policy)
    columns, _ = measure_exactly(agent, policy, CountedTask(task), [""])
    base = enumerated(policy, task, [""])[0]
    assert columns["kl_seq"] == pytest.approx([best_of_n_kl(base, task.tables.rewards[0], 4)])
    # Four draws hold an A but for B and silence alone.
    a = base[task.texts.index("A")]
    assert columns["p_a"] == pytest.approx([1 - (1 - a) ** 4])


def test_a_policy_that_is_the_optimum_has_no_regret():
    coin = Coin()
    p, _ = fit_distribution(coin.tokenizer(), coin.tree, [""], torch.tensor(REFERENCE), steps=60)
    best, _ = fit_distribution(coin.tokenizer(), coin.tree, [""], torch.tensor(BEST), steps=60)
    agent = trained(Reference(), coin, best)
    columns, _ = measure_exactly(agent, p, coin, [""])
    assert columns["regret"] == pytest.approx([0], abs=1e-4)
    # Against the even coin a KL is the entropy that is lost.
    assert columns["kl_seq"] == pytest.approx([math.log(2) - QUARTER_ENTROPY], abs=1e-2)


def test_only_what_can_be_enumerated_is(two_modes, plugin):
    task, policy = two_modes
    assert oracle(CountedTask(task)) is task
    letters = load_task(plugin("Letters"))
    assert oracle(letters) is oracle(CountedTask(letters)) is None
    assert measure_exactly(trained(Reference(), task, policy), policy, letters, [""]) == ({}, {})
    assert measure_exactly(trained(Human(), task, policy), policy, task, [""]) == ({}, {})
    setup = Setup(letters, policy, policy, Budget(0), Streams(0), lambda *_: None)
    assert probe(setup, [""]) is None


def test_the_games_own_numbers_come_with_its_prompts():
    task = load_task("tic-tac-toe")
    policy = load_policy(task.language_model()).freeze()
    asked = task.asked[:3]
    columns, summaries = measure_exactly(trained(Reference(), task, policy), policy, task, asked)
    assert all(len(values) == 3 for values in columns.values())
    assert set(summaries) == {"games/random", "games/greedy", "games/perfect"}
    assert -1 <= summaries["games/perfect"] < -0.5, "nine digits alike"


def test_the_policy_in_training_is_looked_at_every_fifth_step(two_modes):
    task, policy = two_modes
    curve = Curve()
    setup = Setup(CountedTask(task), policy.copy(), policy, Budget(0), Streams(0), curve)
    curve.look = probe(setup, [""])
    curve(0, {"loss": 1.0})
    with torch.no_grad():
        for weights in setup.policy.parameters():
            weights *= 0.5
    for step in range(1, PROBE_EVERY + 1):
        curve(step, {"loss": 1.0})
    frame = curve.frame()
    assert frame["exact/regret"].notna().tolist() == [True, *[False] * 4, True]
    assert frame["exact/kl_seq"].iloc[0] == pytest.approx(0, abs=1e-9)
    moved = exact_columns(
        enumerated(setup.policy, task, [""]), enumerated(policy, task, [""]), task, [""]
    )
    assert frame["exact/kl_seq"].iloc[5] == pytest.approx(moved["kl_seq"][0])
    assert moved["kl_seq"][0] > 0.01
    assert setup.task.scored == 0
