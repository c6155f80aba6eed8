"""Every switch on numbers worked by hand, gradients by enumeration, presets against the facts."""

import math
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch
from test_agents import Identity, make_reference, make_setup, right_answer

from textgym.agents import ppo
from textgym.agents.base import make_config
from textgym.agents.conventions import (
    PRESETS,
    Conventions,
    eos_adjusted,
    kl_estimate,
    kl_loss,
    kl_penalty,
    leave_one_out_advantages,
    value_rollout,
    whiten,
)
from textgym.agents.dpo import DPOConfig
from textgym.agents.ppo import PPO, PPOConfig
from textgym.agents.reinforce import Reinforce, ReinforceConfig
from textgym.errors import ConfigError
from textgym.functional import aggregate, extend_mask, unmasked_whiten
from textgym.models.value_head import ValueModel
from textgym.rollout import rollout
from textgym.types import Rollout

MASK = torch.tensor([[True, True], [True, False]])


@pytest.fixture(scope="module")
def reference():
    return make_reference()


def make_samples(mask=MASK, rewards=(0.0, 0.0), logprobs=None, truncated=(False, False), k=1):
    logprobs = torch.zeros(mask.shape) if logprobs is None else torch.tensor(logprobs)
    return Rollout(
        prompts=["p"] * len(mask),
        completions=["c"] * len(mask),
        columns={},
        samples_per_prompt=k,
        prompt_ids=torch.zeros((len(mask), 1), dtype=torch.long),
        prompt_mask=torch.ones((len(mask), 1), dtype=torch.bool),
        response_ids=torch.ones(mask.shape, dtype=torch.long),
        response_mask=mask,
        policy_logprobs=logprobs,
        sampling_logprobs=logprobs,
        truncated=torch.tensor(truncated),
        rewards=torch.tensor(rewards),
    )


# Presets


@pytest.mark.parametrize(
    ("preset", "facts"),
    [
        ("textgym", ("reward", "k1", "masked", "last", "none", "mean", True)),
        ("trl", ("reward", "k1", "masked", "first_pad", "subtract", "mean", True)),
        ("openrlhf", ("reward", "k1", "masked", "last", "scale", "sum", False)),
        ("rl4lms", ("reward", "k1", "minibatch", "last", "none", "mean", True)),
        ("kirk", ("reward", "k1", "unmasked", "last", "override", "mean", True)),
    ],
)
def test_presets_are_the_facts(preset, facts):
    names = (
        "kl_placement",
        "kl_estimator",
        "whitening",
        "reward_token",
        "eos_rule",
        "ipo_normalisation",
        "kl_in_baseline",
    )
    resolved = PPOConfig(conventions=preset).resolved()
    assert tuple(getattr(resolved, name) for name in names) == facts
    # No library is known to change these.
    assert (resolved.aggregation, resolved.kl_ratio_correction) == ("token", False)


def test_agents_keep_their_own_defaults_where_a_preset_is_silent():
    for preset in PRESETS:
        resolved = ReinforceConfig(conventions=preset).resolved()
        assert (resolved.baseline, resolved.aggregation) == ("batch", "sum")
        assert resolved.whitening == "none"  # presets whiten PPO's advantages
        assert PPOConfig(conventions=preset).resolved().aggregation == "token"


def test_a_switch_of_its_own_beats_the_preset():
    config = PPOConfig(conventions="kirk", whitening="masked", eos_penalty=0.5)
    assert config.resolved().whitening == "masked"
    assert (config.resolved().eos_rule, config.resolved().eos_penalty) == ("override", 0.5)
    off = ReinforceConfig(conventions="trl", baseline="leave_one_out", samples_per_prompt=2)
    assert off.resolved().kl_in_baseline
    assert not replace(off, kl_in_baseline=False).resolved().kl_in_baseline


