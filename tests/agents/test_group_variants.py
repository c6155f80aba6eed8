"""Dr. GRPO, DAPO, REINFORCE++ and A2C: their losses by hand, and what they leave out."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from test_conventions import MASK, make_samples

from textgym.agents import AGENTS, grpo, ppo
from textgym.agents.a2c import A2C, A2CConfig
from textgym.agents.base import make_config
from textgym.agents.conventions import PRESETS
from textgym.agents.dapo import DAPO, DAPOConfig
from textgym.agents.dr_grpo import DrGRPO, DrGRPOConfig
from textgym.agents.grpo import GRPO, GRPOConfig
from textgym.agents.identity import make_reference, make_setup, right_answer
from textgym.agents.reinforce_pp import ReinforcePP, ReinforcePPConfig
from textgym.errors import ConfigError
from textgym.models.value_head import ValueModel
from textgym.seeding import Streams

OLD = [[0.5, 0.2], [0.2, 1.0]]
NEW = [[0.5, 0.3], [0.4, 1.0]]
"""Ratios 1 and 1.5 of the first response's tokens, 2 of the second's one."""


@pytest.fixture(scope="module")
def reference():
    return make_reference()


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def worked(agent, known=NEW):
    """The loss of a batch of two: rewards 1 and 3, a response limit of 4 tokens."""
    samples = make_samples(rewards=(1.0, 3.0), logprobs=torch.tensor(OLD).log().tolist(), k=2)
    setup = SimpleNamespace(
        policy=SimpleNamespace(logprobs=lambda _: torch.tensor(NEW).log()),
        task=SimpleNamespace(max_response_tokens=4),
    )
    known = torch.tensor(known).log()
    credit = agent.advantages(samples, known)
    return grpo._loss(setup, agent.config, samples, known, credit.advantages)


# Dr. GRPO


def test_dr_grpo_by_hand():
    # Advantages -1 and 1; the ratio 2 is cut to 1.2; all is divided by the limit, 4.
    loss, _ = worked(DrGRPO(DrGRPOConfig(kl_coef=0.0)))
    assert loss.item() == pytest.approx((1 + 1.5 - 1.2) / 2 / 4)
    # k3 of pi_ref / pi = 0.5 on the first token, none on the others, times pi / pi_old = 1.
    loss, log = worked(DrGRPO(DrGRPOConfig(kl_coef=2.0)), [[0.25, 0.3], [0.4, 1.0]])
    kl = (math.log(2) - 0.5) / 2 / 4
    assert log["kl_loss"] == pytest.approx(kl)
    assert loss.item() == pytest.approx((1 + 1.5 - 1.2) / 2 / 4 + 2 * kl)


def test_dr_grpo_weighs_prompts_by_how_much_their_rewards_differ():
    samples = make_samples(
        mask=torch.ones((4, 1), dtype=torch.bool), rewards=(0.0, 1.0, 0.0, 8.0), k=2
    )
    samples = replace(samples, truncated=torch.zeros(4, dtype=torch.bool))
    credit = DrGRPO().advantages(samples, torch.zeros(4, 1))
    assert credit.advantages.tolist() == [-0.5, 0.5, -4.0, 4.0]
    flat = GRPO().advantages(samples, torch.zeros(4, 1)).advantages
    assert flat.tolist() == pytest.approx([-0.7071, 0.7071, -0.7071, 0.7071], abs=2e-4)


# DAPO


def test_dapo_by_hand():
    # Advantages -+1 / sqrt(2), over three tokens alike; the ratio 2 is cut to 1.28.
    loss, _ = worked(DAPO())
    assert loss.item() == pytest.approx((1 + 1.5 - 1.28) / 3 / (math.sqrt(2) + 1e-4))


def test_dapo_has_no_kl_by_default():
    for known in (NEW, [[0.01, 0.99], [0.9, 1.0]]):
        assert worked(DAPO(), known)[0] == worked(DAPO())[0]
    assert worked(DAPO(DAPOConfig(kl_coef=0.1)), OLD)[0] != worked(DAPO())[0]


def constant_for_some(setup, constant):
    """Has the prompts that ask for these letters pay the same for any answer."""
    paid = type(setup.task).reward

    def reward(prompts, completions, **columns):
        rewards = paid(setup.task, prompts, completions, **columns)
        return [
            0.25 if letter in constant else r
            for letter, r in zip(columns["letter"], rewards, strict=True)
        ]

    setup.task.reward = reward


def test_dapo_leaves_groups_of_one_reward_out(reference, monkeypatch):
    seen = []
    loss = grpo._loss

    def watching(setup, config, samples, *rest):
        seen.append(samples)
        return loss(setup, config, samples, *rest)

    monkeypatch.setattr(grpo, "_loss", watching)
    sizes = {}
    for drop in (True, False):
        setup, logs = make_setup(reference, reference, budget=64)
        constant_for_some(setup, "abc")
        DAPO(DAPOConfig(drop_zero_variance=drop, epochs=1)).train(setup)
        sizes[drop] = [len(samples) for samples in seen]
        if drop:
            assert {p for samples in seen for p in samples.prompts} == {"say d:"}
        share = logs[0]["zero_variance_share"]
        seen.clear()
    # Six of eight prompts pay the same for any answer, and one has eight answers of one worth.
    assert share == 0.875
    assert sizes == {True: [8], False: [64]}


@pytest.mark.parametrize(("drop", "moved"), [(True, False), (False, True)])
def test_a_batch_that_dapo_leaves_out_makes_no_step(drop, moved, reference):
    setup, logs = make_setup(reference, reference, budget=128)
    constant_for_some(setup, "abcd")
    # An entropy bonus would move the policy without any reward.
    config = DAPOConfig(drop_zero_variance=drop, entropy_coef=0.1)
    agent = DAPO(config)
    agent.train(setup)
    assert setup.budget.left == 0
    assert len(logs) == 2
    assert ("policy_loss" in logs[0]) == moved
    pairs = zip(agent.policy.parameters(), reference.model.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs) == moved


def test_more_minibatches_than_rows_left(reference):
    setup, logs = make_setup(reference, reference, budget=64)
    constant_for_some(setup, "abc")
    DAPO(DAPOConfig(minibatches=48, epochs=1)).train(setup)
    assert math.isfinite(logs[0]["policy_loss"])


# REINFORCE++


def returns_by_hand(values, tokens=((0, 0), (0, 1), (1, 0))):
    """Whitens three tokens' returns the long way round."""
    mean = sum(values) / 3
    deviation = (sum((v - mean) ** 2 for v in values) / 3) ** 0.5
    wanted = torch.zeros(2, 2)
    for (row, column), value in zip(tokens, values, strict=True):
        wanted[row, column] = (value - mean) / deviation
    return wanted


