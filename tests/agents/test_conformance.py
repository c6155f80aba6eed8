"""Every registered agent conforms, and an agent that does not is told what it does wrong."""

import random
import re

import numpy as np
import pytest
import torch
from broken_agents import (
    ALSO,
    BROKEN,
    SLOW,
    GlobalNumpy,
    GlobalRandom,
    GlobalTorch,
    TrainsTheReference,
)

from textgym.agents import AGENTS
from textgym.agents.conformance import CHECKS, conformance, examine
from textgym.agents.conformance_trials import Ground, Subject
from textgym.agents.identity import answers, right_answer
from textgym.benchmarks.templates.agent import MyAgent, MyAgentConfig
from textgym.errors import ConfigError

SAMPLE_ONLY = {
    "reference",
    "pretrained",
    "human",
    "best_of_n",
    "soft_best_of_n",
    "diverse_best_of_n",
}
"""Agents that do not train, and so cannot learn."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def ground():
    return Ground.make()


@pytest.mark.parametrize("name", list(AGENTS))
def test_every_registered_agent_conforms(name, ground):
    if name.startswith("trl:"):
        pytest.importorskip("trl")
    outcomes = {o.check: o for o in conformance(AGENTS.load(name), ground=ground)}
    assert list(outcomes) == list(CHECKS)
    assert [o for o in outcomes.values() if o.status == "failed"] == []
    learnt = "not applicable" if name in SAMPLE_ONLY else "passed"
    assert outcomes["learning"].status == learnt
    # What no agent is let off.
    for check in ("construction", "training", "budget", "reference", "same seed", "samples"):
        assert outcomes[check].status == "passed"


@pytest.mark.parametrize(
    ("agent", "check", "cause"), BROKEN, ids=lambda x: getattr(x, "__name__", "")
)
def test_a_broken_agent_fails_the_check_for_it(agent, check, cause, ground):
    subject = Subject(agent, ground)
    outcomes = {name: examine(subject, name) for name in CHECKS if name not in SLOW - {check}}
    failed = {name for name, outcome in outcomes.items() if outcome.status == "failed"}
    assert failed == {check} | ALSO.get(agent, set()), outcomes
    assert re.search(cause, outcomes[check].cause), outcomes[check].cause


def test_every_check_can_fail():
    assert {check for _, check, _ in BROKEN} == set(CHECKS)


def test_the_template_they_are_made_from_conforms(ground):
    assert {o.status for o in conformance(MyAgent, ground=ground)} == {"passed"}


def global_states():
    return (
        torch.random.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        random.getstate(),
    )


def test_nothing_is_left_changed_by_a_broken_agent(ground):
    before = global_states()
    weights = [p.clone() for p in ground.reference.model.parameters()]
    for agent in (GlobalTorch, GlobalNumpy, GlobalRandom, TrainsTheReference):
        examine(Subject(agent, ground), "training")
    assert global_states() == before
    assert all(map(torch.equal, weights, ground.reference.model.parameters()))


def test_options_are_the_users_where_given_and_refused_at_once(ground):
    subject = Subject(MyAgent, ground, {"lr": 5e-5})
    assert subject.config({"lr": 1e-3, "kl_coef": 0.0}) == MyAgentConfig(lr=5e-5, kl_coef=0.0)
    # The batch is 64 completions whatever K.
    assert subject.config({"batch": 64}).prompts_per_step == 32
    with pytest.raises(ConfigError, match="did you mean 'lr'"):
        Subject(MyAgent, ground, {"lrr": 1.0})
    with pytest.raises(ConfigError, match="lr must be > 0"):
        Subject(MyAgent, ground, {"lr": -1.0})


def test_a_batch_that_a_small_budget_does_not_hold_gets_a_larger(ground):
    subject = Subject(MyAgent, ground, {"prompts_per_step": 128})
    assert subject.trial().setup.budget.used == 2560
    assert examine(subject, "budget").status == "passed"


def test_the_reference_says_the_right_letter_twice_in_five_times(ground):
    probabilities = answers(ground.reference)
    assert probabilities.diagonal().tolist() == pytest.approx([0.4] * 4, abs=0.1)
    assert probabilities.sum(1).tolist() == pytest.approx([1.0] * 4, abs=0.1)
    assert right_answer(ground.pretrained) < 0.05
