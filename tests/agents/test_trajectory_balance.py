"""Trajectory balance: RLOO on its own samples, the same optimum on anyone's."""

import math
from dataclasses import replace

import pytest
import torch
from test_conventions import make_samples
from test_gdc import collapsed, ends_at, oracle_setup

from textgym.agents import trajectory_balance
from textgym.agents.base import enumerated, make_config
from textgym.agents.rloo import RLOO, RLOOConfig
from textgym.agents.trajectory_balance import (
    TrajectoryBalance,
    TrajectoryBalanceConfig,
    residuals,
)
from textgym.errors import ConfigError
from textgym.metrics import exact
from textgym.tasks import load_task
from textgym.tasks.oracle.two_modes import TwoModes

FAST = TrajectoryBalanceConfig(lr=3e-3, beta=0.2)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Where it settles


@pytest.mark.parametrize(
    ("share", "epochs"),
    [
        (0.25, 1),
        pytest.param(0.5, 2, marks=pytest.mark.slow),
        pytest.param(0.0, 1, marks=pytest.mark.slow),
    ],
)
def test_ends_near_the_optimum_of_random_tables(share, epochs):
    setup, logs = oracle_setup(load_task("known-frontier"), budget=64 * 40)
    TrajectoryBalance(replace(FAST, reference_share=share, epochs=epochs)).train(setup)
    _, _, before, after = ends_at(setup, FAST.beta)
    assert before > 0.15
    assert after < 0.2 * before
    # Where the balance holds the mean over any samples is log Z = log sum pi_ref exp(r / beta);
    # over the policy's own it is KL(pi || p) less.
    tables = setup.task.tables
    log_z = exact.optimum(tables.known, tables.rewards, FAST.beta).mean() / FAST.beta
    late = [log["log_partition"] for log in logs[-10:]]
    assert log_z - 0.25 < sum(late) / len(late) < log_z + 0.1


@pytest.mark.parametrize(("beta", "odds"), [(0.2, math.exp(0.1)), (0.05, math.exp(0.4))])
def test_two_modes_are_kept_at_the_odds_of_the_target(beta, odds):
    setup, _ = oracle_setup(TwoModes(), budget=64 * 30)
    TrajectoryBalance(replace(FAST, beta=beta)).train(setup)
    end, _, before, after = ends_at(setup, beta)
    p_a, p_b = (float(end[0, setup.task.texts.index(x)]) for x in "AB")
    assert p_a / p_b == pytest.approx(odds, rel=0.08)
    assert after < 0.2 * before


def test_the_reference_brings_back_what_the_policy_has_dropped():
    task = TwoModes()
    lost, b = collapsed(task, 0.0), task.texts.index("B")
    ends = []
    assert enumerated(lost, task, task.asked)[0, b] < 3e-4
    for share in (0.0, 0.5):
        setup, _ = oracle_setup(task, 64 * 30, policy=lost)
        TrajectoryBalance(replace(FAST, reference_share=share)).train(setup)
        ends.append(enumerated(setup.policy, task, task.asked)[0, b])
    assert ends[0] < 0.05
    assert ends[1] == pytest.approx(0.475, abs=0.12)


# Against RLOO


def test_on_its_own_samples_it_is_rloo_step_by_step():
    budget, shared = 64 * 5, {"lr": 2e-3, "prompts_per_step": 8, "samples_per_prompt": 8}
    ends, logged = [], []
    for agent in (
        TrajectoryBalance(TrajectoryBalanceConfig(**shared, beta=0.3, reference_share=0.0)),
        RLOO(RLOOConfig(**shared, kl_coef=0.3)),
    ):
        setup, logs = oracle_setup(load_task("known-frontier"), budget=budget)
        agent.train(setup)
        ends.append(torch.cat([p.detach().flatten() for p in setup.policy.model.parameters()]))
        logged.append(logs)
    for mine, theirs in zip(*logged, strict=True):
        for name in ("grad_norm", "kl_seq", "reward"):
            assert mine[name] == pytest.approx(theirs[name], abs=1e-4), name
    torch.testing.assert_close(ends[0], ends[1], atol=1e-4, rtol=1e-3)


# What it draws, and from whom


@pytest.mark.parametrize(("share", "counts"), [(0.0, [8, 0]), (0.25, [6, 2]), (0.9, [1, 7])])
def test_shares_of_the_samples(share, counts, monkeypatch):
    drawn = {"policy": 0, "reference": 0}

    def spy(setup, policy, rows, k, generator):
        drawn["policy" if policy is setup.policy else "reference"] += k
        return draw_scored(setup, policy, rows, k, generator)

    draw_scored = trajectory_balance.draw_scored
    monkeypatch.setattr(trajectory_balance, "draw_scored", spy)
    setup, _ = oracle_setup(TwoModes(), budget=70)
    TrajectoryBalance(replace(FAST, reference_share=share)).train(setup)
    assert [drawn["policy"], drawn["reference"]] == counts
    assert setup.budget.used == 64


def test_the_log_shows_the_policys_own_samples():
    setup, logs = oracle_setup(TwoModes(), 64 * 2, policy=collapsed(TwoModes(), 0.0))
    TrajectoryBalance(replace(FAST, reference_share=0.5)).train(setup)
    # A is worth 0.51 and is all the policy says; the reference would make it 0.5.
    assert logs[0]["reward"] == pytest.approx(0.51, abs=0.002)
    assert logs[0]["kl_seq"] == pytest.approx(math.log(1 / 0.495), abs=0.03)


# The residual


def test_residuals_by_hand_whatever_the_pads_hold():
    mask = torch.tensor([[True, True], [True, False]])
    samples = make_samples(mask, rewards=(1.0, -2.0), k=2)
    logprobs = torch.tensor([[-3.0, -1.0], [-4.0, math.nan]], requires_grad=True)
    reference = torch.tensor([[-0.5, -0.25], [-1.0, math.inf]])
    found = residuals(logprobs, reference, samples, beta=0.5)
    assert found.tolist() == [[-3.25 - 2, -3.0 + 4]]
    (gradient,) = torch.autograd.grad(found.sum(), logprobs)
    assert gradient.tolist() == [[1, 1], [1, 0]]


def test_a_reward_of_hundreds_of_betas_is_no_trouble():
    setup, logs = oracle_setup(TwoModes(), budget=64 * 4)
    TrajectoryBalance(replace(FAST, beta=0.001)).train(setup)
    assert all(math.isfinite(x) for log in logs for x in log.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0}, "beta must be > 0, got 0"),
        ({"lr": 0}, "lr must be > 0, got 0"),
        ({"reference_share": 1}, r"reference_share must be in \[0, 1\), got 1"),
        ({"reference_share": 0.99}, "leaves the policy none of 8 samples, got 0.99"),
        ({"samples_per_prompt": 1}, "samples_per_prompt must be >= 2 to compare, got 1"),
        ({"epochs": 0}, "prompts_per_step and epochs must be >= 1, got 8 and 0"),
        ({"max_grad_norm": 0}, "max_grad_norm must be > 0, got 0"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make_config(TrajectoryBalanceConfig, options)
