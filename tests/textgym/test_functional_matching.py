"""Weights toward a target on numbers worked by hand; their gradients against enumeration."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from textgym.errors import ConfigError
from textgym.functional import (
    effective_sample_size,
    log_partition,
    matching_weights,
    policy_gradient_loss,
    rloo_advantages,
    target_kl,
    trajectory_balance_loss,
)
from textgym.functional.matching import DIVERGENCES

Z = 2.5
TARGET = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
LOGITS = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
LOG_P = (Z * TARGET).log()


def log(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).log()


# By hand


def by_hand() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two prompts of two samples: P / q is 0.5 and 1.5, then 2 and 2; pi / q 2 and 2, 1 and 3."""
    return log(0.1, 0.6, 0.4, 0.4), log(0.4, 0.8, 0.2, 0.6), log(0.2, 0.4, 0.2, 0.2)


@pytest.mark.parametrize(
    ("divergence", "wanted"),
    [
        # The shares of P / q are 1/4 and 3/4, then 1/2 and 1/2; of pi / q 1/2 and 1/2, 1/4 and
        # 3/4. Weights are twice the shares; t is the quotient of the second by the first.
        ("forward_kl", [0.5, 1.5, 1.0, 1.0]),
        ("reverse_kl", [-1 - math.log(2), -1 - math.log(2 / 3)]),
        ("js", [math.log(1.5 / 2), math.log(2.5 / 2)]),
        ("total_variation", [-0.5, 0.5]),
    ],
)
def test_weights_by_hand(divergence: str, wanted: list[float]) -> None:
    plain = matching_weights(*by_hand(), k=2, divergence=divergence, baseline=False)
    assert plain[: len(wanted)].tolist() == pytest.approx(wanted)
    based = matching_weights(*by_hand(), k=2, divergence=divergence)
    # With rho at 1 and 1 the baseline of the first prompt is the plain mean.
    mean = (wanted[0] + wanted[1]) / 2
    assert based[:2].tolist() == pytest.approx([wanted[0] - mean, wanted[1] - mean])
    assert based.reshape(2, 2).sum(1).tolist() == pytest.approx([0, 0])


def test_off_the_policy_the_baseline_is_weighted() -> None:
    # rho is 1/2 and 3/2: the forward KL's baseline is 1.
    assert matching_weights(*by_hand(), k=2)[2:].tolist() == pytest.approx([0.5, -0.5])
    # t is 1/2 and 3/2; with pseudo-rewards 1/2 and -1/2 the weighted mean is -1/4.
    weights = matching_weights(*by_hand(), k=2, divergence="total_variation")
    assert weights[2:].tolist() == pytest.approx([0.5 * 0.75, 1.5 * -0.25])


def test_partition_sample_size_and_distance_by_hand() -> None:
    target, policy, proposal = by_hand()
    found = log_partition(target, policy, proposal, k=2)
    assert found.exp().tolist() == pytest.approx([2 / 4, 4 / 4])
    sizes = effective_sample_size(target - proposal, k=2)
    assert sizes.tolist() == pytest.approx([4 / 2.5, 2])
    distance = target_kl(target, policy, proposal, k=2)
    assert distance.tolist() == pytest.approx(
        [0.25 * math.log(0.5) + 0.75 * math.log(1.5), 0.5 * math.log(2) + 0.5 * math.log(2 / 3)]
    )


def test_trajectory_balance_by_hand() -> None:
    # The deviations are -1 and 1, and 0 and 0: variances 2 and 0, their mean 1.
    residuals = torch.tensor([1.0, 3.0, 5.0, 5.0], requires_grad=True)
    loss = trajectory_balance_loss(residuals, k=2, beta=0.5)
    assert loss.item() == pytest.approx(0.25)
    (gradient,) = torch.autograd.grad(loss, residuals)
    # beta / (K - 1) times the deviation, mean over two prompts.
    assert gradient.tolist() == pytest.approx([-0.25, 0.25, 0, 0])


def test_constants_of_a_prompt_and_the_order_of_rows_do_not_matter() -> None:
    target, policy, proposal = by_hand()
    order = torch.tensor([3, 2, 1, 0])
    # A proposal that is not normalised shifts nothing; a target that is not shifts log Z alone.
    shift = torch.tensor([7.0, 7.0, -3.0, -3.0])
    for divergence in DIVERGENCES:
        weights = matching_weights(target, policy, proposal, 2, divergence)
        shifted = matching_weights(target + shift, policy, proposal - shift, 2, divergence)
        torch.testing.assert_close(shifted, weights)
        turned = matching_weights(target[order], policy[order], proposal[order], 2, divergence)
        torch.testing.assert_close(turned, weights[order])
    moved = log_partition(target + shift, policy, proposal, 2)
    torch.testing.assert_close(moved, log_partition(target, policy, proposal, 2) + shift[::2])


