"""Every estimator against the truth, on tasks whose every response can be written down.

A check takes the thing that it checks, so that the same check can be run on a thing broken on
purpose: each kind of error planted here must be found.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from estimator_support import (
    World,
    WrongEstimateError,
    advantage_deviation,
    agent_gradients,
    all_draws,
    brute_force_gae,
    check_estimate,
    check_gradient,
    check_mean,
    demand,
    expected_gradient,
    expected_per_token,
    pair_cosine,
    pair_distinct,
    pair_ead,
    pair_self_bleu,
    pair_vendi,
    perturbed,
    random_policy,
    relative_error,
    samples_of,
    symbol_counts,
    true_values,
)

from textgym import functional
from textgym.agents import conventions, ppo, reinforce
from textgym.metrics import diversity, exact, kl, responses, sets
from textgym.tasks.oracle.known_frontier import KnownFrontier
from textgym.tasks.oracle.many_good_answers import ManyGoodAnswers
from textgym.tasks.oracle.stepping_stones import SteppingStones
from textgym.tasks.oracle.two_modes import TwoModes

BETA = 0.2


def make_world(horizon, seed=0, scale=0.1):
    task = KnownFrontier(vocabulary=4, horizon=horizon, prompts=2)
    reference = random_policy(task, seed=seed)
    return World(task, perturbed(reference, scale, seed=7), reference.freeze())


@pytest.fixture(scope="module")
def world():
    return make_world(horizon=3)


@pytest.fixture(scope="module")
def one_token():
    return make_world(horizon=1, scale=0.3)


@pytest.fixture(scope="module")
def padded():
    """Most responses are so short that more than half of a batch is padding."""
    return make_world(horizon=4, seed=5)


@pytest.fixture(scope="module")
def scored(world):
    """Samples, with the log-probabilities [B, T] and distributions [B, T, V] of both policies."""
    samples = samples_of(world.policy, world.task, 6000)
    with torch.no_grad():
        logprobs = [x.logprobs(samples) for x in (world.policy, world.reference)]
        full = [x.response_logprobs(samples) for x in (world.policy, world.reference)]
    return samples, logprobs, full


# --- KL and entropy ----------------------------------------------------------------------------


def check_kl_estimator(estimator, scored, truth):
    samples, (logp, logp_ref), _ = scored
    per_token = estimator(logp, logp_ref).masked_fill(~samples.response_mask, 0)
    check_mean(per_token.sum(1), truth)


def true_kl(world):
    return exact.kl(world.p, world.q).mean()


@pytest.mark.parametrize("estimator", [functional.kl_k1, functional.kl_k3])
def test_k1_and_k3_are_unbiased(estimator, scored, world):
    check_kl_estimator(estimator, scored, true_kl(world))


@pytest.mark.parametrize(
    "estimator",
    [
        lambda logp, logp_ref: functional.kl_k1(logp_ref, logp),
        lambda logp, logp_ref: functional.kl_k3(logp_ref, logp),
        lambda logp, logp_ref: functional.kl_k1(logp, logp_ref)[:, :-1],
        lambda logp, logp_ref: functional.kl_k1(logp, logp_ref).abs(),
        functional.kl_k2,
    ],
    ids=["k1 with the wrong sign", "k3 with exp(+l)", "no last token", "k1 without sign", "k2"],
)
def test_biased_estimators_of_kl_are_found(estimator, scored, world):
    mask = scored[0].response_mask

    def padded(logp, logp_ref):
        x = estimator(logp, logp_ref)
        return torch.nn.functional.pad(x, (0, mask.shape[1] - x.shape[1]))

    with pytest.raises(WrongEstimateError, match="truth"):
        check_kl_estimator(padded, scored, true_kl(world))


@pytest.mark.parametrize("estimator", [functional.kl_k1, functional.kl_k3])
def test_k1_and_k3_are_unbiased_to_rounding(estimator, world):
    assert expected_per_token(world, estimator) == pytest.approx(true_kl(world), rel=1e-4)


def test_k2_is_biased_by_the_third_moment_of_the_ratio(world):
    """Both are E f(pi_ref / pi) with f''(1) = 1; f'''(1) is -2 for KL and -3 for k2.

    So to third order k2 exceeds KL by -1/6 E (pi_ref / pi - 1)^3.
    """

    def excess(logp, logp_ref):
        return functional.kl_k2(logp, logp_ref) - functional.kl_k1(logp, logp_ref)

    def theory(logp, logp_ref):
        return -(((logp_ref - logp).exp() - 1) ** 3) / 6

    shares, off = [], []
    for scale in (0.005, 0.0025):
        near = World(world.task, perturbed(world.reference, scale, seed=7), world.reference)
        bias = expected_per_token(near, excess)
        shares.append(bias / true_kl(near))
        off.append(bias / expected_per_token(near, theory) - 1)
    assert abs(shares[0]) > 0.01
    assert shares[1] / shares[0] == pytest.approx(0.5, abs=0.1)
    assert abs(off[1]) < abs(off[0]) / 2 < 0.25


def test_full_kl_per_response_and_per_token(world, scored):
    samples, _, full = scored
    per_token, mask = functional.full_kl(*full), samples.response_mask
    length = world.length
    check_estimate(kl.kl_seq(per_token, mask), true_kl(world))
    check_estimate(kl.kl_token(per_token, mask), true_kl(world) / length)
    for wrong, truth in (
        (kl.kl_token(per_token, mask), true_kl(world)),
        (kl.kl_seq(per_token, mask), true_kl(world) / length),
        (kl.kl_seq(functional.full_kl(*reversed(full)), mask), true_kl(world)),
    ):
        with pytest.raises(WrongEstimateError, match="truth"):
            check_estimate(wrong, truth)


def test_kl_per_token_is_no_mean_of_means(world, scored):
    """Averaging each response's mean weighs the tokens of short responses more."""
    samples, _, full = scored
    mask = samples.response_mask
    of_each = functional.full_kl(*full).masked_fill(~mask, 0).sum(1) / mask.sum(1)
    truth = true_kl(world) / world.length
    with pytest.raises(WrongEstimateError, match="truth"):
        check_mean(of_each, truth)


def test_entropy_per_response_and_per_token(world, scored):
    samples, (logp, logp_ref), (full, _) = scored
    mask, truth = samples.response_mask, exact.entropy(world.p).mean()
    length = world.length
    check_estimate(kl.entropy_seq(functional.entropy(full), mask), truth)
    check_estimate(kl.entropy_token(functional.entropy(full), mask), truth / length)
    check_estimate(kl.entropy_seq(-logp, mask), truth)
    with pytest.raises(WrongEstimateError, match="truth"):
        check_estimate(kl.entropy_seq(-logp_ref, mask), truth)


# --- best-of-n ---------------------------------------------------------------------------------


@pytest.mark.parametrize("task_class", [KnownFrontier, TwoModes, ManyGoodAnswers, SteppingStones])
def test_best_of_n_never_costs_more_than_the_bound(task_class):
    tables = task_class().tables
    for known, rewards in zip(tables.known, tables.rewards, strict=True):
        best = known[rewards == rewards[known > 0].max()].sum()
        for n in (1, 2, 3, 4, 8, 16, 64, 256, 1024):
            cost = functional.best_of_n_kl(known, rewards, n)
            assert 0 <= cost <= functional.best_of_n_kl_bound(n) + 1e-12
            # Nor more than it costs to give the best answers alone.
            assert cost <= -math.log(best) + 1e-9


def test_best_of_n_nears_the_bound_as_the_largest_probability_shrinks():
    gaps = []
    for horizon in (1, 3, 5, 7):
        tables = KnownFrontier(horizon=horizon, prompts=1).tables
        known, rewards = tables.known[0], tables.rewards[0]
        cost, bound = functional.best_of_n_kl(known, rewards, 8), functional.best_of_n_kl_bound(8)
        gaps.append((known.max(), 1 - cost / bound))
    largest, missing = zip(*gaps, strict=True)
    assert list(largest) == sorted(largest, reverse=True)
    assert list(missing) == sorted(missing, reverse=True)
    assert largest[-1] < 0.01
    assert missing[0] > 0.1 > 0.01 > missing[-1]


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_best_of_n_by_drawing_in_every_way(n):
    """With ties: an outcome twice, and two outcomes of one reward."""
    p, rewards = np.array([0.1, 0.2, 0.3, 0.15, 0.25]), np.array([0.4, 0.9, 0.4, 0.9, -1.0])
    draws, probability = all_draws(p, n)
    chosen = draws[np.arange(len(draws)), rewards[draws].argmax(axis=1)]
    truth = np.bincount(chosen, weights=probability, minlength=len(p))
    np.testing.assert_allclose(functional.best_of_n_distribution(p, rewards, n), truth, atol=1e-12)
    assert functional.best_of_n_kl(p, rewards, n) == pytest.approx(
        (truth * np.log(truth / p)).sum(), abs=1e-12
    )


def check_expected_best_of_n(estimator, n, samples=5):
    """Demands that its mean over all draws of `samples` be the mean best of all draws of n."""
    p, rewards = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.7, -0.4])
    seen, probability = all_draws(p, samples)
    mean = sum(w * estimator(rewards[i], n) for i, w in zip(seen, probability, strict=True))
    draws, weight = all_draws(p, n)
    truth = weight @ rewards[draws].max(axis=1)
    demand(abs(mean - truth) < 1e-12, f"mean {mean:.4f}, truth {truth:.4f}")


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_expected_best_of_n_is_unbiased(n):
    check_expected_best_of_n(functional.expected_best_of_n, n)


def test_drawing_the_pool_with_replacement_is_found():
    """E max of n draws from the samples' own distribution: the plug-in estimate."""

    def plug_in(rewards, n):
        return float(exact.expected_maximum(np.full(len(rewards), 1 / len(rewards)), rewards, n))

    check_expected_best_of_n(plug_in, 1)
    with pytest.raises(WrongEstimateError, match="truth"):
        check_expected_best_of_n(plug_in, 3)


def test_the_expected_best_of_n_on_samples(world):
    samples = samples_of(world.policy, world.task, 32 * 100)
    rewards = np.array(world.task.reward(samples.prompts, samples.completions)).reshape(-1, 32)
    for n in (1, 4, 16):
        values = [functional.expected_best_of_n(group, n) for group in rewards]
        check_mean(values, exact.expected_maximum(world.p, world.rewards, n).mean())


# --- advantages --------------------------------------------------------------------------------


def check_gae(estimator, samples):
    mask, generator = samples.response_mask[:200], torch.Generator().manual_seed(3)
    rewards, values = (torch.randn(mask.shape, generator=generator) for _ in range(2))
    for gamma, lam in itertools.product((1.0, 0.9), (0.0, 0.5, 0.95, 1.0)):
        advantages, returns = estimator(rewards, values, mask, gamma, lam)
        for row, length in enumerate(mask.sum(1).tolist()):
            truth = brute_force_gae(
                rewards[row, :length].tolist(), values[row, :length].tolist(), gamma, lam
            )
            found = advantages[row, :length]
            off = (found - torch.tensor(truth)).abs().max().item()
            demand(off < 1e-5, f"off the truth by {off:.3f}")
            target = found + values[row, :length]
            demand((returns[row, :length] - target).abs().max() < 1e-5, "targets off the truth")
            demand(not advantages[row, length:].any(), "off the truth on pads")


def test_gae_by_brute_force(scored):
    check_gae(functional.gae, scored[0])


def no_mask(rewards, values, mask, gamma, lam):
    return functional.gae(rewards, values, torch.ones_like(mask), gamma, lam)


def undiscounted(rewards, values, mask, gamma, lam):
    return functional.gae(rewards, values, mask, 1.0, lam)


def backwards(rewards, values, mask, gamma, lam):
    turned = functional.gae(rewards.flip(1), values.flip(1), mask.flip(1), gamma, lam)
    return turned[0].flip(1), turned[1].flip(1)


@pytest.mark.parametrize("broken", [no_mask, undiscounted, backwards])
def test_broken_gae_is_found(broken, scored):
    with pytest.raises(WrongEstimateError, match="off the truth"):
        check_gae(broken, scored[0])


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_gae_with_true_values_gives_the_gradient_at_any_lambda(world, lam):
    def advantages(n, rows):
        rewards = functional.rewards_on_last_token(rows.rewards, rows.response_mask)
        values = true_values(world, n, rows)
        return functional.gae(rewards, values, rows.response_mask, 1.0, lam)[0]

    truth = world.gradient_of_objective(beta=0.0)
    assert relative_error(expected_gradient(world, advantages), truth) < 1e-3


def test_wrong_values_bias_the_gradient_unless_lambda_is_one(world):
    def advantages(lam):
        def of(n, rows):
            rewards = functional.rewards_on_last_token(rows.rewards, rows.response_mask)
            values = torch.sin(rows.response_mask.float().cumsum(1) + n)
            return functional.gae(rewards, values, rows.response_mask, 1.0, lam)[0]

        return expected_gradient(world, of)

    truth = world.gradient_of_objective(beta=0.0)
    assert relative_error(advantages(1.0), truth) < 1e-3
    assert relative_error(advantages(0.0), truth) > 0.3


@pytest.mark.parametrize(
    ("advantages", "scale"),
    [(functional.rloo_advantages, 1.0), (functional.dr_grpo_advantages, 0.5)],
)
def test_group_baselines_over_all_pairs(advantages, scale, world):
    """RLOO's expected gradient is exact; the group's mean with the sample in it shrinks it."""

    def mean_over_partners(n, rows):
        r, size = rows.rewards, len(rows)
        pairs = torch.stack([r.repeat_interleave(size), r.repeat(size)], dim=1).flatten()
        of_first = advantages(pairs, 2).reshape(size, size, 2)[..., 0]
        return of_first @ torch.from_numpy(world.p[n]).float()

    truth = scale * world.gradient_of_objective(beta=0.0)
    assert relative_error(expected_gradient(world, mean_over_partners), truth) < 1e-3


# --- the agents' own gradients -----------------------------------------------------------------


def reinforce_gradients(monkeypatch, world, prompts=2, samples=512, batches=12, **options):
    config = reinforce.ReinforceConfig(
        kl_coef=BETA, prompts_per_step=prompts, samples_per_prompt=samples, **options
    )
    agent = reinforce.Reinforce(config)
    return agent_gradients(monkeypatch, reinforce, agent, world, prompts * samples, batches)


def ppo_gradients(monkeypatch, world, batches=12, **options):
    options = {"kl_coef": BETA, "value_warmup": 0, "epochs": 1} | options
    config = ppo.PPOConfig(prompts_per_step=2, samples_per_prompt=512, **options)
    return agent_gradients(monkeypatch, ppo, ppo.PPO(config), world, 2 * 512, batches)


def check_reinforce(monkeypatch, world, **options):
    gradients = reinforce_gradients(monkeypatch, world, **options)
    check_gradient(gradients, world.gradient_of_objective(BETA))


def check_rloo(monkeypatch, world):
    check_reinforce(monkeypatch, world, baseline="leave_one_out", prompts=512, samples=2)


def check_ppo(monkeypatch, world, **options):
    """PPO at its first minibatch, left as derived: not whitened, summed over tokens."""
    gradients = ppo_gradients(monkeypatch, world, whitening="none", aggregation="sum", **options)
    check_gradient(gradients, world.gradient_of_objective(BETA))


def check_ppo_as_it_is(monkeypatch, world, **options):
    """Whitening divides by the advantages' deviation, aggregation by the mean length."""
    gradients = ppo_gradients(monkeypatch, world, **options)
    scale = 1 / (advantage_deviation(world, BETA) * world.length)
    check_gradient(gradients, world.gradient_of_objective(BETA), scale)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"baseline": "none"},
        {"baseline": "moving"},
        {"baseline": "leave_one_out"},
        {"baseline": "leave_one_out", "kl_in_baseline": False},
        {"conventions": "openrlhf"},
    ],
    ids=str,
)
def test_reinforce_follows_the_gradient(options, monkeypatch, world):
    # A preset's EOS rule punishes the cut, which is another objective.
    check_reinforce(monkeypatch, world, **options, eos_rule="none")


def test_the_batch_baseline_shrinks_the_gradient_and_leave_one_out_does_not(monkeypatch, world):
    """By (B - 1) / B: at B = 4, and there by a quarter, the baseline's own sample shows."""
    truth = world.gradient_of_objective(BETA)
    by_batch = reinforce_gradients(monkeypatch, world, samples=2, batches=250)
    check_gradient(by_batch, truth, scale=3 / 4, cosine=0.98)
    with pytest.raises(WrongEstimateError, match="length"):
        check_gradient(by_batch, truth, cosine=0.98)
    check_rloo(monkeypatch, world)


def test_ppo_at_its_first_minibatch_follows_the_gradient(monkeypatch, world):
    check_ppo(monkeypatch, world)


@pytest.mark.parametrize("convention", ["textgym", "trl", "openrlhf"])
def test_ppo_as_it_is_follows_the_gradient(convention, monkeypatch, padded):
    check_ppo_as_it_is(monkeypatch, padded, conventions=convention, eos_rule="none")


def test_a_constant_length_divides_by_the_limit(monkeypatch, world):
    gradients = reinforce_gradients(monkeypatch, world, aggregation="constant")
    check_gradient(gradients, world.gradient_of_objective(BETA), scale=1 / 3)


def local_kl(logp, logp_ref):
    return (logp.exp() * (logp - logp_ref)).sum(-1)


def reverse_kl(logp, logp_ref):
    return (logp_ref.exp() * (logp_ref - logp)).sum(-1)


def half_square(logp, logp_ref):
    return (logp.exp() * (logp - logp_ref).square() / 2).sum(-1)


LOSSES = [
    ("k1", False, None),
    ("k2", False, local_kl),
    ("k3", False, reverse_kl),
    ("full", False, local_kl),
    ("k1", True, local_kl),
    ("k2", True, half_square),
    ("k3", True, local_kl),
]


def check_kl_in_loss(monkeypatch, world, estimator, corrected, divergence):
    """The KL of the states visited enters the loss; how often they are visited does not."""
    gradients = reinforce_gradients(
        monkeypatch,
        world,
        kl_placement="loss",
        kl_estimator=estimator,
        kl_ratio_correction=corrected,
    )
    truth = world.gradient_of_objective(beta=0.0)
    if divergence is not None:
        truth = truth - BETA * world.gradient_over_states(divergence)
    check_gradient(gradients, truth)


@pytest.mark.parametrize(("estimator", "corrected", "divergence"), LOSSES)
def test_kl_in_the_loss_has_the_gradient_that_theory_says(
    estimator, corrected, divergence, monkeypatch, world
):
    check_kl_in_loss(monkeypatch, world, estimator, corrected, divergence)


@pytest.mark.parametrize(("estimator", "corrected", "divergence"), LOSSES)
def test_kl_in_the_loss_of_one_token_responses(
    estimator, corrected, divergence, monkeypatch, one_token
):
    """Where no state follows another, what estimates the gradient of KL gives that of J."""
    options = {
        "kl_placement": "loss",
        "kl_estimator": estimator,
        "kl_ratio_correction": corrected,
    }
    if divergence is local_kl:
        check_reinforce(monkeypatch, one_token, **options)
        check_ppo(monkeypatch, one_token, batches=40, **options)
        return
    with pytest.raises(WrongEstimateError, match="exact gradient"):
        check_reinforce(monkeypatch, one_token, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"kl_placement": "loss", "kl_estimator": "k3"},
        {"kl_estimator": "k2"},
        {"kl_estimator": "k3"},
        {"aggregation": "token"},
        {"aggregation": "sequence"},
        {"eos_rule": "subtract"},
        {"eos_rule": "scale", "eos_penalty": 0.5},
        {"eos_rule": "override"},
        {"whitening": "masked"},
    ],
    ids=str,
)
def test_conventions_that_maximise_something_else_are_found(options, monkeypatch, world):
    with pytest.raises(WrongEstimateError, match="exact gradient"):
        check_reinforce(monkeypatch, world, **options)


@pytest.mark.parametrize(
    "options", [{"whitening": "unmasked"}, {"gae_lambda": 0.5}, {"gamma": 0.5}], ids=str
)
def test_biased_settings_of_ppo_are_found(options, monkeypatch, padded):
    with pytest.raises(WrongEstimateError, match="exact gradient"):
        check_ppo_as_it_is(monkeypatch, padded, **options)


# --- errors planted in the agents --------------------------------------------------------------


def on_the_first_pad(rewards, mask):
    """The task's reward one place late, on a pad unless the limit cut the response."""
    placed = torch.zeros(mask.shape)
    after = mask.sum(1).clamp(max=mask.shape[1] - 1)
    return placed.scatter(1, after[:, None], rewards[:, None])


def unmasked(advantages, mask):
    return functional.unmasked_whiten(advantages.masked_fill(~mask, 0), mask)


def against_the_advantage(loss):
    return lambda logp, advantages, *rest: loss(logp, -advantages, *rest)


def against_the_old_advantage(loss):
    return lambda logp, old, advantages, *rest: loss(logp, old, -advantages, *rest)


def without_eos(loss):
    """The mask ends before the last token, as one inferred from the pad id does."""

    def wrong(logp, advantages, mask, *rest):
        shorter = torch.nn.functional.pad(mask[:, 1:], (0, 1))
        return loss(logp, advantages * shorter, mask, *rest)

    return wrong


def turned(estimator):
    return lambda logp, logp_ref: estimator(logp_ref, logp)


def returns_so_far(rewards, mask):
    return rewards.cumsum(1) * mask


def values_too_late(rewards, values, mask, *rest):
    return functional.gae(rewards, values.roll(-1, 1) * mask, mask, *rest)


def check_corrected_k3(monkeypatch, world):
    check_kl_in_loss(monkeypatch, world, "k3", True, local_kl)


PLANTED = {
    "REINFORCE, sign of the advantage": (
        (reinforce, "policy_gradient_loss"),
        against_the_advantage(functional.policy_gradient_loss),
        check_reinforce,
    ),
    "PPO, sign of the advantage": (
        (ppo, "ppo_policy_loss"),
        against_the_old_advantage(functional.ppo_policy_loss),
        check_ppo,
    ),
    "REINFORCE, reward on the pad": (
        (reinforce, "rewards_on_last_token"),
        on_the_first_pad,
        check_reinforce,
    ),
    "PPO, reward on the pad": ((ppo, "rewards_on_last_token"), on_the_first_pad, check_ppo),
    "PPO, unmasked whitening": ((conventions, "masked_whiten"), unmasked, check_ppo_as_it_is),
    "PPO, baselines that have seen the token": ((ppo, "gae"), values_too_late, check_ppo),
    "REINFORCE, no gradient at EOS": (
        (reinforce, "policy_gradient_loss"),
        without_eos(functional.policy_gradient_loss),
        check_reinforce,
    ),
    "REINFORCE, rewards of the past": (
        (reinforce, "returns_to_go"),
        returns_so_far,
        check_reinforce,
    ),
    "REINFORCE, sign of the KL": (
        (conventions, "ESTIMATORS"),
        {"k1": turned(functional.kl_k1)},
        check_reinforce,
    ),
    "REINFORCE, k3 with exp(+l) in the loss": (
        (conventions, "ESTIMATORS"),
        {"k3": turned(functional.kl_k3)},
        check_corrected_k3,
    ),
    "RLOO, the sample in its own baseline": (
        (conventions, "rloo_advantages"),
        functional.dr_grpo_advantages,
        check_rloo,
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_an_error_planted_in_an_agent_is_found(name, monkeypatch, world, padded):
    place, broken, check = PLANTED[name]
    where = padded if check is check_ppo_as_it_is else world
    monkeypatch.setattr(*place, broken)
    with pytest.raises(WrongEstimateError, match="exact gradient"):
        check(monkeypatch, where)


# --- diversity ---------------------------------------------------------------------------------


METRICS = {
    "distinct-2": (lambda texts: diversity.distinct_n(texts, 2), pair_distinct),
    "EAD": (lambda texts: diversity.ead(texts, vocabulary=4, orders=(1,)), pair_ead),
    "self-BLEU": (lambda texts: diversity.self_bleu_diversity(texts, (1,)), pair_self_bleu),
    "Vendi": (lambda texts: diversity.ngram_vendi(texts, (1,)), pair_vendi),
    "embeddings": (
        lambda texts: diversity.embedding_diversity([1 + symbol_counts(text) for text in texts]),
        lambda a, b: 1 - pair_cosine(a + "abc", b + "abc"),
    ),
    "duplicates": (responses.duplicate_rate, lambda a, b: float(a == b) / 2),
}


def pair_table(of_pair, world):
    texts = world.task.texts
    return np.array([[of_pair(a, b) for b in texts] for a in texts])


@pytest.fixture(scope="module")
def pairs(world):
    """A thousand pairs of responses to each prompt."""
    texts = samples_of(world.policy, world.task, 2000).completions
    return [list(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]


def check_diversity(name, pairs, world):
    """Demands that pairs of responses to one prompt average to the mean over all such pairs."""
    metric, of_pair = METRICS[name]
    table = pair_table(of_pair, world)
    check_mean(sets.per_prompt(metric, pairs), np.mean([p @ table @ p for p in world.p]))


@pytest.mark.parametrize("name", METRICS)
def test_diversity_of_the_responses_to_one_prompt(name, pairs, world):
    check_diversity(name, pairs, world)
    with pytest.raises(WrongEstimateError, match="truth"):
        check_diversity(name, [[a, a] for a, _ in pairs], world)


@pytest.mark.parametrize("name", METRICS)
def test_diversity_of_every_pair(name, world):
    metric, of_pair = METRICS[name]
    for a, b in itertools.product(world.task.texts, repeat=2):
        assert metric([a, b]) == pytest.approx(of_pair(a, b), abs=1e-9), (a, b)


def test_diversity_of_the_responses_that_pass(pairs, world):
    """Of the pairs of which both pass, each as likely as it is among such pairs."""
    metric, of_pair = METRICS["self-BLEU"]
    good = {text: text.startswith("c") for text in world.task.texts}
    to_first = pairs[: len(pairs) // 2]
    passed = [[good[text] for text in pair] for pair in to_first]
    found = sets.quality_gated(metric, to_first, passed)
    p = world.p[0] * list(good.values())
    truth = p @ pair_table(of_pair, world) @ p / p.sum() ** 2
    check_mean(found[~np.isnan(found)], truth)
    with pytest.raises(WrongEstimateError, match="truth"):
        check_mean(sets.per_prompt(metric, to_first), truth)


def test_diversity_across_prompts(world):
    """One response to each of two prompts, over the K choices: pairs of two distributions."""
    count = 2000
    completions = samples_of(world.policy, world.task, count).completions
    for metric, of_pair in METRICS.values():
        truth = world.p[0] @ pair_table(of_pair, world) @ world.p[1]
        check_mean(sets.per_choice(metric, completions, count), truth)
        assert sets.across_input(metric, completions, count) == pytest.approx(truth, rel=0.1)


def test_mode_coverage_nears_the_entropy_of_the_labels(world):
    """The plug-in entropy is biased by -(L - 1) / 2M (Miller 1955), its deviation sd(log p) / M."""
    p, count = world.p[0], 6000
    samples = samples_of(world.policy, world.task, count).completions[:count]
    coverage = responses.mode_coverage(samples)
    deviation = math.sqrt((p @ np.log(p) ** 2 - (p @ np.log(p)) ** 2) / count)
    truth = exact.entropy(p) - (len(p) - 1) / (2 * count)
    assert abs(coverage.entropy - truth) < 4 * deviation < 0.1
    clear = np.abs(p - 0.01) > 4 * math.sqrt(0.01 / count)
    assert abs(coverage.modes - (p > 0.01).sum()) <= (~clear).sum()
