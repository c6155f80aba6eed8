"""GDC against the tilted optimum of enumerable tasks, and when its proposal is replaced."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_conventions import make_samples

from textgym.agents import gdc
from textgym.agents.base import Setup, enumerated, make_config
from textgym.agents.gdc import GDC, GDCConfig, log_densities
from textgym.errors import ConfigError
from textgym.metrics import exact
from textgym.models.enumeration import sequence_logprobs
from textgym.models.policy import load_policy
from textgym.seeding import Streams
from textgym.tasks import load_task
from textgym.tasks.oracle.two_modes import TwoModes
from textgym.types import Budget

FAST = GDCConfig(lr=3e-3, beta=0.2)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def oracle_setup(task, budget, policy=None):
    logs = []
    reference = load_policy(task.language_model()).freeze()
    setup = Setup(
        task=task,
        policy=(reference if policy is None else policy).copy(),
        reference=reference,
        budget=Budget(budget),
        streams=Streams(0),
        log=lambda step, metrics: logs.append(metrics),
    )
    return setup, logs


def ends_at(setup, beta):
    """The policy's distribution, the optimum's, and the regret before and after, all exact."""
    task = setup.task
    rewards = task.tables.rewards
    start, end = (enumerated(p, task, task.asked) for p in (setup.reference, setup.policy))
    before, after = (exact.regret(p, start, rewards, beta).mean() for p in (start, end))
    return end, exact.tilted(start, rewards, beta), before, after


# Where it settles


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 0.15),
        ({"divergence": "js"}, 0.2),
        pytest.param({"adaptive": False}, 0.2, marks=pytest.mark.slow),
        pytest.param({"divergence": "reverse_kl"}, 0.2, marks=pytest.mark.slow),
        pytest.param({"divergence": "total_variation"}, 0.2, marks=pytest.mark.slow),
        pytest.param({"baseline": False}, 0.3, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_ends_near_the_optimum_of_random_tables(options, most):
    setup, logs = oracle_setup(load_task("known-frontier"), budget=64 * 40)
    GDC(replace(FAST, **options)).train(setup)
    end, optimum, before, after = ends_at(setup, FAST.beta)
    assert before > 0.15
    assert after < most * before
    # Near the target all samples weigh alike, and log Z is what it is.
    assert logs[-1]["effective_sample_size"] > 6 > 5 > logs[0]["effective_sample_size"]
    tables = setup.task.tables
    log_z = np.log((tables.known * np.exp(tables.rewards / FAST.beta)).sum(1)).mean()
    late = [log["log_partition"] for log in logs[-10:]]
    assert sum(late) / len(late) == pytest.approx(log_z, abs=0.1)
    # The estimate of KL(p || pi), of a policy that moves, against the exact one at its end.
    late = [log["kl_target"] for log in logs[-10:]]
    left = exact.kl(optimum, end).mean()
    assert logs[0]["kl_target"] > 0.4
    assert sum(late) / len(late) == pytest.approx(left, abs=0.15)


@pytest.mark.parametrize(("beta", "odds"), [(0.2, math.exp(0.1)), (0.05, math.exp(0.4))])
def test_two_modes_are_kept_at_the_odds_of_the_target(beta, odds):
    setup, _ = oracle_setup(TwoModes(), budget=64 * 30)
    GDC(replace(FAST, beta=beta)).train(setup)
    end, optimum, before, after = ends_at(setup, beta)
    p_a, p_b = (float(end[0, setup.task.texts.index(x)]) for x in "AB")
    assert p_a / p_b == pytest.approx(odds, rel=0.08)
    assert after < 0.2 * before
    assert exact.kl(optimum, end)[0] < 0.01


def collapsed(task, share_of_b):
    """A policy that has all but dropped the answer B."""
    policy = load_policy(task.language_model())
    target = torch.tensor([[0.001, 0.999 - share_of_b, share_of_b]])
    optimizer = torch.optim.Adam(policy.model.parameters(), lr=1e-2)
    for _ in range(80):
        loss = -(target * sequence_logprobs(policy, task.tree, task.asked)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy


def test_a_mode_that_is_nearly_lost_comes_back():
    task = TwoModes()
    lost = collapsed(task, 0.03)
    b = task.texts.index("B")
    assert enumerated(lost, task, task.asked)[0, b] < 0.04
    setup, _ = oracle_setup(task, 64 * 30, policy=lost)
    GDC(FAST).train(setup)
    assert ends_at(setup, FAST.beta)[0][0, b] == pytest.approx(0.475, abs=0.04)


# The proposal


def watched(monkeypatch):
    """Every proposal drawn from, as its first weights at that moment."""
    drawn = []

    def spy(setup, proposal, *args):
        drawn.append(next(proposal.model.parameters()).detach().clone())
        return draw_scored(setup, proposal, *args)

    draw_scored = gdc.draw_scored
    monkeypatch.setattr(gdc, "draw_scored", spy)
    return drawn


def test_the_proposal_is_replaced_when_the_policy_is_nearer(monkeypatch):
    drawn = watched(monkeypatch)
    setup, logs = oracle_setup(load_task("known-frontier"), budget=64 * 12)
    policies = [next(setup.policy.model.parameters()).detach().clone()]
    note = setup.log

    def log(step, metrics):
        note(step, metrics)
        policies.append(next(setup.policy.model.parameters()).detach().clone())

    setup.log = log
    GDC(FAST).train(setup)
    assert torch.equal(drawn[0], policies[0])
    updates = 0.0
    for step, metrics in enumerate(logs[:-1]):
        nearer = metrics["kl_target"] < metrics["kl_target_proposal"]
        updates += nearer
        assert metrics["proposal_updates"] == updates
        # The policy as it was judged, before the step.
        assert torch.equal(drawn[step + 1], policies[step] if nearer else drawn[step])
    assert 3 < updates < 11
    assert logs[0]["kl_target"] == pytest.approx(logs[0]["kl_target_proposal"], abs=1e-5)


def test_a_policy_that_gets_worse_never_becomes_the_proposal(monkeypatch):
    drawn = watched(monkeypatch)
    # Uphill: every step leads away from the target.
    weigh = gdc.matching_weights
    monkeypatch.setattr(gdc, "matching_weights", lambda *args: -weigh(*args))
    setup, logs = oracle_setup(TwoModes(right=0.9), budget=64 * 12)
    GDC(replace(FAST, lr=1e-2)).train(setup)
    assert logs[-1]["kl_target"] > logs[-1]["kl_target_proposal"] + 1
    assert logs[-1]["proposal_updates"] <= 1
    assert torch.equal(drawn[-1], drawn[2])


def test_without_adaptation_the_policy_is_the_proposal(monkeypatch):
    setup, logs = oracle_setup(load_task("known-frontier"), budget=64 * 3)
    GDC(replace(FAST, adaptive=False)).train(setup)
    for metrics in logs:
        assert metrics["kl_target"] == pytest.approx(metrics["kl_target_proposal"], abs=1e-5)
        assert metrics["proposal_updates"] == 0
    # The proposal's own samples: their KL to the reference grows from the second batch on.
    assert logs[0]["kl_seq"] == pytest.approx(0, abs=1e-5)


# Densities


def test_densities_by_hand_whatever_the_pads_hold():
    mask = torch.tensor([[True, True], [True, False]])
    samples = make_samples(mask, rewards=(1.0, -2.0), logprobs=[[-1.0, -2.0], [-0.5, math.nan]])
    logprobs = torch.tensor([[-3.0, -1.0], [-4.0, 9.0]], requires_grad=True)
    reference = torch.tensor([[-0.5, -0.25], [-1.0, math.inf]])
    target, policy, proposal = log_densities(samples, logprobs, reference, beta=0.5)
    assert target.tolist() == [1.25, -5.0]
    assert policy.tolist() == [-4.0, -4.0]
    assert proposal.tolist() == [-3.0, -0.5]
    assert not policy.requires_grad


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "js", "total_variation"])
def test_a_reward_of_hundreds_of_betas_is_no_trouble(divergence):
    setup, logs = oracle_setup(TwoModes(), budget=64 * 4)
    # Silence against the two answers: 500 nats.
    GDC(replace(FAST, beta=0.001, divergence=divergence)).train(setup)
    assert all(math.isfinite(x) for log in logs for x in log.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergence": "forward"}, "unknown divergence 'forward'; did you mean 'forward_kl'"),
        ({"beta": 0}, "beta must be > 0, got 0"),
        ({"lr": 0}, "lr must be > 0, got 0"),
        ({"samples_per_prompt": 1}, "samples_per_prompt must be >= 2 to compare, got 1"),
        ({"prompts_per_step": 0}, "prompts_per_step must be >= 1, got 0"),
        ({"max_grad_norm": 0}, "max_grad_norm must be > 0, got 0"),
        ({"adaptive": "yes"}, "adaptive must be true or false, got 'yes'"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make_config(GDCConfig, options)
