"""Samples drawn in a short number format are not quite those of the policy that is trained."""

import math
from dataclasses import replace

import pytest
import torch
from test_agents import make_reference, make_setup
from test_conventions import make_samples

from textgym.agents import base
from textgym.agents.base import importance_weights, make_config, require_on_policy
from textgym.agents.grpo import GRPO, GRPOConfig
from textgym.agents.ppo import PPO, PPOConfig
from textgym.agents.reinforce import Reinforce, ReinforceConfig
from textgym.agents.rloo import RLOO, RLOOConfig
from textgym.errors import ConfigError, TrainingError
from textgym.models.policy import Policy
from textgym.rollout import rollout

SMALL = {"prompts_per_step": 4, "samples_per_prompt": 4, "lr": 1e-3}


@pytest.fixture(scope="module")
def reference():
    return make_reference()


@pytest.fixture(scope="module")
def rounded(reference):
    """The same weights, computed with in bfloat16."""
    return Policy(reference.model, reference.tokenizer, "rounded", "bfloat16")


def logs_of(agent, policy, steps=1):
    setup, logs = make_setup(policy, policy, budget=16 * steps)
    agent.train(setup)
    return logs, [p.detach().clone() for p in setup.policy.model.parameters()]


def drawn_at(monkeypatch, first, later):
    """Has the scorer's probability of each first and later token be so many times the sampler's."""

    def shifted(policy, *args, **kwargs):
        samples = rollout(policy, *args, **kwargs)
        with torch.no_grad():
            scored = policy.logprobs(samples)
        ratios = torch.full(scored.shape, float(later))
        ratios[:, 0] = first
        drawn = torch.where(samples.response_mask, scored - ratios.log(), 0)
        return replace(samples, sampling_logprobs=drawn, policy_logprobs=drawn)

    monkeypatch.setattr(base, "rollout", shifted)


def test_the_weights_by_hand():
    mask = torch.tensor([[True, True, True], [True, True, False]])
    drawn = [[math.log(x) for x in row] for row in ([0.5, 0.2, 0.2], [0.1, 0.4, 1.0])]
    scored = torch.tensor([[0.25, 0.3, 0.4], [0.9, 0.4, 0.01]]).log().requires_grad_()
    samples = make_samples(mask, logprobs=drawn)
    weights = importance_weights(scored, samples, 2.0)
    # Below the cap, below it, at it, beyond it, nothing to correct, and a pad.
    assert weights.flatten().tolist() == pytest.approx([0.5, 1.5, 2.0, 2.0, 1.0, 1.0])
    assert not weights.requires_grad
    assert importance_weights(scored, samples, 10.0)[1, 0].item() == pytest.approx(9.0)
    # Nothing that stands on a pad is read.
    scored = scored.detach().masked_fill(~mask, math.nan)
    assert torch.equal(importance_weights(scored, samples, 2.0), weights)


def test_weights_are_relative_to_the_distribution_drawn_from():
    samples = make_samples(logprobs=[[-2.0, -2.0], [-2.0, 0.0]])
    samples = replace(samples, sampling_logprobs=samples.policy_logprobs - math.log(1.25))
    weights = importance_weights(samples.policy_logprobs, samples, 2.0)
    assert weights.flatten().tolist() == pytest.approx([1.25, 1.25, 1.25, 1.0])


@pytest.mark.parametrize(("ratio", "weight"), [(0.5, 0.5), (1.5, 1.5), (2.0, 2.0), (3.0, 2.0)])
def test_every_tokens_loss_is_multiplied_by_its_weight(ratio, weight, rounded, monkeypatch):
    drawn_at(monkeypatch, ratio, ratio)
    # Without a price on the KL, whose log-ratios move with the shift as well.
    options = {**SMALL, "kl_coef": 0.0}
    (kept,), _ = logs_of(Reinforce(ReinforceConfig(**options)), rounded)
    (plain,), _ = logs_of(Reinforce(ReinforceConfig(**options, importance_cap=None)), rounded)
    assert abs(plain["loss"]) > 0.01
    # Scored with gradients and without, bfloat16 may differ in a last bit.
    assert kept["loss"] == pytest.approx(weight * plain["loss"], rel=0.01)
    assert kept["importance_mean"] == pytest.approx(weight, rel=0.01)
    assert kept["importance_max"] == pytest.approx(weight, rel=0.01)
    assert "importance_mean" not in plain