# By enumeration


def divergence_of(name: str, p: torch.Tensor, pi: torch.Tensor) -> torch.Tensor:
    """Each divergence as it is commonly written, without f."""
    middle = (p + pi) / 2
    return {
        "forward_kl": lambda: (p * (p / pi).log()).sum(),
        "reverse_kl": lambda: (pi * (pi / p).log()).sum(),
        "js": lambda: (p * (p / middle).log()).sum() + (pi * (pi / middle).log()).sum(),
        "total_variation": lambda: (p - pi).abs().sum() / 2,
    }[name]()


def exact_gradient(name: str) -> torch.Tensor:
    logits = LOGITS.clone().requires_grad_()
    value = divergence_of(name, TARGET, logits.softmax(-1))
    return torch.autograd.grad(value, logits)[0]


def gradient_of(weights: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """The gradient at LOGITS of the loss of drawn outcomes; weights may lead with groups."""
    logits = LOGITS.clone().requires_grad_()
    logp = logits.log_softmax(-1)[drawn][:, None]
    mask = torch.ones(logp.shape, dtype=torch.bool)
    loss = policy_gradient_loss(logp, weights, mask, "sum")
    return torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize("baseline", [True, False])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_every_outcome_once_gives_the_exact_gradient(name: str, baseline: bool) -> None:
    # A uniform proposal whose K samples are each outcome once: the sums are the expectations, Z is
    # exact, and the policy is not the proposal.
    drawn, uniform = torch.arange(3), torch.full((3,), 1 / 3, dtype=torch.float64).log()
    logp = LOGITS.log_softmax(-1)
    assert log_partition(LOG_P, logp, uniform, k=3).exp().item() == pytest.approx(Z)
    distance = divergence_of("forward_kl", TARGET, logp.exp())
    torch.testing.assert_close(target_kl(LOG_P, logp, uniform, k=3), distance[None])
    weights = matching_weights(LOG_P, logp, uniform, 3, name, baseline)
    wanted = exact_gradient(name)
    torch.testing.assert_close(gradient_of(weights, drawn), wanted)
    assert wanted.abs().max() > 0.05


def expected(k: int, name: str, baseline: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and total variance of the gradient on K samples of the policy, all 3^K enumerated."""
    logp = LOGITS.log_softmax(-1)
    drawn = torch.tensor(list(product(range(3), repeat=k)))
    chance = logp[drawn].sum(1).exp()
    flat = drawn.flatten()
    weights = matching_weights(LOG_P[flat], logp[flat], logp[flat], k, name, baseline)
    # grad log pi of a softmax is the one-hot outcome minus the probabilities.
    scores = torch.eye(3, dtype=torch.float64)[drawn] - logp.exp()
    gradients = -(weights.reshape(-1, k, 1) * scores).mean(dim=1)
    mean = (chance[:, None] * gradients).sum(0)
    return mean, (chance[:, None] * (gradients - mean).square()).sum()


@pytest.mark.parametrize("name", ["forward_kl", "js"])
def test_the_bias_of_k_samples_falls_as_one_over_k(name: str) -> None:
    exact = exact_gradient(name)
    off = {k: float((expected(k, name)[0] - exact).norm() / exact.norm()) for k in (2, 4, 8)}
    assert off[2] > off[4] > off[8]
    assert off[8] < 0.2
    assert 8 * off[8] == pytest.approx(4 * off[4], rel=0.35)


def test_fresh_samples_of_the_reverse_kl_are_rloo_divided_by_beta() -> None:
    k, beta = 3, 0.4
    reference, rewards = log(0.5, 0.3, 0.2), torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64)
    logp = LOGITS.log_softmax(-1)
    weights = matching_weights(reference + rewards / beta, logp, logp, k, "reverse_kl")
    shaped = rewards - beta * (logp - reference)
    advantages = rloo_advantages(shaped, k)
    torch.testing.assert_close(weights * beta * k / (k - 1), advantages)
    # The mean holds the sample itself: the bias is (K - 1) / K, exactly.
    mean, _ = expected(k, "reverse_kl")
    torch.testing.assert_close(mean, exact_gradient("reverse_kl") * (k - 1) / k)


@pytest.mark.parametrize(
    ("name", "most"),
    # The last two pseudo-rewards are about 0 near the target without one.
    [("forward_kl", 0.9), ("reverse_kl", 0.9), ("js", 1.05), ("total_variation", 1.05)],
)
def test_the_baseline_takes_noise_away(name: str, most: float) -> None:
    assert expected(4, name)[1] < most * expected(4, name, baseline=False)[1]


@pytest.mark.parametrize("name", DIVERGENCES)
def test_at_the_target_nothing_pulls(name: str) -> None:
    logp = TARGET.log()
    uniform = torch.zeros(6, dtype=torch.float64)
    drawn = torch.tensor([0, 0, 1, 2, 1, 0])
    # Off by the rounding of float32, whatever the samples were drawn from.
    target = LOG_P[drawn] + 1e-6 * torch.tensor([1, -1, 1, -1, 1, 1])
    for proposal in (logp[drawn], uniform):
        weights = matching_weights(target, logp[drawn], proposal, 3, name)
        assert weights.abs().max() < 1e-5
        assert target_kl(target, logp[drawn], proposal, 3).max() < 1e-9


def test_on_policy_trajectory_balance_is_rloo_with_the_kl_in_the_reward() -> None:
    k, beta = 4, 0.3
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(3, (2 * k,), generator=generator)
    reference = log(0.5, 0.3, 0.2)[drawn]
    rewards = torch.randn(2 * k, generator=generator, dtype=torch.float64)
    logits = LOGITS.clone().requires_grad_()
    logp = logits.log_softmax(-1)[drawn]
    balance = trajectory_balance_loss(logp - reference - rewards / beta, k, beta)
    shaped = rewards - beta * (logp.detach() - reference)
    rloo = -(rloo_advantages(shaped, k) * logp).mean()
    mine, theirs = (torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (balance, rloo))
    torch.testing.assert_close(mine, theirs)
    assert theirs.abs().max() > 0.01


def test_in_expectation_on_policy_trajectory_balance_follows_the_reverse_kl() -> None:
    k, beta, old = 3, 0.3, LOGITS.log_softmax(-1)
    logits = LOGITS.clone().requires_grad_()
    drawn = torch.tensor(list(product(range(3), repeat=k)))
    chance = old[drawn].sum(1).exp()
    residuals = (logits.log_softmax(-1) - LOG_P)[drawn]
    losses = torch.stack([trajectory_balance_loss(group, k, beta) for group in residuals])
    (found,) = torch.autograd.grad((chance * losses).sum(), logits)
    torch.testing.assert_close(found, beta * exact_gradient("reverse_kl"))


def test_trajectory_balance_is_zero_at_the_target_alone_whatever_is_drawn() -> None:
    drawn = torch.tensor([0, 1, 2, 2, 1, 1])
    at_target = TARGET.log()[drawn] - LOG_P[drawn]
    assert trajectory_balance_loss(at_target, 3).item() == pytest.approx(0, abs=1e-12)
    elsewhere = LOGITS.log_softmax(-1)[drawn] - LOG_P[drawn]
    assert trajectory_balance_loss(elsewhere, 3).item() > 0.1


# Safety


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("size", [1.0, 800.0, -800.0])
def test_ratios_of_hundreds_of_nats_stay_finite(name: str, size: float) -> None:
    # One sample has all the weight under the target, another under the policy.
    target = torch.tensor([size, 0.0, -size / 2, 1.0])
    policy = torch.tensor([-1.0, -900.0, -300.0, -2.0])
    for proposal in (policy, torch.tensor([-900.0, -1.0, -2.0, -300.0])):
        for baseline in (True, False):
            weights = matching_weights(target, policy, proposal, 4, name, baseline)
            assert weights.isfinite().all()
        if name == "forward_kl":
            assert weights.sum().item() == pytest.approx(4)
        for value in (
            target_kl(target, policy, proposal, 4),
            log_partition(target, policy, proposal, 4),
        ):
            assert value.isfinite().all()
        size_ = effective_sample_size(target - proposal, 4).item()
        assert 1 <= size_ <= 4
    residuals = (policy - target).requires_grad_()
    loss = trajectory_balance_loss(residuals, 4, beta=0.001)
    loss.backward()
    assert loss.isfinite()
    assert residuals.grad is not None
    assert residuals.grad.isfinite().all()


def test_no_gradient_flows_into_the_weights() -> None:
    target, policy, proposal = (x.requires_grad_() for x in by_hand())
    assert not matching_weights(target, policy, proposal, 2, "js").requires_grad


def test_what_makes_no_sense_is_refused() -> None:
    values = by_hand()
    with pytest.raises(
        ConfigError, match="unknown divergence 'forward'; did you mean 'forward_kl'"
    ):
        matching_weights(*values, k=2, divergence="forward")
    with pytest.raises(ConfigError, match="samples per prompt must be >= 1, got 0"):
        matching_weights(*values, k=0)
    with pytest.raises(ValueError, match=r"expected N \* 3"):
        log_partition(*values, k=3)
    with pytest.raises(ConfigError, match="samples per prompt must be >= 2, got 1"):
        trajectory_balance_loss(values[0], k=1)
    with pytest.raises(ConfigError, match="beta must be > 0, got 0"):
        trajectory_balance_loss(values[0], k=2, beta=0)