@pytest.mark.parametrize(
    ("config_class", "options", "message"),
    [
        (PPOConfig, {"conventions": "tlr"}, "unknown conventions 'tlr'; did you mean 'trl'"),
        (DPOConfig, {"conventions": "kirkk"}, "did you mean 'kirk'"),
        (PPOConfig, {"whitening": "unmaskd"}, "unknown whitening 'unmaskd'; did you mean 'unmask"),
        (PPOConfig, {"reward_token": "first"}, "did you mean 'first_pad'"),
        (PPOConfig, {"kl_estimator": 3}, "unknown kl_estimator '3'"),
        (ReinforceConfig, {"aggregation": "tokens"}, "did you mean 'token'"),
        (ReinforceConfig, {"eos_rule": "substract"}, "did you mean 'subtract'"),
        (ReinforceConfig, {"eos_penalty": -1}, "eos_penalty must be >= 0, got -1"),
        (ReinforceConfig, {"eos_rule": "scale", "eos_penalty": 2}, "must be <= 1"),
        (ReinforceConfig, {"kl_estimator": "full"}, "'full' needs kl_placement 'loss'"),
        (PPOConfig, {"kl_ratio_correction": True}, "needs kl_placement 'loss'"),
        (PPOConfig, {"kl_ratio_correction": "yes"}, "must be true or false, got 'yes'"),
        (ReinforceConfig, {"baseline": "leave_one_out"}, "needs samples_per_prompt >= 2, got 1"),
        (PPOConfig, {"baseline": "none"}, "unknown option 'baseline'"),
    ],
)
def test_what_makes_no_sense_is_refused(config_class, options, message):
    with pytest.raises(ConfigError, match=message):
        make_config(config_class, options)


# Rewards


@pytest.mark.parametrize(
    ("rule", "penalty", "wanted"),
    [
        ("none", 1.0, [3.0, -2.0]),
        ("subtract", 1.5, [3.0, -3.5]),
        ("scale", 0.75, [3.0, -0.5]),
        ("override", 1.5, [3.0, -1.5]),
    ],
)
def test_the_eos_rule_touches_cut_responses_alone(rule, penalty, wanted):
    samples = make_samples(rewards=(3.0, -2.0), truncated=(False, True))
    adjusted = eos_adjusted(samples, Conventions(eos_rule=rule, eos_penalty=penalty))
    assert adjusted.tolist() == wanted
    assert samples.rewards.tolist() == [3.0, -2.0]


@pytest.mark.parametrize(
    ("estimator", "wanted"),
    [("k1", [2.0, -1.0]), ("k2", [2.0, 0.5]), ("k3", [math.exp(-2) + 1, math.e - 2])],
)
def test_the_kl_in_the_reward(estimator, wanted):
    samples = make_samples(logprobs=[[-1.0, -2.0], [-5.0, math.nan]])
    reference = torch.tensor([[-3.0, -1.0], [-5.0, math.nan]])
    penalty = kl_penalty(samples, reference, 0.5, Conventions(kl_estimator=estimator))
    assert penalty[0].tolist() == pytest.approx([x / 2 for x in wanted])
    assert penalty[1].tolist() == [0, 0]
    in_loss = Conventions(kl_estimator=estimator, kl_placement="loss")
    assert kl_penalty(samples, reference, 0.5, in_loss).abs().max() == 0


def test_leave_one_out_in_both_orders():
    samples, rewards = make_samples(k=2), torch.tensor([4.0, 1.0])
    penalty = torch.tensor([[0.5, 1.0], [2.0, 0.0]])
    # With KL, R = 4 - 1.5 and 1 - 2: 3.5 apart.
    inside = leave_one_out_advantages(rewards, penalty, samples, Conventions())
    assert inside.tolist() == [[3.5, 3.5], [-3.5, 0.0]]
    # Without, +-3, then minus what is to come: 0.5 + 1, 1 and 2.
    after = leave_one_out_advantages(rewards, penalty, samples, Conventions(kl_in_baseline=False))
    assert after.tolist() == [[1.5, 2.0], [-5.0, 0.0]]
    free = [
        leave_one_out_advantages(rewards, 0 * penalty, samples, Conventions(kl_in_baseline=order))
        for order in (True, False)
    ]
    assert free[0].tolist() == free[1].tolist() == [[3.0, 3.0], [-3.0, 0.0]]


# The position of the reward