def test_the_mean_and_the_greatest_weight_are_those_of_response_tokens(rounded, monkeypatch):
    drawn_at(monkeypatch, 0.2, 0.6)
    setup, logs = make_setup(rounded, rounded, budget=16)
    # One of the four letters ends a response, so that some have one token and some two.
    (setup.policy.eos_token_id,) = rounded.tokenizer(" a", add_special_tokens=False)["input_ids"]
    Reinforce(ReinforceConfig(**SMALL)).train(setup)
    (log,) = logs
    # Of every response's tokens the first weighs 0.2 and the others 0.6; the weight of a pad is 1.
    assert 1 < log["length"] < 2, "else there are no pads"
    wanted = (0.2 + 0.6 * (log["length"] - 1)) / log["length"]
    assert log["importance_mean"] == pytest.approx(wanted, rel=0.01)
    assert log["importance_max"] == pytest.approx(0.6, rel=0.01)


@pytest.mark.parametrize(
    ("agent", "config"),
    [(Reinforce, ReinforceConfig), (RLOO, RLOOConfig)],
    ids=["reinforce", "rloo"],
)
def test_in_float32_nothing_is_multiplied(agent, config, reference, rounded, monkeypatch):
    drawn_at(monkeypatch, 0.5, 1.5)

    def runs(policy):
        return [
            logs_of(agent(config(**SMALL, importance_cap=cap)), policy, steps=3)
            for cap in (2, None)
        ]

    (kept, weights), (plain, others) = runs(reference)
    assert kept == plain
    assert all(map(torch.equal, weights, others))
    assert not any("importance" in name for log in kept for name in log)
    (_, weights), (_, others) = runs(rounded)
    assert not all(map(torch.equal, weights, others))


def test_a_cap_below_one_is_refused():
    with pytest.raises(ConfigError, match=r"importance_cap must be >= 1 or none, got 0\.5"):
        make_config(ReinforceConfig, {"importance_cap": 0.5})


def test_how_far_the_first_ratios_may_be_off():
    require_on_policy(9e-5, 3, torch.float32)
    require_on_policy(0.2, 3, torch.bfloat16)
    for deviation, precision in ((2e-4, torch.float32), (0.6, torch.bfloat16)):
        with pytest.raises(
            TrainingError, match=f"step 3: importance ratio is off 1 by {deviation}"
        ):
            require_on_policy(deviation, 3, precision)


@pytest.mark.parametrize(
    ("agent", "config"),
    [(PPO, PPOConfig(**SMALL, value_warmup=0, epochs=1)), (GRPO, GRPOConfig(**SMALL))],
    ids=["ppo", "grpo"],
)
def test_clipped_agents_allow_for_rounding_and_no_more(
    agent, config, reference, rounded, monkeypatch
):
    drawn_at(monkeypatch, 1.1, 1.1)
    logs, _ = logs_of(agent(config), rounded, steps=2)
    assert logs[0]["ratio_deviation"] == pytest.approx(0.1, abs=0.01)
    with pytest.raises(TrainingError, match=r"step 0: importance ratio is off 1 by 0\.1"):
        logs_of(agent(config), reference)
    drawn_at(monkeypatch, 2, 2)
    with pytest.raises(TrainingError, match=r"step 0: importance ratio is off 1 by 1 .* than 0\.5"):
        logs_of(agent(config), rounded)
