"""Losses on preferences, on numbers worked by hand, and what their minimum is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from textgym import functional
from textgym.errors import ConfigError
from textgym.metrics import exact
from textgym.tasks.oracle.known_frontier import KnownFrontier

CHOSEN = torch.tensor([2.0, -1.0])
REJECTED = torch.tensor([0.0, 1.0])


def test_dpo_by_hand() -> None:
    # Margins 2 and -2, times 1/2: log(1 + exp(-1)) and log(1 + exp(1)).
    wanted = (math.log(1 + math.exp(-1)) + math.log(1 + math.e)) / 2
    assert float(functional.dpo_loss(CHOSEN, REJECTED, beta=0.5)) == pytest.approx(wanted)
    equal = torch.tensor([-3.0])
    assert float(functional.dpo_loss(equal, equal)) == pytest.approx(math.log(2))


def test_dpos_gradient_by_hand() -> None:
    chosen, rejected = torch.tensor([2.0], requires_grad=True), torch.zeros(1, requires_grad=True)
    functional.dpo_loss(chosen, rejected, beta=0.5).backward()
    # -beta sigmoid(-beta margin), and the opposite.
    wanted = 0.5 / (1 + math.e)
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert float(chosen.grad) == pytest.approx(-wanted)
    assert float(rejected.grad) == pytest.approx(wanted)


def test_ipo_by_hand() -> None:
    # The target is 1 / (2 * 0.25) = 2: met by the first pair, missed by 4 by the second.
    assert float(functional.ipo_loss(CHOSEN, REJECTED, beta=0.25)) == 8
    # Without a margin only the target is left, 1 / (2 * 0.1) = 5.
    assert float(functional.ipo_loss(CHOSEN, CHOSEN, beta=0.1)) == pytest.approx(25)


def test_ipo_stops_at_its_target_where_dpo_goes_on() -> None:
    chosen = torch.tensor([7.0], requires_grad=True)
    rejected = torch.tensor([5.0])
    (at_target,) = torch.autograd.grad(functional.ipo_loss(chosen, rejected, beta=0.25), chosen)
    (beyond,) = torch.autograd.grad(functional.ipo_loss(chosen, rejected, beta=0.5), chosen)
    (dpo,) = torch.autograd.grad(functional.dpo_loss(chosen, rejected, beta=0.5), chosen)
    assert float(at_target) == 0
    assert float(beyond) == 2  # 2 (2 - 1)
    assert float(dpo) < 0


def test_dpos_optimum_on_noisy_preferences_is_the_regularised_policy() -> None:
    # Two answers of rewards 1 and 0: a Bradley-Terry judge prefers the first with probability
    # sigmoid(1), and pi* = pi_ref exp(r / beta) / Z has a log-ratio gap of 1 / beta.
    beta, prefers = 0.5, 1 / (1 + math.exp(-1))
    gap = torch.tensor([1 / beta], requires_grad=True)
    zero = torch.zeros(1)
    loss = prefers * functional.dpo_loss(gap, zero, beta)
    loss = loss + (1 - prefers) * functional.dpo_loss(zero, gap, beta)
    (at_optimum,) = torch.autograd.grad(loss, gap)
    assert float(at_optimum) == pytest.approx(0, abs=1e-7)


def test_cdpo_by_hand_and_where_it_ends() -> None:
    # Margins 2 and -2, times 1/2; one label in ten is taken for wrong.
    right, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.e)
    wanted = ((0.9 * right + 0.1 * wrong) + (0.9 * wrong + 0.1 * right)) / 2
    smoothed = functional.dpo_loss(CHOSEN, REJECTED, 0.5, label_smoothing=0.1)
    assert float(smoothed) == pytest.approx(wanted)
    # One pair: 0.9 * log(1 + e^-1) + 0.1 * log(1 + e).
    one = functional.dpo_loss(CHOSEN[:1], REJECTED[:1], 0.5, label_smoothing=0.1)
    assert float(one) == pytest.approx(0.9 * right + 0.1 * wrong)
    # At odds of 0.9 to 0.1 the label that came is as sure as it is allowed to be.
    margin = torch.tensor([math.log(9) / 0.5], requires_grad=True)
    loss = functional.dpo_loss(margin, torch.zeros(1), 0.5, label_smoothing=0.1)
    (slope,) = torch.autograd.grad(loss, margin)
    assert float(slope) == pytest.approx(0, abs=1e-7)


def test_without_smoothing_dpo_is_to_the_bit_what_it_was() -> None:
    chosen, rejected = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    plain = -torch.nn.functional.logsigmoid(0.3 * chosen - 0.3 * rejected).mean()
    assert torch.equal(functional.dpo_loss(chosen, rejected, 0.3), plain)
    assert functional.implicit_reward(chosen) is chosen


# f'(u) and its slope in log u, u f''(u), at u = 2 and u = 1/2.
BY_HAND = [
    ("reverse_kl", [math.log(2), -math.log(2)], [1, 1]),
    ("forward_kl", [1 / 2, -1], [1 / 2, 2]),
    ("js", [math.log(4 / 3), math.log(2 / 3)], [1 / 3, 2 / 3]),
    ("alpha", [2 - math.sqrt(2), 2 - 2 * math.sqrt(2)], [1 / math.sqrt(2), math.sqrt(2)]),
]


@pytest.mark.parametrize(("divergence", "values", "slopes"), BY_HAND)
def test_implicit_rewards_and_f_dpos_gradient_by_hand(divergence, values, slopes) -> None:
    log_ratios = torch.tensor([2.0, 0.5]).log().requires_grad_()
    rewards = functional.implicit_reward(log_ratios, divergence, alpha=0.5)
    assert rewards.tolist() == pytest.approx(values, abs=1e-6)
    loss = functional.dpo_loss(rewards[:1], rewards[1:], beta=0.5)
    margin = 0.5 * (values[0] - values[1])
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-margin)))
    (slope,) = torch.autograd.grad(loss, log_ratios)
    push = 0.5 / (1 + math.exp(margin))
    assert slope.tolist() == pytest.approx([-push * slopes[0], push * slopes[1]], abs=1e-6)


def test_the_alpha_divergence_lies_between_the_two_kls() -> None:
    log_ratios = torch.linspace(-3, 3, 7)

    def reward(*which):
        return functional.implicit_reward(log_ratios, *which)

    torch.testing.assert_close(reward("alpha", 1.0), reward("forward_kl"))
    torch.testing.assert_close(reward("alpha", 1e-4), reward("reverse_kl"), atol=1e-3, rtol=0)


@pytest.mark.parametrize("divergence", ["forward_kl", "js", "alpha"])
def test_extreme_log_ratios_give_finite_losses_and_gradients(divergence) -> None:
    # Chosen, rejected: both far down, both far up, and each way apart.
    chosen = torch.tensor([-2000.0, 2000.0, -2000.0, 2000.0]).requires_grad_()
    rejected = torch.tensor([-1000.0, 1000.0, 2000.0, -2000.0]).requires_grad_()
    rewards = [functional.implicit_reward(x, divergence) for x in (chosen, rejected)]
    loss = functional.dpo_loss(*rewards, beta=0.1)
    slopes = torch.autograd.grad(loss, [chosen, rejected])
    assert math.isfinite(loss.item())
    assert all(slope.isfinite().all() for slope in slopes)
    # A chosen response that is all but lost is still pulled up; a pair that is settled rests.
    assert float(slopes[0][2]) < -1e-3
    assert float(slopes[0][3]) == float(slopes[1][3]) == 0


@pytest.mark.parametrize(("divergence", "alpha"), [("forward_kl", 1.0), ("alpha", 0.5)])
def test_beyond_its_bound_the_implicit_reward_goes_on_as_its_tangent(divergence, alpha) -> None:
    at = torch.tensor([-30.0 / alpha, -31.0 / alpha], dtype=torch.double).requires_grad_()
    rewards = functional.implicit_reward(at, divergence, alpha)
    assert rewards[0].item() == pytest.approx((1 - math.exp(30)) / alpha)
    # One step of 1 / alpha further down, e^30 each unit of log u.
    assert (rewards[0] - rewards[1]).item() == pytest.approx(math.exp(30) / alpha)
    (slope,) = torch.autograd.grad(rewards.sum(), at)
    assert slope.tolist() == pytest.approx([math.exp(30)] * 2)


def optimal(reference, rewards, beta, divergence):
    """pi_ref (f')^-1((r - lambda) / beta), with lambda such that it sums to 1."""
    inverse = {
        "reverse_kl": np.exp,
        "forward_kl": lambda s: 1 / (1 - s),
        "js": lambda s: 1 / (2 * np.exp(-s) - 1),
        "alpha": lambda s: (1 - s / 2) ** -2,
    }[divergence]
    # Below these f' stays: infinity, 1, log 2 and 1 / alpha = 2.
    most = {"reverse_kl": np.inf, "forward_kl": 1, "js": np.log(2), "alpha": 2}[divergence]

    def policy(shift):
        return reference * inverse((rewards - shift) / beta)

    # f'(1) = 0: at the least reward all would gain, at the largest all would lose.
    least = max(rewards.min(), rewards.max() - beta * most * (1 - 1e-9))
    shift = brentq(lambda x: policy(x).sum() - 1, least, rewards.max(), xtol=1e-15)
    return policy(shift)


def expected_loss(logits, reference, rewards, beta, divergence, smoothing=0.0):
    """DPO's loss over all pairs of the reference's answers, with Bradley-Terry labels."""
    log_ratios = logits.log_softmax(0) - reference.log()
    implicit = functional.implicit_reward(log_ratios, divergence)
    weights = reference[:, None] * reference * torch.sigmoid(rewards[:, None] - rewards)
    left, right = torch.meshgrid(implicit, implicit, indexing="ij")
    losses = torch.func.vmap(lambda a, b: functional.dpo_loss(a[None], b[None], beta, smoothing))(
        left.flatten(), right.flatten()
    )
    return weights.flatten() @ losses


def descended(reference, rewards, *which):
    """The policy that a long descent of `expected_loss` from the reference ends at."""
    reference, rewards = torch.as_tensor(reference), torch.as_tensor(rewards)
    logits = reference.log().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits],
        max_iter=2000,
        tolerance_grad=1e-13,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        loss = expected_loss(logits, reference, rewards, *which)
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits.detach().softmax(0).numpy()


