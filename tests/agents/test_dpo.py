"""DPO, IPO and online DPO on tasks with known ends, pairs by hand, and where the budget goes."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from test_agents import make_reference, make_setup, right_answer

from textgym.agents import base, dpo
from textgym.agents.dpo import DPO, DPOConfig, bradley_terry_pairs, pair_loss, preference_pairs
from textgym.agents.ipo import IPO, IPOConfig
from textgym.agents.online_dpo import OnlineDPO, OnlineDPOConfig
from textgym.errors import ConfigError
from textgym.metrics import exact
from textgym.models.policy import load_policy
from textgym.rollout import rollout
from textgym.tasks.oracle.two_modes import TwoModes

FAST = {"lr": 3e-3, "prompts_per_step": 16, "samples_per_prompt": 4}


@pytest.fixture(scope="module")
def reference():
    return make_reference()


def test_pairs_are_the_best_and_the_worst_and_ties_are_dropped():
    rewards = torch.tensor([1.0, 3.0, 2.0, 7.0, 7.0, 7.0, 0.0, -1.0, -1.0])
    chosen, rejected = preference_pairs(rewards, 3)
    assert chosen.tolist() == [1, 6]
    assert rejected.tolist() == [0, 7]  # the first of the two worst


def test_dpo_learns_the_identity_from_the_references_own_answers(reference):
    setup, logs = make_setup(reference, reference, budget=64 * 60)
    agent = DPO(DPOConfig(**FAST))
    agent.train(setup)
    # Where the rest of the mass goes is a matter of luck: answers that the reference never gives
    # are not compared.
    assert right_answer(agent.policy) > 0.6 > 0.45 > right_answer(reference)
    assert setup.budget.used == setup.task.scored == 64 * 60
    late = {name: sum(log[name] for log in logs[-10:]) / 10 for name in logs[-1]}
    assert late["accuracy"] > 0.8
    assert late["margin"] > 3 > 1 > logs[0]["margin"]
    assert late["rejected_logprob"] < -5 < -2.5 < logs[0]["rejected_logprob"]
    # Offline: the data are the reference's to the end.
    assert abs(logs[-1]["reference_reward"] - right_answer(reference)) < 0.25


def test_bradley_terry_pairs_are_disjoint_and_won_as_often_as_the_rewards_say():
    k, prompts = 5, 4000
    rewards = torch.tensor([0.0, 2.0, 1.0, 1.0, 9.0]).repeat(prompts)
    chosen, rejected = bradley_terry_pairs(rewards, k, torch.Generator().manual_seed(0))
    assert len(chosen) == 2 * prompts
    pairs = torch.stack([torch.minimum(chosen, rejected), torch.maximum(chosen, rejected)])
    assert (pairs[0] % k).tolist() == [0, 2] * prompts  # the fifth has no partner
    assert torch.equal(pairs[1], pairs[0] + 1)
    won = (chosen > rejected).float().reshape(prompts, 2).mean(0)
    # sigmoid(2) and sigmoid(0), within 4 standard errors.
    assert won.tolist() == pytest.approx([0.881, 0.5], abs=0.03)


@pytest.mark.parametrize(("normalisation", "tokens"), [("mean", 2), ("sum", 1)])
def test_ipo_moves_pairs_to_its_distance_and_no_further(normalisation, tokens, reference):
    setup, logs = make_setup(reference, reference, budget=64 * 60)
    config = DPOConfig(lr=1e-3, loss="ipo", beta=0.5, ipo_normalisation=normalisation)
    agent = DPO(config)
    agent.train(setup)
    late = logs[-10:]
    # 1 / (2 beta) = 1 nat per token or per response; every response here is a letter and EOS.
    assert sum(log["margin"] for log in late) / 10 == pytest.approx(1, abs=0.1)
    gap = sum(log["chosen_logprob"] - log["rejected_logprob"] for log in late) / 10
    # Right and wrong answers begin log(0.4 / 0.2) apart.
    assert gap == pytest.approx(math.log(2) + tokens, abs=0.3)


@pytest.mark.parametrize(
    ("loss", "normalisation", "wanted"),
    [("ipo", "mean", [1.0, 1.0]), ("ipo", "sum", [2.0, 2.0]), ("dpo", "mean", [2.0, 2.0])],
)
def test_ipo_takes_means_or_sums_over_tokens_and_dpo_sums(
    loss, normalisation, wanted, reference, monkeypatch
):
    seen = {}

    def spy(chosen, rejected, *_):
        seen["ratios"] = torch.cat([chosen, rejected]).detach()
        return (chosen - rejected).square().mean()

    def shifted(*args, **kwargs):
        samples = rollout(*args, **kwargs)
        # Each token 1 nat less likely under the reference: log-ratios of 1 per token.
        samples.policy_logprobs = samples.policy_logprobs - samples.response_mask.float()
        seen["lengths"] = samples.response_mask.sum(1)
        return samples

    monkeypatch.setattr(base, "rollout", shifted)
    monkeypatch.setattr(dpo, f"{loss}_loss", spy)
    monkeypatch.setattr(
        dpo, "preference_pairs", lambda rewards, k: (torch.tensor([0]), torch.tensor([4]))
    )
    setup, _ = make_setup(reference, reference, budget=64)
    config = DPOConfig(**FAST, loss=loss, ipo_normalisation=normalisation, epochs=1)
    DPO(config).train(setup)
    assert seen["lengths"][[0, 4]].tolist() == [2, 2]  # a letter and EOS
    assert seen["ratios"].tolist() == pytest.approx(wanted, abs=1e-4)


PRICE = 0.4
NOISY = {
    "lr": 2e-3,
    "beta": PRICE,
    "labels": "bradley_terry",
    "prompts_per_step": 16,
    "samples_per_prompt": 16,
    "epochs": 1,
}


@pytest.fixture(scope="module")
def two_modes():
    """The answers A and B, right 9 times and once in ten, and a reference that gives both alike."""
    task = TwoModes(right=0.9)
    return task, load_policy(task.language_model()).freeze()


def trained(agent, two_modes, steps=60):
    """The probability of A among A and B after `steps` batches, and the logs."""
    task, reference = two_modes
    setup, logs = make_setup(reference, reference, budget=256 * steps)
    agent.train(replace(setup, task=task))
    silence, a, b = agent.distribution(task, [""])[0]
    assert silence < 0.02
    return a / (a + b), logs


def test_on_two_modes_each_divergence_keeps_what_its_optimum_says(two_modes):
    # The gap of 0.8 at a price of 0.4 is 2. With d = 2 p - 1: 2 atanh d = 2 for reverse KL,
    # 2 d / (1 - d^2) = 2 for forward KL, (1 + d) (2 - d) / ((1 - d) (2 + d)) = e^2 for js.
    optimum = {"forward_kl": 0.809, "reverse_kl": 0.881, "js": 0.951}
    reached = {
        name: trained(DPO(DPOConfig(**NOISY, divergence=name)), two_modes)[0] for name in optimum
    }
    assert reached == pytest.approx(optimum, abs=0.05)
    # On the same comparisons, forward KL ends with more entropy and js with less.
    assert reached["forward_kl"] + 0.03 < reached["reverse_kl"] < reached["js"] - 0.03


def test_best_against_worst_has_no_end(two_modes):
    # The same price, but a comparison whose outcome is certain; smoothing gives it an end again.
    config = DPOConfig(**NOISY | {"labels": "best"})
    p, _ = trained(DPO(config), two_modes)
    assert p > 0.97
    held, _ = trained(DPO(replace(config, label_smoothing=0.25)), two_modes)
    assert math.log(held / (1 - held)) == pytest.approx(math.log(3) / PRICE, abs=0.4)


def test_online_dpo_ends_where_dpo_does_on_samples_of_its_own(two_modes):
    task, _ = two_modes
    p, logs = trained(OnlineDPO(OnlineDPOConfig(**NOISY)), two_modes)
    tables = task.tables
    (tilted,) = exact.tilted(tables.known, tables.rewards, PRICE)
    assert p == pytest.approx(tilted[1] / (tilted[1] + tilted[2]), abs=0.05)
    # The data are the policy's: their reward and their KL grow with it.
    late = logs[-10:]
    assert sum(log["reward"] for log in late) / 10 > 0.75 > 0.55 > logs[0]["reward"]
    assert sum(log["kl_seq"] for log in late) / 10 > 0.2
    assert logs[0]["kl_seq"] == pytest.approx(0, abs=1e-5)


def test_ipo_on_noisy_labels_ends_at_its_own_distance(two_modes):
    p, _ = trained(IPO(IPOConfig(**NOISY, ipo_normalisation="sum")), two_modes)
    # (sigmoid(0.8) - 1/2) / beta
    assert math.log(p / (1 - p)) == pytest.approx((0.69 - 0.5) / PRICE, abs=0.2)


def test_ipo_is_dpos_loop_under_its_loss(reference):
    runs = []
    for agent in (IPO(IPOConfig(lr=1e-3)), DPO(DPOConfig(lr=1e-3, loss="ipo"))):
        setup, logs = make_setup(reference, reference, budget=64 * 3)
        agent.train(setup)
        runs.append(logs)
    assert len(runs[0]) == 3
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_smoothing": 0.2},
        {"divergence": "forward_kl"},
        {"divergence": "js"},
        {"divergence": "alpha", "alpha": 0.3},
        {"loss": "ipo"},
        {"loss": "ipo", "ipo_normalisation": "sum"},
    ],
)
def test_padding_and_the_order_of_pairs_change_nothing(options):
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]]).bool()
    logprobs, reference_logprobs = -torch.rand((2, 4, 3), generator=generator) * mask
    config = DPOConfig(**options)

    def loss(rows, width):
        pad = torch.nn.functional.pad
        x, y, m = (pad(t[rows], (0, width)) for t in (logprobs, reference_logprobs, mask))
        return pair_loss(config, x, y, SimpleNamespace(response_mask=m))

    plain, metrics = loss([0, 1, 2, 3], 0)
    for rows, width in (([0, 1, 2, 3], 4), ([1, 0, 3, 2], 0)):
        other, its_metrics = loss(rows, width)
        torch.testing.assert_close(other, plain)
        assert its_metrics == pytest.approx(metrics, abs=1e-6)
    assert loss([2, 1, 0, 3], 0)[0] != plain  # another pair


def test_a_pairs_loss_by_hand():
    # Log-ratios: 3 nats over 2 tokens, and -1 over 1. The margin is 4.
    logprobs, reference_logprobs = torch.tensor([[[-1.0, -1], [-3, 0]], [[-3.0, -2], [-2, 0]]])
    pairs = SimpleNamespace(response_mask=torch.tensor([[True, True], [True, False]]))

    def loss(**options):
        return pair_loss(DPOConfig(**options), logprobs, reference_logprobs, pairs)

    value, metrics = loss(beta=0.5)
    assert value.item() == pytest.approx(math.log(1 + math.exp(-2)))
    assert metrics == {
        "margin": 4,
        "accuracy": 1,
        "chosen_logprob": -2,
        "rejected_logprob": -3,
    }
    value, metrics = loss(beta=0.5, divergence="forward_kl")
    assert value.item() == pytest.approx(
        math.log(1 + math.exp(-0.5 * (math.e - math.exp(-3)))), rel=1e-5
    )
    assert metrics["margin"] == 4  # of log-ratios, whatever the price
    value, _ = loss(beta=0.5, label_smoothing=0.1)
    wanted = 0.9 * math.log(1 + math.exp(-2)) + 0.1 * math.log(1 + math.exp(2))
    assert value.item() == pytest.approx(wanted)
    value, metrics = loss(beta=0.5, loss="ipo")
    assert value.item() == pytest.approx((1.5 + 1 - 1) ** 2)
    assert metrics["margin"] == 2.5


def test_a_batch_of_ties_is_logged_and_passed_over(reference):
    setup, logs = make_setup(reference, reference, budget=128)
    setup.task.reward = lambda prompts, completions, **columns: [0.5] * len(completions)
    agent = DPO(DPOConfig(**FAST))
    agent.train(setup)
    assert logs == [{"step": i, "pairs": 0.0, "reference_reward": 0.5} for i in (0, 1)]
    assert setup.budget.used == 128
    same = map(torch.equal, agent.policy.model.parameters(), reference.model.parameters())
    assert all(same)


def test_repeats_for_a_seed(reference):
    outcomes = []
    for seed in (3, 3, 4):
        setup, logs = make_setup(reference, reference, budget=192, seed=seed)
        DPO(DPOConfig(**FAST)).train(setup)
        outcomes.append(logs)
    assert outcomes[0] == outcomes[1] != outcomes[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "ippo"}, "unknown loss 'ippo'; did you mean 'ipo'"),
        ({"labels": "bets"}, "unknown labels 'bets'; did you mean 'best'"),
        ({"beta": 0}, "beta must be > 0, got 0"),
        ({"samples_per_prompt": 1}, "a pair needs samples_per_prompt >= 2, got 1"),
        ({"ipo_normalisation": "means"}, "did you mean 'mean'"),
        ({"lr": 0}, "lr must be > 0"),
        ({"max_grad_norm": 0}, "max_grad_norm must be > 0"),
        ({"label_smoothing": 0.5}, r"label_smoothing must be in \[0, 0.5\), got 0.5"),
        ({"divergence": "forward"}, "unknown divergence 'forward'; did you mean 'forward_kl'"),
        ({"alpha": 0}, r"alpha must be in \(0, 1\], got 0"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing and divergence are DPO's"),
        ({"loss": "ipo", "divergence": "js"}, "label_smoothing and divergence are DPO's"),
        ({"epochs": 0}, "epochs must be >= 1, got 16 and 0"),
    ],
)
def test_settings_outside_their_domain_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DPOConfig(**options)


def test_ipo_has_one_loss():
    with pytest.raises(ConfigError, match="the loss of ipo is 'ipo', got 'dpo'"):
        IPOConfig(loss="dpo")
