"""GRPO on a case worked by hand, where it settles, what it repeats; and RLOO by name."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from test_agents import Identity, make_reference, make_setup, right_answer
from test_conventions import make_samples

from textgym.agents import AGENTS, base, grpo
from textgym.agents.base import collect, make_config
from textgym.agents.grpo import GRPO, GRPOConfig
from textgym.agents.reinforce import Reinforce, ReinforceConfig
from textgym.agents.rloo import RLOO, RLOOConfig
from textgym.errors import ConfigError, TrainingError
from textgym.functional import grpo_advantages
from textgym.rollout import rollout

FAST = GRPOConfig(lr=1e-3, kl_coef=0.0)


@pytest.fixture(scope="module")
def reference():
    return make_reference()


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# The loss


@pytest.mark.parametrize(
    ("options", "policy_loss"),
    [
        # 1 and 1.5 with a negative advantage are not clipped, 2 with a positive one is: the first
        # response has (1 + 1.5) / 2, the second -1.28; their mean, in units of the advantage.
        ({"clip_high": 0.28}, (1.25 - 1.28) / 2),
        ({}, (1.25 - 1.2) / 2),
        ({"aggregation": "token"}, (1 + 1.5 - 1.2) / 3),
        ({"aggregation": "sum"}, (1 + 1.5 - 1.2) / 2),
        ({"aggregation": "constant"}, (1 + 1.5 - 1.2) / 2 / 4),
    ],
)
def test_the_policy_loss_by_hand(options, policy_loss):
    loss, log, _ = hand_worked_loss(kl_coef=0.0, **options)
    # Rewards 1 and 3: mean 2, sample standard deviation sqrt(2).
    advantage = 1 / (math.sqrt(2) + 1e-4)
    assert loss.item() == pytest.approx(policy_loss * advantage, abs=1e-6)
    assert log["policy_loss"] == pytest.approx(loss.item())


@pytest.mark.parametrize(
    ("correction", "kl", "slopes"),
    [
        # pi_ref / pi is 2 and 1, and 0.5: k3 is 1 - log 2 and 0, and log 2 - 0.5. Its slope is
        # 1 - pi_ref / pi.
        (False, ((1 - math.log(2)) / 2 + math.log(2) - 0.5) / 2, (-1.0, 0.0, 0.5)),
        # Times pi / pi_old, 1 and 1.5 and 2, its slope is pi / pi_old log(pi / pi_ref).
        (True, ((1 - math.log(2)) / 2 + 2 * math.log(2) - 1) / 2, (-math.log(2), 0, math.log(4))),
    ],
)
def test_the_kl_and_the_gradient_by_hand(correction, kl, slopes):
    loss, log, gradient = hand_worked_loss(
        kl_coef=0.5, clip_high=0.28, kl_ratio_correction=correction
    )
    a = 1 / (math.sqrt(2) + 1e-4)
    assert log["kl_loss"] == pytest.approx(kl)
    assert loss.item() == pytest.approx(-0.015 * a + 0.5 * kl, abs=1e-6)
    # The clipped token has the KL's slope alone.
    wanted = [a / 4 + slopes[0] / 8, 1.5 * a / 4 + slopes[1] / 8, slopes[2] / 4, 0.0]
    assert gradient.flatten().tolist() == pytest.approx(wanted, abs=1e-6)


def hand_worked_loss(**options):
    config = GRPOConfig(**options)
    mask = torch.tensor([[True, True], [True, False]])
    logprobs = torch.tensor([[0.5, 0.3], [0.4, 1.0]]).log().requires_grad_()
    old = torch.tensor([[0.5, 0.2], [0.2, 1.0]]).log()
    reference = torch.tensor([[1.0, 0.3], [0.2, 1.0]]).log()
    samples = make_samples(mask, rewards=(1.0, 3.0), logprobs=old.tolist(), k=2)
    setup = SimpleNamespace(
        policy=SimpleNamespace(logprobs=lambda _: logprobs),
        task=SimpleNamespace(max_response_tokens=4),
    )
    advantages = grpo.ADVANTAGES[config.scale](samples.rewards, 2)
    loss, log = grpo._loss(setup, config, samples, reference, advantages)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return loss, log, gradient


@pytest.mark.parametrize("aggregation", ["sequence", "token", "constant", "sum"])
def test_padding_does_not_change_the_loss(aggregation, reference):
    setup, _ = make_setup(reference, reference, budget=16)
    setup.policy = perturbed(setup.policy)
    rows = setup.task.prompts("train")
    samples, logp_ref = collect(setup, rows, 4, torch.Generator().manual_seed(0))
    samples.policy_logprobs += 0.1 * torch.randn(
        logp_ref.shape, generator=torch.Generator().manual_seed(1)
    )
    # One response is a token shorter than the other.
    samples.response_mask[0, 1] = False
    right, left = torch.nn.functional.pad, lambda x, v: torch.nn.functional.pad(x, (3, 0), value=v)
    padded = replace(
        samples,
        prompt_ids=left(samples.prompt_ids, 5),
        prompt_mask=left(samples.prompt_mask, False),
        response_ids=right(samples.response_ids, (0, 2), value=7),
        response_mask=right(samples.response_mask, (0, 2), value=False),
        policy_logprobs=right(samples.policy_logprobs, (0, 2), value=-3.0),
    )
    config = GRPOConfig(kl_coef=0.5, aggregation=aggregation)
    advantages = grpo_advantages(torch.randn(16, generator=torch.Generator().manual_seed(2)), 4)
    outcomes = []
    for some, logp in ((samples, logp_ref), (padded, right(logp_ref, (0, 2), value=-9.0))):
        loss, _ = grpo._loss(setup, config, some, logp, advantages)
        outcomes.append([loss, *torch.autograd.grad(loss, setup.policy.parameters())])
    for mine, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)
    assert outcomes[0][0].abs() > 1e-3


def perturbed(policy, size=0.02):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return policy


# Training


@pytest.mark.parametrize("agent", [GRPO(FAST), RLOO(RLOOConfig(lr=1e-3, kl_coef=0.0))])
def test_learns_the_identity(agent, reference):
    setup, logs = make_setup(reference, reference, budget=64 * 60)
    agent.train(setup)
    assert right_answer(agent.policy) > 0.85
    assert logs[-1]["reward"] > 0.8 > 0.6 > logs[0]["reward"]
    assert logs[-1]["kl_seq"] > 0.3


@pytest.mark.parametrize("correction", [False, True])
def test_settles_where_the_kl_in_the_loss_says(correction, reference):
    # Let p and q be the right answer's share under pi_ref and pi. The gradient of k3 is that of
    # beta KL(pi_ref || pi), so that s = beta ((1 - p) / (1 - q) - p / q) at the optimum; times
    # pi / pi_old it is that of beta KL(pi || pi_ref), whose optimum is pi_ref exp(s / beta) / Z.
    # s is 1 but for the group's mean, of which each sample is an eighth.
    p, beta, s = right_answer(reference), 0.5, 7 / 8
    lifted = p * math.exp(s / beta)
    half = (beta - s) / (2 * s)
    optimum = lifted / (lifted + 1 - p) if correction else -half + math.sqrt(half**2 + p * beta / s)
    if not correction:
        assert s == pytest.approx(beta * ((1 - p) / (1 - optimum) - p / optimum))
    setup, _ = make_setup(reference, reference, budget=64 * 100)
    config = replace(FAST, kl_coef=beta, scale="none", kl_ratio_correction=correction)
    agent = GRPO(replace(config, aggregation="sum"))
    agent.train(setup)
    assert right_answer(agent.policy) == pytest.approx(optimum, abs=0.03)


def test_repeats_for_a_seed_and_leaves_the_reference_alone(reference):
    before = [p.clone() for p in reference.model.parameters()]
    outcomes = []
    for seed in (3, 3, 4):
        setup, logs = make_setup(reference, reference, budget=200, seed=seed)
        state = torch.random.get_rng_state()
        agent = GRPO(replace(FAST, epochs=2, minibatches=3))
        agent.train(setup)
        assert torch.equal(state, torch.random.get_rng_state())
        outcomes.append((logs, [p.detach().clone() for p in agent.policy.model.parameters()]))
        # Whole batches only: three of 64 fit in 200.
        assert setup.budget.used == setup.task.scored == 192
    (logs, weights), (logs_again, weights_again), (_, others) = outcomes
    assert logs == logs_again
    assert all(map(torch.equal, weights, weights_again))
    assert not all(map(torch.equal, weights, others))
    assert all(map(torch.equal, before, reference.model.parameters()))


@pytest.mark.parametrize("scale", ["group", "none", None])
def test_groups_of_one_reward_teach_nothing(scale, reference):
    # 100.3 is no float32: seven of them do not add up to seven times it.
    assert grpo_advantages(torch.full((7,), 100.3), 7).tolist() == [0.0] * 7
    setup, logs = make_setup(reference, reference, budget=128)
    setup.task.reward = lambda prompts, completions, **columns: [0.5] * len(completions)
    agent = GRPO(replace(FAST, scale=scale))
    agent.train(setup)
    assert [log["zero_variance_share"] for log in logs] == [1.0, 1.0]
    assert [log["grad_norm"] for log in logs] == [0.0, 0.0]
    assert all(map(torch.equal, agent.policy.model.parameters(), reference.model.parameters()))


def test_makes_epochs_times_minibatches_steps_each_over_its_share(reference, monkeypatch):
    sizes = []
    loss = grpo._loss

    def counting(setup, config, samples, *rest):
        sizes.append(len(samples))
        return loss(setup, config, samples, *rest)

    monkeypatch.setattr(grpo, "_loss", counting)
    setup, logs = make_setup(reference, reference, budget=24)
    GRPO(replace(FAST, prompts_per_step=3, epochs=2, minibatches=4)).train(setup)
    assert sizes == [6] * 8
    # After the first step the policy is no longer the one that sampled.
    assert logs[0]["approx_kl"] > 0


def test_stops_when_sampler_and_scorer_disagree(reference, monkeypatch):
    def off(*args, **kwargs):
        samples = rollout(*args, **kwargs)
        return replace(samples, policy_logprobs=samples.policy_logprobs - 0.1)

    monkeypatch.setattr(base, "rollout", off)
    setup, _ = make_setup(reference, reference, budget=64)
    with pytest.raises(TrainingError, match=r"step 0: importance ratio is off 1 by 0\.1"):
        GRPO(FAST).train(setup)


# Settings


def test_presets_leave_the_kl_where_grpo_has_it():
    for preset in ("textgym", "trl", "openrlhf", "rl4lms", "kirk"):
        resolved = GRPOConfig(conventions=preset).resolved()
        assert (resolved.kl_placement, resolved.kl_estimator) == ("loss", "k3")
        assert (resolved.aggregation, resolved.kl_ratio_correction) == ("sequence", True)
    assert GRPOConfig(conventions="kirk").resolved().eos_rule == "override"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("grpo", {"lr": 0}, "lr must be > 0, got 0"),
        ("grpo", {"kl_coef": -1}, "kl_coef must be >= 0, got -1"),
        ("grpo", {"clip": 0}, r"clip must be in \(0, 1\), got 0"),
        ("grpo", {"clip": 1}, r"clip must be in \(0, 1\), got 1"),
        ("grpo", {"clip_high": 0}, "clip_high must be > 0 or none, got 0"),
        ("grpo", {"scale": "groups"}, "unknown scale 'groups'; did you mean 'group'"),
        ("grpo", {"aggregation": "sequences"}, "did you mean 'sequence'"),
        ("grpo", {"samples_per_prompt": 1}, "samples_per_prompt must be >= 2 to compare, got 1"),
        ("grpo", {"epochs": 0}, "must be >= 1, got 8, 0, 1"),
        ("grpo", {"minibatches": 65}, "minibatches must not exceed the batch, got 65"),
        ("grpo", {"max_grad_norm": 0}, "max_grad_norm must be > 0, got 0"),
        ("grpo", {"kl_estimator": "k1"}, "unknown option 'kl_estimator'"),
        ("rloo", {"samples_per_prompt": 1}, "needs samples_per_prompt >= 2, got 1"),
        ("rloo", {"kl_coef": -1}, "kl_coef must be >= 0, got -1"),
    ],
)
def test_what_makes_no_sense_is_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make_config(AGENTS.load(name).config_class, options)


def test_rloo_is_reinforce_with_the_leave_one_out_baseline(reference):
    long = ReinforceConfig(baseline="leave_one_out", prompts_per_step=8, samples_per_prompt=8)
    logs = []
    for agent in (RLOO(), Reinforce(long)):
        setup, log = make_setup(reference, reference, budget=128)
        agent.train(setup)
        logs.append(log)
    assert logs[0] == logs[1]
    assert len(logs[0]) == 2


def test_the_task_of_these_tests_has_two_tokens():
    # The optimum above is of one free token, the letter; the other is EOS.
    assert Identity.max_response_tokens == 2
