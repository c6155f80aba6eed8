"""Selection from a pool: soft best-of-n against its exact distribution, diverse sets by hand."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_agents import make_reference, make_setup

from textgym.agents import best_of_n
from textgym.agents.base import Setup, enumerated, make_config
from textgym.agents.best_of_n import BestOfN
from textgym.agents.diverse_best_of_n import DiverseBestOfN, marginal_relevance
from textgym.agents.soft_best_of_n import SoftBestOfN
from textgym.errors import ConfigError
from textgym.metrics.exact import kl, tilted
from textgym.models.policy import load_policy
from textgym.rollout import rollout
from textgym.seeding import Streams
from textgym.tasks import load_task
from textgym.types import Budget


@pytest.fixture(scope="module")
def reference():
    return make_reference()


def trained(agent_class, task, policy, **options):
    agent = agent_class(make_config(agent_class.config_class, options))
    agent.train(Setup(task, policy, policy, Budget(0), Streams(0), lambda *_: None))
    return agent


def oracle(name):
    task = load_task(name)
    return task, load_policy(task.language_model()).freeze()


def pool_of(reference, monkeypatch, rewards, k):
    """The pool that `sample` will draw, whose rewards it will be given."""
    setup, _ = make_setup(reference, reference, budget=0)
    rows = setup.task.prompts("test").select([0])
    monkeypatch.setattr(
        best_of_n, "score", lambda pool, task: replace(pool, rewards=torch.tensor(rewards))
    )
    generator = torch.Generator().manual_seed(7)
    pool = rollout(
        reference, setup.task, rows, samples_per_prompt=len(rewards), generator=generator
    )
    return setup.task, rows, pool


@pytest.mark.parametrize(
    ("name", "n", "temperature"),
    [("known-frontier", 4, 0.2), ("known-frontier", 8, 0.1), ("noisy-reward", 8, 0.6)],
)
def test_soft_best_of_n_samples_from_the_distribution_that_it_states(name, n, temperature):
    task, policy = oracle(name)
    agent = trained(SoftBestOfN, task, policy, n=n, temperature=temperature)
    rows, k = task.prompts("test").select([0]), 3000
    samples = agent.sample(rows, k, torch.Generator().manual_seed(0))
    found = np.bincount([task.texts.index(t) for t in samples.completions], minlength=21) / k
    expected = agent.distribution(task, rows["prompt"][:])[0]
    assert expected.sum() == pytest.approx(1)
    error = np.sqrt(expected * (1 - expected) / k)
    assert (np.abs(found - expected) <= 4 * error + 1 / k).all()
    # Neither the reference nor best-of-n is within that error.
    hard = trained(BestOfN, task, policy, n=n).distribution(task, rows["prompt"][:])[0]
    for other in (enumerated(policy, task, rows["prompt"][:])[0], hard):
        assert (np.abs(found - other) > 5 * error).any()


def test_soft_best_of_n_draws_one_of_each_disjoint_group(reference, monkeypatch):
    # Ten thousand temperatures apart: the choice is certain.
    task, rows, pool = pool_of(reference, monkeypatch, [0.0, 5e3, 1e3, 2e3, 3e3, 4e3], 2)
    agent = trained(SoftBestOfN, task, reference, n=3, temperature=0.1)
    samples = agent.sample(rows, 2, torch.Generator().manual_seed(7))
    assert samples.rewards.tolist() == [5e3, 4e3]
    assert samples.completions == [pool.completions[1], pool.completions[5]]
    assert samples.samples_per_prompt == 2


def test_soft_best_of_n_knows_what_it_spends():
    task, policy = oracle("known-frontier")
    agent = trained(SoftBestOfN, task, policy, n=4, temperature=0.2)
    assert agent.kl_estimates() == {"kl_bound": pytest.approx(math.log(4) - 3 / 4)}
    rows = task.prompts("test")
    agent.sample(rows, 250, torch.Generator().manual_seed(0))
    exact = kl(agent.distribution(task, task.asked), enumerated(policy, task, task.asked)).mean()
    assert agent.kl_estimates()["kl_estimate"] == pytest.approx(exact, abs=0.03)
    assert 0.1 < exact < agent.kl_estimates()["kl_bound"]
    # As n grows it becomes the regularised optimum at the price T, which is where KL stops.
    base = enumerated(policy, task, task.asked)
    optimum = tilted(base, task.tables.rewards, 0.2)
    gaps = [
        kl(
            trained(SoftBestOfN, task, policy, n=n, temperature=0.2).distribution(task, task.asked),
            optimum,
        ).mean()
        for n in (1, 4, 16, 64)
    ]
    # At least as fast as 1 / n.
    assert all(after < before / 4 for before, after in itertools.pairwise(gaps))


def test_marginal_relevance_by_hand():
    quality = np.array([10.0, 9.0, 8.0, 0.0])
    likeness = np.array(
        [[1.0, 0.8, 0.1, 0.0], [0.8, 1.0, 0.5, 0.0], [0.1, 0.5, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    )
    # Relevance is 1, 0.9, 0.8, 0. After 0: 0.9 - 0.8 w, 0.8 - 0.1 w, 0.
    assert marginal_relevance(quality, likeness, 2, 0.0) == [0, 1]
    assert marginal_relevance(quality, likeness, 2, 0.14) == [0, 1]
    assert marginal_relevance(quality, likeness, 2, 0.15) == [0, 2]
    # After 0 and 2 the closest of 1 is 0, at 0.8: 0.9 - 0.8 w against 0, equal at w = 1.125. (With
    # the mean or the last of its likenesses, at 1.38 or 1.8.)
    assert marginal_relevance(quality, likeness, 3, 1.12) == [0, 2, 1]
    assert marginal_relevance(quality, likeness, 3, 1.13) == [0, 2, 3]
    # Scale and origin of the reward do not matter; where all are equal only likeness does.
    assert marginal_relevance(100 * quality - 7, likeness, 3, 1.13) == [0, 2, 3]
    assert marginal_relevance(np.ones(4), likeness, 3, 0.1) == [0, 3, 2]
    assert marginal_relevance(np.ones(4), likeness, 4, 0.0) == [0, 1, 2, 3]


def test_without_weight_it_is_the_best_of_the_whole_pool(reference, monkeypatch):
    task, rows, pool = pool_of(reference, monkeypatch, [0.0, 5.0, 4.0, 2.0, 1.0, 3.0], 2)
    agent = trained(DiverseBestOfN, task, reference, n=3, diversity_weight=0.0)
    samples = agent.sample(rows, 2, torch.Generator().manual_seed(7))
    # Best-of-n's disjoint groups would give 5 and 3.
    assert sorted(samples.rewards.tolist()) == [4.0, 5.0]
    assert set(samples.completions) == {pool.completions[1], pool.completions[2]}
    assert agent.kl_estimates() == {"kl_bound": pytest.approx(math.log(3))}


def test_the_set_comes_in_random_order(reference, monkeypatch):
    task, rows, _ = pool_of(reference, monkeypatch, [3.0, 2.0, 1.0, 0.0], 2)
    agent = trained(DiverseBestOfN, task, reference, n=2, diversity_weight=0.0)
    first = [
        agent.sample(rows, 2, torch.Generator().manual_seed(seed)).rewards[0].item()
        for seed in range(40)
    ]
    assert set(first) == {2.0, 3.0}
    assert 10 <= first.count(3.0) <= 30


def test_one_of_a_pool_is_best_of_n(reference):
    setup, _ = make_setup(reference, reference, budget=0)
    rows = setup.task.prompts("test")
    one, other = (
        trained(kind, setup.task, reference, n=5).sample(rows, 1, torch.Generator().manual_seed(3))
        for kind in (DiverseBestOfN, BestOfN)
    )
    assert one.completions == other.completions
    assert torch.equal(one.rewards, other.rewards)
    assert setup.task.scored == 2 * 4 * 5


@pytest.mark.parametrize("similarity", ["ngram", "embedding"])
def test_weight_buys_different_answers_with_reward(similarity):
    task, policy = oracle("known-frontier")
    rows, kept, rewards = task.prompts("test"), [], []
    for weight in (0.0, 0.5, 50.0):
        agent = trained(
            DiverseBestOfN, task, policy, n=4, diversity_weight=weight, similarity=similarity
        )
        samples = agent.sample(rows, 8, torch.Generator().manual_seed(0))
        by_prompt = [samples.completions[i : i + 8] for i in range(0, 32, 8)]
        kept.append(sum(len(set(texts)) for texts in by_prompt))
        rewards.append(samples.rewards.mean().item())
        # The best of the pool is always among them.
        best = task.tables.rewards.max(axis=1)
        found = samples.rewards.reshape(4, 8).amax(1).numpy()
        assert found == pytest.approx(best, abs=0.1)
    assert kept[0] < kept[1] <= kept[2]
    assert kept[2] == 32
    assert rewards[0] > rewards[1] > rewards[2]


def test_likeness_is_of_words_alone():
    # "a" and "b" share EOS and nothing else.
    task, policy = oracle("known-frontier")
    agent = trained(DiverseBestOfN, task, policy, n=1)
    samples = rollout(
        policy,
        task,
        task.prompts("test").select([0]),
        samples_per_prompt=60,
        generator=torch.Generator().manual_seed(0),
    )
    likeness, short = agent._similarity(samples), 0
    for i, a in enumerate(samples.completions):
        for j, b in enumerate(samples.completions):
            if a == b:
                assert likeness[i, j] == pytest.approx(1)
            elif a and b and not set(a) & set(b) and len(a) == len(b) == 2:
                assert likeness[i, j] == 0
            elif len(a) == len(b) == 1:
                # No letter is shared, and both are too short for pairs: alike in that.
                assert likeness[i, j] == pytest.approx(0.5)
                short += 1
    assert short, "answers of one letter, which end with EOS, are among them"
    # Padding changes nothing.
    wide = replace(
        samples,
        response_ids=torch.nn.functional.pad(samples.response_ids, (0, 3), value=1),
        response_mask=torch.nn.functional.pad(samples.response_mask, (0, 3)),
    )
    assert np.array_equal(agent._similarity(wide), likeness)


@pytest.mark.parametrize(
    ("agent_class", "options", "message"),
    [
        (SoftBestOfN, {"temperature": 0}, "temperature must be > 0, got 0"),
        (SoftBestOfN, {"n": 0}, "n must be >= 1, got 0"),
        (DiverseBestOfN, {"diversity_weight": -1}, "diversity_weight must be >= 0, got -1"),
        (DiverseBestOfN, {"similarity": "ngrams"}, "unknown similarity 'ngrams'; did you mean"),
    ],
)
def test_settings_outside_their_domain_are_refused(agent_class, options, message):
    with pytest.raises(ConfigError, match=message):
        make_config(agent_class.config_class, options)