def test_the_first_pad_by_hand():
    # The first response ended (one token, EOS); the second was cut at the limit of two tokens.
    mask = torch.tensor([[True, False], [True, True]])
    assert extend_mask(mask, torch.tensor([True, False])).tolist() == [
        [True, True, False],
        [True, True, False],
    ]
    samples = make_samples(mask, rewards=(3.0, 4.0), logprobs=[[-1.0, 0.0], [-1.0, -1.0]])
    reference = torch.tensor([[-1.2, 0.0], [-1.0, -1.0]])
    config = PPOConfig(reward_token="first_pad", gamma=0.5, gae_lambda=0.5)
    visited = value_rollout(samples, 2, config.resolved())
    values = torch.tensor([[0.5, 0.25, 0.0], [1.0, 2.0, 0.0]])
    advantages, returns = ppo._advantages(config, 0.5, samples, reference, visited, values)
    # First: errors -0.5 * 0.2 + 0.5 * 0.25 - 0.5 = -0.475 and, on the pad, 3 - 0.25 = 2.75;
    # the token's advantage -0.475 + 0.25 * 2.75. Second: 0.5 * 2 - 1 = 0 and 4 - 2 = 2.
    assert advantages.flatten().tolist() == pytest.approx([0.2125, 0.0, 0.5, 2.0])
    assert returns.flatten().tolist() == pytest.approx([0.7125, 3.0, 0.0, 1.5, 4.0, 0.0])

    last = replace(config, reward_token="last")
    assert value_rollout(samples, 2, last.resolved()) is samples
    advantages, returns = ppo._advantages(last, 0.5, samples, reference, samples, values[:, :2])
    # First: 3 - 0.1 - 0.5 on the token itself.
    assert advantages.flatten().tolist() == pytest.approx([2.4, 0.0, 0.5, 2.0])
    assert returns.flatten().tolist() == pytest.approx([2.9, 0.0, 1.5, 4.0])


def test_a_response_of_full_width_gets_one_more_column():
    visited = value_rollout(make_samples(), 5, Conventions(reward_token="first_pad"))
    assert visited.response_mask.tolist() == [[True, True, True], [True, True, False]]
    assert visited.response_ids.shape == (2, 3)
    with pytest.raises(ValueError, match="expected shape"):
        extend_mask(MASK, torch.tensor([True]))


@torch.no_grad()
def test_the_value_of_the_first_pad_is_that_of_the_finished_response(reference):
    task = Identity()
    generator = torch.Generator().manual_seed(0)
    rows = task.prompts("train")
    samples = rollout(reference, task, rows, samples_per_prompt=1, generator=generator)
    assert samples.response_mask.sum(1).tolist() == [2, 2, 2, 2]
    model = ValueModel(reference, generator)
    visited = value_rollout(samples, 3, Conventions(reward_token="first_pad"))
    values = model(visited)
    torch.testing.assert_close(values[:, :2], model(samples))
    # The same state, read as a prompt: what comes before the first token of an empty response.
    longer = replace(
        samples,
        prompt_ids=torch.cat([samples.prompt_ids, samples.response_ids], dim=1),
        prompt_mask=torch.cat([samples.prompt_mask, samples.response_mask], dim=1),
    )
    torch.testing.assert_close(values[:, 2], model(longer)[:, 0])


# Whitening and aggregation


def test_unmasked_whitening_looks_at_pads():
    x = torch.tensor([[1.0, 3.0], [4.0, 100.0]])
    # Over 1, 3, 4 and 100: mean 27, variance (26^2 + 24^2 + 23^2 + 73^2) / 4 = 1777.5.
    wanted = [(value - 27) / 1777.5**0.5 for value in (1, 3, 4)] + [0]
    assert unmasked_whiten(x, MASK).flatten().tolist() == pytest.approx(wanted)
    with pytest.raises(ValueError, match="expected shape"):
        unmasked_whiten(x[:1], MASK)


def test_whitening_by_hand():
    advantages = torch.tensor([[1.0, 3.0], [8.0, 100.0]])
    masked = [(value - 4) / (26 / 3) ** 0.5 for value in (1, 3, 8)] + [0]
    for how in ("masked", "minibatch"):
        white = whiten(advantages, MASK, Conventions(whitening=how))
        assert white.flatten().tolist() == pytest.approx(masked)
    # The pad counts as 0: mean 3, variance (4 + 0 + 25 + 9) / 4 = 9.5. Tokens are not centred.
    white = whiten(advantages, MASK, Conventions(whitening="unmasked"))
    assert white.flatten().tolist() == pytest.approx([-2 / 9.5**0.5, 0, 5 / 9.5**0.5, 0])
    assert whiten(advantages, MASK, Conventions(whitening="none")) is advantages


