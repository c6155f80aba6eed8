"""Direct preferences on the identity task, pairs by hand, and where the budget goes."""

import math

import pytest
import torch
from test_agents import make_reference, make_setup, right_answer

from textgym.agents import base, dpo
from textgym.agents.dpo import DPO, DPOConfig, bradley_terry_pairs, preference_pairs
from textgym.errors import ConfigError
from textgym.rollout import rollout

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


def test_with_bradley_terry_labels_dpo_learns_the_log_odds_that_the_reward_says(reference):
    # The optimum's margin over the reference is (r_a - r_b) / beta = 2 nats for right against
    # wrong. Best against worst has no such end.
    ends = {}
    for labels in ("bradley_terry", "best"):
        setup, logs = make_setup(reference, reference, budget=64 * 200)
        config = DPOConfig(**FAST, beta=0.5, labels=labels)
        DPO(config).train(setup)
        late = logs[-20:]
        ends[labels] = sum(log["margin"] for log in late) / len(late)
    # Of the pairs that differ in reward, sigmoid(1) = 0.731 are won by the right answer; all
    # others are won by either as often and have mean margin 0. P(differ) = 2 * 0.4 * 0.6.
    assert ends["bradley_terry"] == pytest.approx(0.48 * 2 * (2 * 0.731 - 1), abs=0.2)
    assert ends["best"] > 4


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

    def spy(chosen, rejected, beta):
        seen["ratios"] = torch.cat([chosen, rejected]).detach()
        return (chosen - rejected).square().mean()

    def shifted(*args, **kwargs):
        samples = rollout(*args, **kwargs)
        # Each token 1 nat less likely under the reference: log-ratios of 1 per token.
        samples.policy_logprobs = samples.policy_logprobs - samples.response_mask.float()
        seen["lengths"] = samples.response_mask.sum(1)
        return samples

    monkeypatch.setattr(base, "rollout", shifted)
    monkeypatch.setitem(dpo.LOSSES, loss, spy)
    monkeypatch.setattr(
        dpo, "preference_pairs", lambda rewards, k: (torch.tensor([0]), torch.tensor([4]))
    )
    setup, _ = make_setup(reference, reference, budget=64)
    config = DPOConfig(**FAST, loss=loss, ipo_normalisation=normalisation, epochs=1)
    DPO(config).train(setup)
    assert seen["lengths"][[0, 4]].tolist() == [2, 2]  # a letter and EOS
    assert seen["ratios"].tolist() == pytest.approx(wanted, abs=1e-4)


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
        ({"epochs": 0}, "epochs must be >= 1, got 16 and 0"),
    ],
)
def test_settings_outside_their_domain_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DPOConfig(**options)