@pytest.mark.parametrize("divergence", ["reverse_kl", "forward_kl", "js", "alpha"])
def test_f_dpo_ends_at_the_optimum_of_its_divergence(divergence) -> None:
    tables, beta = KnownFrontier().tables, 0.2
    reference, rewards = tables.known[0], tables.rewards[0]
    wanted = optimal(reference, rewards, beta, divergence)
    assert descended(reference, rewards, beta, divergence) == pytest.approx(wanted, abs=1e-5)
    tilted = exact.tilted(reference, rewards, beta)
    if divergence == "reverse_kl":
        assert wanted == pytest.approx(tilted)
    else:
        assert abs(wanted - tilted).max() > 0.01


@pytest.mark.parametrize("gap", [0.5, 2.0, 6.0])
def test_forward_kl_keeps_more_entropy_than_reverse_kl_and_js_less(gap) -> None:
    # Two answers as likely, rewards `gap` beta apart; p = (1 + d) / 2 of the better.
    even, rewards = np.array([0.5, 0.5]), np.array([gap, 0.0])

    def better(divergence, beta=1.0):
        return float(descended(even, rewards, beta, divergence)[0])

    # Reverse KL: 2 atanh d = gap. Forward KL: 2 d / (1 - d^2) = gap.
    assert better("reverse_kl") == pytest.approx((1 + math.tanh(gap / 2)) / 2, abs=1e-6)
    d = (math.sqrt(1 + gap**2) - 1) / gap
    assert better("forward_kl") == pytest.approx((1 + d) / 2, abs=1e-6)
    # The further from 1/2, the less entropy. At one price of a small step, beta doubled, js is
    # between reverse and forward KL.
    order = [better("forward_kl"), better("alpha"), better("reverse_kl"), better("js")]
    assert order == sorted(order)
    assert min(np.diff(order)) > 1e-4
    assert better("forward_kl") < better("js", 2.0) < better("reverse_kl")


