"""BOND against best-of-n's exact distribution: the gradient, both parts, and where it ends."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_agents import make_reference, make_setup

from textgym.agents.base import Setup, enumerated, make_config
from textgym.agents.bond import BOND, BONDConfig, backward_loss, forward_loss, target_log_ratios
from textgym.errors import ConfigError
from textgym.functional import best_of_n_distribution
from textgym.metrics.exact import kl
from textgym.models.enumeration import sequence_logprobs
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


def best_of(n, base, rewards):
    rows = zip(base, rewards, strict=True)
    return np.stack([best_of_n_distribution(p, r, n) for p, r in rows])


def gradient(policy, loss):
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss, policy.parameters(), retain_graph=True)]
    )


def drawn(policy, task, rows, k, seed):
    generator = torch.Generator().manual_seed(seed)
    return score(rollout(policy, task, rows, samples_per_prompt=k, generator=generator), task)


def test_the_gradients_expectation_is_that_of_the_exact_divergences(frontier):
    # At a policy off the reference, of two prompts; so many samples that the noise is small.
    task, reference = frontier
    policy, noise = reference.copy(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.parameters():
            p += 0.1 * p.std(correction=0) * torch.randn(p.shape, generator=noise)
    rows = task.prompts("train").select([0, 1])
    n, prompts = 4, rows["prompt"][:]
    base = enumerated(reference, task, prompts)
    target = torch.from_numpy(best_of(n, base, task.tables.rewards[:2]))
    exact = sequence_logprobs(policy, task.tree, prompts).double()
    backward = (exact.exp() * (exact - target.log())).sum(1).mean()
    forward = -(target * exact).sum(1).mean()

    samples, known = drawn(policy, task, rows, 4000, 2), drawn(reference, task, rows, 4000, 3)
    with torch.no_grad():
        reference_logprobs = reference.logprobs(samples)
    ratios = target_log_ratios(samples, known, n)
    estimates = {
        "backward": backward_loss(policy, samples, reference_logprobs, ratios),
        "forward": forward_loss(policy, known, n),
    }
    assert estimates["forward"].item() == pytest.approx(forward.item(), abs=0.05)
    for part, wanted in (("backward", backward), ("forward", forward)):
        true = gradient(policy, wanted)
        found = gradient(policy, estimates[part])
        assert (found - true).norm() < 0.15 * true.norm(), part


def trained(task, policy, budget, **options):
    logs = []
    agent = BOND(BONDConfig(**options))
    log = lambda _, metrics: logs.append(metrics)  # noqa: E731
    setup = Setup(task, policy.copy(), policy, Budget(budget), Streams(0), log)
    agent.train(setup)
    assert setup.budget.left < options["prompts_per_step"] * (
        options["reference_samples"] + options["samples_per_prompt"]
    )
    return agent, logs


@pytest.mark.parametrize("forward_weight", [0.0, 0.5, 1.0])
def test_it_ends_at_the_best_of_n_distribution(forward_weight, frontier):
    task, policy = frontier
    agent, logs = trained(
        task,
        policy,
        budget=24 * 8 * 100,
        n=4,
        forward_weight=forward_weight,
        reference_samples=16,
        samples_per_prompt=8,
        prompts_per_step=8,
        lr=3e-3,
    )
    base, found = (enumerated(p, task, task.asked) for p in (policy, agent.policy))
    target = best_of(4, base, task.tables.rewards)
    spent, right = kl(found, base).mean(), kl(target, base).mean()
    # The reference is 1.5 nats from it.
    assert kl(found, target).mean() < 0.22 < 1 < kl(base, target).mean()
    assert kl(target, found).mean() < 0.3 < 0.6 < kl(target, base).mean()
    assert spent == pytest.approx(right, abs=0.12)
    # What it logs of itself is what it spends, and how near it thinks it is.
    late = {name: np.mean([log[name] for log in logs[-20:]]) for name in logs[0]}
    assert late["kl_seq"] == pytest.approx(spent, abs=0.1)
    assert abs(late["kl_best_of_n"]) < 0.3 < 0.8 < logs[0]["kl_best_of_n"]
    assert late["reward"] > late["reference_reward"] + 0.15


def test_only_the_rank_of_the_reward_matters(reference):
    rows = make_setup(reference, reference, budget=0)[0].task.prompts("train")
    task = make_setup(reference, reference, budget=0)[0].task
    samples, known = drawn(reference, task, rows, 3, 0), drawn(reference, task, rows, 5, 1)
    ranks = torch.randperm(20, generator=torch.Generator().manual_seed(0)).float()
    samples, known = replace(samples, rewards=ranks[:12]), replace(known, rewards=ranks)
    cubed = [replace(s, rewards=(s.rewards - 9) ** 3) for s in (samples, known)]
    assert torch.equal(target_log_ratios(samples, known, 4), target_log_ratios(*cubed, 4))
    assert torch.equal(forward_loss(reference, known, 2), forward_loss(reference, cubed[1], 2))


def test_each_prompt_is_compared_with_its_own_reference_samples(reference):
    task = make_setup(reference, reference, budget=0)[0].task
    rows = task.prompts("train").select([0, 1])
    samples, known = drawn(reference, task, rows, 2, 0), drawn(reference, task, rows, 3, 1)
    samples = replace(samples, rewards=torch.tensor([0.0, 4.0, 4.0, 20.0]))
    known = replace(known, rewards=torch.tensor([1.0, 2.0, 3.0, 11.0, 12.0, 13.0]))
    # None ties: 3 F^2 with F = (# + 1/2) / 4; # is 0, 3 and 0, 3.
    wanted = np.log(3 * np.array([0.125, 0.875, 0.125, 0.875]) ** 2)
    assert target_log_ratios(samples, known, 3).numpy() == pytest.approx(wanted, abs=1e-6)


def test_the_forward_loss_by_hand(reference):
    task = make_setup(reference, reference, budget=0)[0].task
    rows = task.prompts("train").select([0, 1])
    known = drawn(reference, task, rows, 3, 1)
    known = replace(known, rewards=torch.tensor([5.0, 1.0, 2.0, 0.0, 0.0, 7.0]))
    nll = -reference.logprobs(known).sum(1)
    # Best of 2 of 3: of the pairs {0,1}, {0,2}, {1,2} the better; of {3,4} either, alike.
    wanted = (2 * nll[0] + nll[2]) / 3 + (2 * nll[5] + 0.5 * nll[3] + 0.5 * nll[4]) / 3
    assert forward_loss(reference, known, 2).item() == pytest.approx(wanted.item() / 2, abs=1e-5)
    # Best of 1 is the reference itself; of all 3, the best alone. Order and padding are nothing.
    assert forward_loss(reference, known, 1).item() == pytest.approx(nll.mean().item(), abs=1e-5)
    best = (nll[0] + nll[5]).item() / 2
    turned = known.select(torch.tensor([5, 4, 3, 2, 1, 0]))
    wide = replace(
        turned,
        response_ids=torch.nn.functional.pad(turned.response_ids, (0, 2)),
        response_mask=torch.nn.functional.pad(turned.response_mask, (0, 2)),
    )
    assert forward_loss(reference, wide, 3).item() == pytest.approx(best, abs=1e-5)


def test_reference_samples_are_booked_too(reference):
    setup, logs = make_setup(reference, reference, budget=100)
    BOND(BONDConfig(n=2, reference_samples=6, samples_per_prompt=2)).train(setup)
    assert len(logs) == 3
    assert setup.budget.used == setup.task.scored == 3 * 4 * (6 + 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be >= 1, got 0"),
        ({"forward_weight": 1.5}, "forward_weight must be between 0 and 1, got 1.5"),
        ({"n": 8, "reference_samples": 7}, "reference_samples must be >= n, 8, got 7"),
        ({"samples_per_prompt": 1}, "samples_per_prompt must be >= 2 to compare, got 1"),
        ({"lr": -1}, "lr must be > 0"),
    ],
)
def test_settings_outside_their_domain_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make_config(BONDConfig, options)