@pytest.mark.parametrize(
    ("options", "returns"),
    [
        # Log-ratios 0.4 and -0.2, and 1, at half a reward a nat; rewards 3 and 1.
        ({}, (3 + 0.1 - 0.2, 3 + 0.1, 1 - 0.5)),
        ({"group_baseline": True}, (1 + 0.1 - 0.2, 1 + 0.1, -1 - 0.5)),
        ({"kl_placement": "loss", "kl_estimator": "k2"}, (3, 3, 1)),
        ({"eos_rule": "subtract", "eos_penalty": 2.0}, (2.9, 3.1, 1 - 2 - 0.5)),
    ],
)
def test_reinforce_pp_advantages_by_hand(options, returns):
    samples = make_samples(
        rewards=(3.0, 1.0),
        logprobs=[[-1.0, -2.0], [-1.0, math.nan]],
        truncated=(False, True),
        k=2,
    )
    known = torch.tensor([[-1.4, -1.8], [-2.0, math.nan]])
    config = ReinforcePPConfig(kl_coef=0.5, samples_per_prompt=2, **options)
    credit = ReinforcePP(config).advantages(samples, known)
    torch.testing.assert_close(credit.advantages, returns_by_hand(returns), atol=1e-5, rtol=0)
    assert credit.used.tolist() == [0, 1]


def test_reinforce_pp_does_not_see_padding_or_order():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    wide = make_samples(mask, rewards=(3.0, 1.0), logprobs=[[-1.0, -2.0, 9.0], [-1.0, 9.0, 9.0]])
    narrow = make_samples(rewards=(1.0, 3.0), logprobs=[[-1.0, 9.0], [-1.0, -2.0]])
    narrow = replace(narrow, response_mask=MASK.flip(0))
    agent = ReinforcePP()
    mine = agent.advantages(wide, torch.full((2, 3), -1.5)).advantages
    theirs = agent.advantages(narrow, torch.full((2, 2), -1.5)).advantages
    torch.testing.assert_close(mine[:, :2], theirs.flip(0))
    assert mine[:, 2].tolist() == [0, 0]


def test_reinforce_pp_puts_the_kl_where_it_is_told(reference):
    keys = []
    for options in ({}, {"kl_placement": "loss", "kl_estimator": "k2"}):
        setup, logs = make_setup(reference, reference, budget=128)
        agent = ReinforcePP(ReinforcePPConfig(lr=1e-3, **options))
        agent.train(setup)
        keys.append("kl_loss" in logs[0])
    assert keys == [False, True]
    for preset in PRESETS:
        resolved = ReinforcePPConfig(conventions=preset).resolved()
        assert (resolved.kl_placement, resolved.kl_estimator) == ("reward", "k1")
        assert resolved.aggregation == "token"