def test_smoothed_labels_shrink_what_the_reward_says() -> None:
    # Two answers, won with sigmoid(2): the loss sees 0.1 + 0.8 sigmoid(2), log-odds over beta.
    beta, seen = 0.5, 0.1 + 0.8 / (1 + math.exp(-2))
    p = descended(np.array([0.5, 0.5]), np.array([2.0, 0.0]), beta, "reverse_kl", 0.1)
    assert math.log(p[0] / p[1]) == pytest.approx(math.log(seen / (1 - seen)) / beta, abs=1e-5)


def test_kto_by_hand() -> None:
    # beta (l - z0) = 0.5 (3 - 1) = 1 and 0.5 (-1 - 1) = -1; z0 = 1.
    ratios = torch.tensor([3.0, -1.0], requires_grad=True)
    one = torch.tensor(1.0)
    high, low = 1 / (1 + math.exp(-1)), 1 / (1 + math.e)

    def loss(good, *weights):
        return functional.kto_loss(ratios, torch.tensor(good), one, 0.5, *weights)

    assert loss([True, False]).item() == pytest.approx(low)
    assert loss([False, True]).item() == pytest.approx(high)
    assert loss([True, False], 4.0, 2.0).item() == pytest.approx((4 * low + 2 * low) / 2)
    assert loss([True, True], 1.0, 5.0).item() == pytest.approx((low + high) / 2)
    # -+ w beta sigmoid (1 - sigmoid) / 2, up for the good and down for the bad.
    (slope,) = torch.autograd.grad(loss([True, False], 4.0, 2.0), ratios)
    assert slope.tolist() == pytest.approx([-4 * 0.25 * low * high, 2 * 0.25 * low * high])