def test_ppo_whitens_each_minibatch_by_itself(reference, monkeypatch):
    seen = []

    def spy(logp, old_logp, advantages, mask, *rest):
        seen.append(advantages[mask])
        return policy_loss(logp, old_logp, advantages, mask, *rest)

    policy_loss = ppo.ppo_policy_loss
    monkeypatch.setattr(ppo, "ppo_policy_loss", spy)
    for how in ("minibatch", "masked"):
        setup, _ = make_setup(reference, reference, budget=32)
        config = PPOConfig(
            whitening=how, prompts_per_step=32, minibatches=2, epochs=1, value_warmup=0
        )
        PPO(config).train(setup)
    (a, b), (c, d) = seen[:2], seen[2:]
    for part in (a, b, torch.cat([c, d])):
        assert float(part.mean()) == pytest.approx(0, abs=1e-5)
        assert float(part.var(correction=0)) == pytest.approx(1, abs=1e-4)
    assert abs(float(c.mean())) > 1e-3


def test_the_sum_is_per_response():
    x = torch.tensor([[1.0, 2.0], [4.0, 100.0]])
    assert float(aggregate(x, MASK, "sum")) == 3.5


# The KL in the loss

LOGITS = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
REFERENCE = torch.tensor([0.1, 0.4, -0.8], dtype=torch.float64).log_softmax(-1)


def exact_gradient(quantity):
    """The gradient at LOGITS of a function of the log-probabilities of three outcomes."""
    logits = LOGITS.clone().requires_grad_()
    return torch.autograd.grad(quantity(logits.log_softmax(-1)), logits)[0]


def expected_gradient(estimator, corrected):
    """Enumerated: each outcome's gradient, weighted by its probability when sampled."""
    conventions = Conventions(
        kl_placement="loss", kl_estimator=estimator, kl_ratio_correction=corrected
    )
    old = LOGITS.log_softmax(-1)

    def mean_estimate(logp):
        estimate = kl_estimate(logp[:, None], REFERENCE[:, None], old[:, None], conventions)
        return (old.exp() * estimate[:, 0]).sum()

    return exact_gradient(mean_estimate)


def kl(logp):
    return (logp.exp() * (logp - REFERENCE)).sum()


def reverse_kl(logp):
    return (REFERENCE.exp() * (REFERENCE - logp)).sum()


def half_square(logp):
    return (logp.exp() * (logp - REFERENCE).square()).sum() / 2


@pytest.mark.parametrize(
    ("estimator", "corrected", "follows"),
    [
        ("k1", False, None),
        ("k2", False, kl),
        ("k3", False, reverse_kl),
        ("k1", True, kl),
        ("k2", True, half_square),
        ("k3", True, kl),
    ],
)
def test_what_each_estimate_in_the_loss_follows(estimator, corrected, follows):
    wanted = torch.zeros(3, dtype=torch.float64) if follows is None else exact_gradient(follows)
    torch.testing.assert_close(expected_gradient(estimator, corrected), wanted)
    # Three different directions, none of them small.
    assert all(exact_gradient(f).abs().max() > 0.05 for f in (kl, reverse_kl, half_square))
    assert not torch.allclose(exact_gradient(kl), exact_gradient(reverse_kl), rtol=0.1)


def test_the_kl_loss_is_aggregated_over_response_tokens():
    samples = make_samples(logprobs=[[-1.0, -1.0], [-1.0, -1.0]])
    logp, logp_ref = torch.full((2, 2), -1.0), torch.tensor([[-2.0, -4.0], [-3.0, 50.0]])
    setup = SimpleNamespace(task=SimpleNamespace(max_response_tokens=4))
    for aggregation, wanted in (
        ("sum", 3.0),
        ("token", 2.0),
        ("sequence", 2.0),
        ("constant", 0.75),
    ):
        conventions = Conventions(kl_placement="loss", aggregation=aggregation)
        assert float(kl_loss(setup, samples, logp, logp_ref, conventions)) == wanted