def test_reinforce_pp_settles_where_the_regularised_optimum_is(reference):
    # Centring and scaling the returns moves no optimum: p e / (p e + 1 - p) at beta = 1.
    p = right_answer(reference)
    setup, logs = make_setup(reference, reference, budget=64 * 50)
    agent = ReinforcePP(ReinforcePPConfig(lr=1e-3, kl_coef=1.0))
    agent.train(setup)
    assert right_answer(agent.policy) == pytest.approx(p * math.e / (p * math.e + 1 - p), abs=0.06)
    # Two passes: in the second the ratios are no longer 1.
    assert logs[-1]["ratio_deviation"] > 1e-3


# A2C


def test_the_first_gradient_of_a2c_is_the_actor_critics(reference, monkeypatch):
    batches, gradients = [], []
    collect = ppo.collect

    def watching(*args):
        batches.append(collect(*args))
        return batches[-1]

    def stopping(optimizer, loss, *_):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients.append(torch.autograd.grad(loss, parameters))
        return 0.0

    monkeypatch.setattr(ppo, "collect", watching)
    monkeypatch.setattr(ppo, "optimiser_step", stopping)
    setup, logs = make_setup(perturbed(reference), reference, budget=24)
    config = A2CConfig(prompts_per_step=24, kl_coef=0.3, value_warmup=0)
    A2C(config).train(setup)

    (samples, known), policy = batches[0], setup.policy
    value_model = ValueModel(policy, Streams(0).torch("initialisation"))
    with torch.no_grad():
        values = value_model(samples)
    log_pi = policy.response_logprobs(samples)
    total, count = torch.zeros(()), 0
    for b in range(24):
        tokens = samples.response_ids[b][samples.response_mask[b]].tolist()
        for t, token in enumerate(tokens):
            later = range(t, len(tokens))
            to_come = sum(float(log_pi[b, u, tokens[u]].detach() - known[b, u]) for u in later)
            advantage = float(samples.rewards[b]) - 0.3 * to_come - float(values[b, t])
            total, count = total - advantage * log_pi[b, t, token], count + 1
    # The optimiser holds matrices first.
    order = [p for p in policy.parameters() if p.dim() >= 2]
    order += [p for p in policy.parameters() if p.dim() < 2]
    wanted = torch.autograd.grad(total / count, order)
    assert max(g.abs().max() for g in wanted) > 1e-2
    for mine, theirs in zip(gradients[1], wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-3)
    assert len(gradients) == 2
    assert logs[0]["clip_fraction"] == 0
    assert logs[0]["ratio_deviation"] < 1e-4


def perturbed(policy):
    policy, generator = policy.copy(), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return policy


# Settings


def test_variants_differ_from_grpo_in_what_they_are_named_for():
    def facts(config):
        resolved = config.resolved()
        return config.scale, config.kl_coef, config.clip, config.clip_high, resolved.aggregation

    assert facts(GRPOConfig()) == ("group", 0.04, 0.2, None, "sequence")
    assert facts(DrGRPOConfig()) == ("none", 0.04, 0.2, None, "constant")
    assert facts(DAPOConfig()) == ("group", 0.0, 0.2, 0.28, "token")
    for preset in PRESETS:
        for config_class in (DrGRPOConfig, DAPOConfig):
            resolved = config_class(conventions=preset).resolved()
            assert (resolved.kl_placement, resolved.kl_estimator) == ("loss", "k3")
    assert A2CConfig().resolved().whitening == "none"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dr_grpo", {"samples_per_prompt": 1}, "must be >= 2 to compare, got 1"),
        ("dapo", {"clip_high": -1}, "clip_high must be > 0 or none, got -1"),
        ("dapo", {"scale": "std"}, "unknown scale 'std'"),
        ("reinforce_pp", {"samples_per_prompt": 0}, "samples_per_prompt must be >= 1, got 0"),
        ("reinforce_pp", {"group_baseline": True}, "needs samples_per_prompt >= 2, got 1"),
        ("reinforce_pp", {"kl_estimator": "k5"}, "unknown kl_estimator 'k5'"),
        ("reinforce_pp", {"scale": "group"}, "unknown option 'scale'"),
        ("a2c", {"epochs": 2}, "epochs and minibatches must be 1, got 2 and 1"),
        ("a2c", {"minibatches": 4}, "epochs and minibatches must be 1, got 1 and 4"),
        ("a2c", {"gamma": 2}, r"gamma must be in \[0, 1\], got 2"),
    ],
)
def test_what_makes_no_sense_is_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make_config(AGENTS.load(name).config_class, options)