def test_ktos_reference_point_is_a_mean_at_least_zero_without_gradient() -> None:
    above = torch.tensor([3.0, -1.0], requires_grad=True)
    point = functional.kto_reference_point(above)
    assert float(point) == 1
    assert not point.requires_grad
    assert float(functional.kto_reference_point(torch.tensor([1.0, -4.0]))) == 0


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_kto_of_fifty_one_against_forty_nine_wants_only_the_first(beta) -> None:
    # Over the policies p, 1 - p of two answers that the reference gives alike, good 51 and 49
    # times in a hundred, its loss falls all the way; DPO's turns where the odds are as it says.
    p = torch.linspace(0.001, 0.999, 999, dtype=torch.double)
    zero = torch.zeros((), dtype=torch.double)

    def one(l_a, l_b):
        ratios, good = torch.stack([l_a, l_b, l_a, l_b]), torch.tensor([True, True, False, False])
        chance = torch.tensor([0.51, 0.49, 0.49, 0.51], dtype=torch.double)
        each = torch.func.vmap(lambda x, mark: functional.kto_loss(x[None], mark[None], zero, beta))
        kto = chance @ each(ratios, good)
        dpo = 0.51 * functional.dpo_loss(l_a[None], l_b[None], beta)
        return kto, dpo + 0.49 * functional.dpo_loss(l_b[None], l_a[None], beta)

    kto, dpo = torch.func.vmap(one)((2 * p).log(), (2 - 2 * p).log())
    assert (kto.diff() < 0).all()
    odds = (0.51 / 0.49) ** (1 / beta)
    assert float(p[dpo.argmin()]) == pytest.approx(odds / (1 + odds), abs=1e-3)


@pytest.mark.parametrize("loss", [functional.dpo_loss, functional.ipo_loss])
def test_bad_input_is_refused(loss):
    with pytest.raises(ConfigError, match="beta must be > 0, got 0"):
        loss(CHOSEN, REJECTED, 0.0)
    with pytest.raises(ValueError, match=r"shapes differ: \[2\] and \[1\]"):
        loss(CHOSEN, REJECTED[:1])
    if loss is functional.dpo_loss:
        for smoothing in (-0.1, 0.5):
            with pytest.raises(ConfigError, match=r"must be in \[0, 0.5\)"):
                loss(CHOSEN, REJECTED, label_smoothing=smoothing)


def test_bad_input_to_the_others_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="unknown divergence 'reverse'; did you mean 'reverse_kl'"
    ):
        functional.implicit_reward(CHOSEN, "reverse")
    for alpha in (0.0, 1.5):
        with pytest.raises(ConfigError, match=r"alpha must be in \(0, 1\]"):
            functional.implicit_reward(CHOSEN, "alpha", alpha)
    good, zero = torch.tensor([True, False]), torch.zeros(())
    with pytest.raises(ConfigError, match="beta must be > 0"):
        functional.kto_loss(CHOSEN, good, zero, 0)
    with pytest.raises(ConfigError, match="weights must be >= 0"):
        functional.kto_loss(CHOSEN, good, zero, undesirable_weight=-1)
    with pytest.raises(ValueError, match="shapes differ"):
        functional.kto_loss(CHOSEN, good[:1], zero)