def test_the_full_kl_in_the_loss_sums_over_the_vocabulary():
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
    wanted = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    setup = SimpleNamespace(
        task=Identity(),
        policy=SimpleNamespace(response_logprobs=lambda samples: p.log().expand(2, 2, 2)),
        reference=SimpleNamespace(response_logprobs=lambda samples: q.log().expand(2, 2, 2)),
    )
    conventions = Conventions(kl_placement="loss", kl_estimator="full", aggregation="sum")
    zeros = torch.zeros(2, 2)
    loss = kl_loss(setup, make_samples(), zeros, zeros, conventions)
    assert float(loss) == pytest.approx(1.5 * wanted)  # two tokens and one


# Training


class Roomy(Identity):
    """The identity with room after EOS, so that there is a first pad."""

    max_response_tokens = 4


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ["reinforce", "ppo"])
def test_every_preset_learns_the_identity(name, preset, reference):
    setup, logs = make_setup(reference, reference, budget=64 * 20)
    setup.task = Roomy()
    shared = {"conventions": preset, "lr": 2e-3, "kl_coef": 0.02}
    if name == "ppo":
        agent = PPO(PPOConfig(**shared, value_lr=3e-3, minibatches=2))
    else:
        groups = {"prompts_per_step": 16, "samples_per_prompt": 4}
        agent = Reinforce(ReinforceConfig(**shared, **groups, baseline="leave_one_out"))
    agent.train(setup)
    assert right_answer(agent.policy) > 0.6 > 0.45 > right_answer(reference)
    assert "kl_loss" not in logs[-1]


@pytest.mark.parametrize(
    ("options", "pulled"),
    [
        ({"kl_estimator": "k1"}, False),
        ({"kl_estimator": "k3", "kl_ratio_correction": True}, True),
        pytest.param({"kl_estimator": "k2"}, True, marks=pytest.mark.slow),
        pytest.param({"kl_estimator": "full"}, True, marks=pytest.mark.slow),
    ],
    ids=["k1", "k3 corrected", "k2", "full"],
)
def test_where_the_kl_in_the_loss_lets_the_policy_settle(options, pulled, reference):
    # As `test_settles_where_the_regularised_optimum_is`: p e / (p e + 1 - p) = 0.644 with beta = 1.
    setup, logs = make_setup(reference, reference, budget=64 * 60)
    config = ReinforceConfig(lr=1e-3, kl_coef=1.0, kl_placement="loss", **options)
    agent = Reinforce(config)
    agent.train(setup)
    assert logs[-1]["kl_loss"] == pytest.approx(logs[-1]["kl_seq"], abs=0.3)
    if pulled:
        assert right_answer(agent.policy) == pytest.approx(0.644, abs=0.06)
    else:
        # Pushed about by noise alone.
        assert right_answer(agent.policy) > 0.75


def test_ppo_holds_the_policy_by_the_kl_in_its_loss(reference):
    ends = []
    for kl_coef in (0.0, 2.0):
        setup, logs = make_setup(reference, reference, budget=64 * 30)
        options = {"kl_placement": "loss", "kl_estimator": "k3", "kl_ratio_correction": True}
        agent = PPO(PPOConfig(lr=1e-3, value_lr=3e-3, kl_coef=kl_coef, **options))
        agent.train(setup)
        ends.append((right_answer(agent.policy), logs[-1]["kl_seq"]))
        assert {"kl_loss", "policy_loss"} <= logs[-1].keys()
    (free, far), (held, near) = ends
    assert free > 0.8 > 0.75 > held
    assert near < far / 2


def test_a_config_has_no_switch_that_is_none_of_its_agents():
    switches = {f.name for f in fields(Conventions)}
    policy_gradient = switches - {"ipo_normalisation"}
    assert switches & {f.name for f in fields(PPOConfig)} == policy_gradient - {
        "baseline",
        "kl_in_baseline",
    }
    assert switches & {f.name for f in fields(ReinforceConfig)} == policy_gradient - {
        "reward_token"
    }
    assert switches & {f.name for f in fields(DPOConfig)} == {"ipo_normalisation"}
