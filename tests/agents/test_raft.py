"""RAFT: what it keeps and its loss by hand, and where imitation of the best ends by enumeration."""

import numpy as np
import pytest
import torch
from test_agents import make_reference, make_setup, right_answer

from textgym.agents.base import Setup, enumerated, make_config
from textgym.agents.raft import RAFT, RAFTConfig, kept_rows
from textgym.errors import ConfigError
from textgym.functional import best_of_n_distribution
from textgym.metrics.exact import kl, tilted
from textgym.models.policy import load_policy
from textgym.rollout import rollout, score
from textgym.seeding import Streams
from textgym.tasks import load_task
from textgym.types import Budget


@pytest.fixture(scope="module")
def reference():
    return make_reference()


@pytest.fixture(scope="module")
def frontier():
    task = load_task("known-frontier")
    return task, load_policy(task.language_model()).freeze()


def train_on(task, policy, budget, **options):
    logs = []
    agent = RAFT(RAFTConfig(**options))
    setup = Setup(
        task,
        policy.copy(),
        policy,
        Budget(budget),
        Streams(0),
        lambda _, metrics: logs.append(metrics),
    )
    agent.train(setup)
    return agent, logs


def test_the_best_of_each_prompt_are_kept_and_ties_go_to_the_first_sampled():
    scores = torch.tensor([1.0, 3.0, 2.0, 3.0, 7.0, 7.0, 7.0, 7.0, -1.0, -3.0, -2.0, -9.0])
    assert kept_rows(scores, 4, 1).tolist() == [1, 4, 8]
    assert kept_rows(scores, 4, 3).tolist() == [1, 3, 2, 4, 5, 6, 8, 10, 9]
    assert sorted(kept_rows(scores, 4, 4).tolist()) == list(range(12))


@pytest.mark.parametrize("keep", [1, 3])
def test_the_loss_is_the_mean_nll_of_the_tokens_kept(keep, reference):
    setup, logs = make_setup(reference, reference, budget=20, seed=5)
    config = RAFTConfig(prompts_per_step=4, samples_per_prompt=5, keep=keep, epochs=1)
    RAFT(config).train(setup)
    # The same draw again; before the first step the policy is the reference.
    again, _ = make_setup(reference, reference, budget=20, seed=5)
    order = again.streams.numpy("prompts").permutation(4)
    rows = again.task.prompts("train").select(order.tolist())
    samples = score(
        rollout(
            reference,
            again.task,
            rows,
            samples_per_prompt=5,
            generator=again.streams.torch("sampling"),
        ),
        again.task,
    )
    nll = tokens = reward = 0.0
    for n in range(4):
        ranked = sorted(range(5 * n, 5 * n + 5), key=lambda i: -samples.rewards[i].item())
        for i in ranked[:keep]:
            mask = samples.response_mask[i]
            nll -= samples.policy_logprobs[i][mask].sum().item()
            tokens += mask.sum().item()
            reward += samples.rewards[i].item()
    assert logs[0]["loss"] == pytest.approx(nll / tokens, abs=1e-5)
    assert logs[0]["kept_reward"] == pytest.approx(reward / (4 * keep))
    assert logs[0]["reward"] == pytest.approx(samples.rewards.mean().item())
    assert logs[0]["kl_seq"] == pytest.approx(0, abs=1e-5)
    assert setup.budget.used == setup.task.scored == 20


def test_it_learns_the_identity(reference):
    setup, logs = make_setup(reference, reference, budget=64 * 30)
    agent = RAFT(RAFTConfig(lr=1e-3, epochs=2))
    agent.train(setup)
    assert right_answer(agent.policy) > 0.85
    assert logs[-1]["reward"] > 0.8 > 0.6 > logs[0]["reward"]
    assert logs[0]["kept_reward"] > logs[0]["reward"] + 0.3


def test_keeping_all_selects_nothing(reference):
    setup, _ = make_setup(reference, reference, budget=64 * 15)
    agent = RAFT(RAFTConfig(lr=1e-4, keep=8))
    agent.train(setup)
    assert right_answer(agent.policy) == pytest.approx(right_answer(reference), abs=0.1)


def test_of_the_references_samples_it_learns_best_of_k(frontier):
    task, policy = frontier
    agent, logs = train_on(
        task,
        policy,
        budget=4 * 64 * 60,
        source="reference",
        samples_per_prompt=4,
        prompts_per_step=64,
        epochs=1,
        lr=4e-3,
    )
    base, found = (enumerated(p, task, task.asked) for p in (policy, agent.policy))
    target = np.stack(
        [best_of_n_distribution(p, r, 4) for p, r in zip(base, task.tables.rewards, strict=True)]
    )
    assert kl(target, found).mean() < 0.12 < 0.6 < kl(target, base).mean()
    # The data stay the reference's to the end.
    assert all(log["kl_seq"] == pytest.approx(0, abs=1e-4) for log in logs)
    assert np.mean([log["reward"] for log in logs]) == pytest.approx(
        (base * task.tables.rewards).sum(1).mean(), abs=0.02
    )


def test_a_price_on_kl_holds_it_at_the_regularised_optimum(frontier):
    task, policy = frontier
    ends = {}
    for price in (0.0, 0.3):
        agent, _ = train_on(
            task,
            policy,
            budget=4 * 64 * 60,
            kl_coef=price,
            samples_per_prompt=4,
            prompts_per_step=64,
            epochs=1,
            lr=4e-3,
        )
        ends[price] = enumerated(agent.policy, task, task.asked)
    base, rewards = enumerated(policy, task, task.asked), task.tables.rewards
    optimum = tilted(base, rewards, 0.3)
    assert kl(ends[0.3], optimum).mean() < 0.08 < 0.3 < kl(base, optimum).mean()
    # Without it the best answer that is ever sampled takes all.
    assert (ends[0.0] * rewards).sum(1).mean() > 0.92 * rewards.max(1).mean()
    assert kl(ends[0.0], optimum).mean() > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0}, "lr must be > 0, got 0"),
        ({"kl_coef": -0.1}, "kl_coef must be >= 0, got -0.1"),
        ({"keep": 9}, "keep must be between 1 and samples_per_prompt, 8, got 9"),
        ({"keep": 0}, "keep must be between 1"),
        ({"epochs": 0}, "epochs must be >= 1, got 8, 8, 0"),
        ({"source": "referense"}, "unknown source 'referense'; did you mean 'reference'"),
        ({"source": "reference", "kl_coef": 0.1}, "kl_coef must be 0 where source"),
    ],
)
def test_settings_outside_their_domain_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make_config(RAFTConfig, options)
