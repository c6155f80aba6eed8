"""Advantages and losses on numbers worked by hand, and gradients by enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from textgym import functional
from textgym.errors import ConfigError

ONE = torch.ones(1, 3, dtype=torch.bool)


def test_gae_by_hand() -> None:
    rewards = torch.tensor([[0.0, 0.0, 1.0]])
    values = torch.tensor([[0.5, 0.25, 0.75]])
    # One-step errors: 0.25 - 0.5, 0.75 - 0.25, 1 - 0.75 (V = 0 after the last token).
    advantages, returns = functional.gae(rewards, values, ONE, lam=0.0)
    assert advantages.tolist() == [[-0.25, 0.5, 0.25]]
    assert returns.tolist() == [[0.25, 0.75, 1.0]]
    advantages, returns = functional.gae(rewards, values, ONE, lam=1.0)
    assert advantages.tolist() == [[0.5, 0.75, 0.25]]
    assert returns.tolist() == [[1, 1, 1]]
    advantages, _ = functional.gae(rewards, values, ONE, gamma=0.5, lam=0.5)
    # d = 0.125 - 0.5, 0.375 - 0.25, 0.25; each carries a quarter of the next.
    assert advantages.tolist() == [[-0.375 + 0.25 * (0.125 + 0.0625), 0.125 + 0.0625, 0.25]]


def test_gae_is_the_sum_of_its_definition() -> None:
    generator = torch.Generator().manual_seed(3)
    rewards, values = torch.randn(2, 5, 6, dtype=torch.float64, generator=generator)
    lengths, gamma, lam = [6, 1, 4, 3, 2], 0.9, 0.7
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    advantages, _ = functional.gae(rewards, values, mask, gamma, lam)
    for b, length in enumerate(lengths):
        v = [*values[b, :length].tolist(), 0.0]
        delta = [float(rewards[b, t]) + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            wanted = sum((gamma * lam) ** s * delta[t + s] for s in range(length - t))
            assert float(advantages[b, t]) == pytest.approx(wanted)


def test_value_after_the_last_token_is_zero_whatever_the_pads_hold() -> None:
    mask = torch.tensor([[True, True, False]])
    values = torch.tensor([[1.0, 2.0, 100.0]])
    advantages, _ = functional.gae(torch.tensor([[0.0, 5.0, 100.0]]), values, mask, lam=0.0)
    assert advantages.tolist() == [[1, 3, 0]]


def test_returns_to_go() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0]])
    assert functional.returns_to_go(rewards, ONE).tolist() == [[7, 6, 4]]
    assert functional.returns_to_go(rewards, ONE, gamma=0.5).tolist() == [[3, 4, 4]]


def test_group_advantages_by_hand() -> None:
    rewards = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0])
    assert functional.rloo_advantages(rewards, 3).tolist() == [-3, -1.5, 4.5, 0, 0, 0]
    assert functional.dr_grpo_advantages(rewards, 3).tolist() == [-2, -1, 3, 0, 0, 0]
    # Sample variance of 1, 2, 6: (4 + 1 + 9) / 2 = 7.
    wanted = [x / (math.sqrt(7) + 1e-4) for x in (-2, -1, 3)] + [0, 0, 0]
    assert functional.grpo_advantages(rewards, 3).tolist() == pytest.approx(wanted)
    assert functional.zero_variance_share(rewards, 3) == 0.5


def test_group_sizes_are_checked() -> None:
    with pytest.raises(ConfigError, match=">= 2, got 1"):
        functional.rloo_advantages(torch.zeros(4), 1)
    with pytest.raises(ValueError, match="N \\* 3 rewards"):
        functional.grpo_advantages(torch.zeros(4), 3)
    with pytest.raises(ConfigError, match=">= 1, got 0"):
        functional.dr_grpo_advantages(torch.zeros(4), 0)


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "clipped"),
    [
        (1.0, 1.5, -1.2, 1.0),
        (1.0, 0.5, -0.5, 0.0),
        (-1.0, 1.5, 1.5, 0.0),
        (-1.0, 0.5, 0.8, 1.0),
        (2.0, 1.1, -2.2, 0.0),
    ],
)
def test_ppo_policy_loss_by_hand(
    advantage: float, ratio: float, loss: float, clipped: float
) -> None:
    logp = torch.tensor([[math.log(ratio)]], requires_grad=True)
    value, info = functional.ppo_policy_loss(
        logp, torch.zeros(1, 1), torch.tensor([[advantage]]), torch.tensor([[True]]), clip=0.2
    )
    assert float(value.detach()) == pytest.approx(loss, rel=1e-6)
    assert info["clip_fraction"] == clipped
    assert info["ratio_mean"] == pytest.approx(ratio)
    assert info["ratio_deviation"] == pytest.approx(abs(ratio - 1))
    assert info["approx_kl"] == pytest.approx(ratio - 1 - math.log(ratio), rel=1e-4)
    value.backward()
    assert logp.grad is not None
    # A clipped token has no gradient; d rho / d logp = rho otherwise.
    wanted = 0.0 if clipped else -advantage * ratio
    assert float(logp.grad) == pytest.approx(wanted, rel=1e-6)


def test_ppo_at_ratio_one_is_the_policy_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    logp = torch.randn(4, 3, generator=generator).requires_grad_()
    advantages = torch.randn(4, generator=generator)
    mask = torch.arange(3) < torch.tensor([3, 1, 2, 3])[:, None]
    loss, info = functional.ppo_policy_loss(logp, logp.detach(), advantages, mask)
    (ppo,) = torch.autograd.grad(loss, logp)
    (reinforce,) = torch.autograd.grad(
        functional.policy_gradient_loss(logp, advantages, mask), logp
    )
    torch.testing.assert_close(ppo, reinforce)
    assert info["ratio_deviation"] == 0
    assert info["clip_fraction"] == 0


def test_ppo_value_loss_by_hand() -> None:
    values, old = torch.tensor([[1.0, 0.1, 3.0]]), torch.zeros(1, 3)
    returns = torch.tensor([[2.0, 2.0, 0.0]])
    # Plain errors 1, 3.61, 9; clipped to 0.5, 0.1, 0.5: errors 2.25, 3.61, 0.25; the larger counts.
    loss, info = functional.ppo_value_loss(values, old, returns, ONE, clip=0.5)
    assert float(loss) == pytest.approx(0.5 * (2.25 + 3.61 + 9) / 3)
    assert info["value_clip_fraction"] == pytest.approx(1 / 3)
    loss, info = functional.ppo_value_loss(values, old, returns, ONE, clip=None)
    assert float(loss) == pytest.approx(0.5 * (1 + 3.61 + 9) / 3)
    # Residuals 1, 1.9, -3 against returns 2, 2, 0: population variances.
    mean = (1 + 1.9 - 3) / 3
    variance = ((1 - mean) ** 2 + (1.9 - mean) ** 2 + (3 + mean) ** 2) / 3
    assert info["explained_variance"] == pytest.approx(1 - variance / (8 / 9), rel=1e-5)


def test_no_gradient_flows_into_targets() -> None:
    advantages = torch.ones(1, 3, requires_grad=True)
    logp = torch.zeros(1, 3, requires_grad=True)
    returns = torch.ones(1, 3, requires_grad=True)
    total = functional.policy_gradient_loss(logp, advantages, ONE)
    total = total + functional.ppo_policy_loss(logp, logp.detach(), advantages, ONE)[0]
    total = total + functional.ppo_value_loss(logp, logp.detach(), returns, ONE)[0]
    total.backward()
    assert advantages.grad is None
    assert returns.grad is None
    assert logp.grad is not None


def expected_reward(logits: Tensor, reward: dict[tuple[int, ...], float]) -> Tensor:
    """Exact, over the responses of a two-step policy whose token 0 ends the response."""
    p = logits.softmax(-1)
    total = p[0, 0] * reward[0,]
    for a, b in itertools.product((1, 2), (0, 1, 2)):
        total = total + p[0, a] * p[1, b] * reward[a, b]
    return total


def test_policy_gradient_over_every_response_is_the_gradient_of_the_reward() -> None:
    """With `constant` and max_tokens 1, responses of unlike length included."""
    logits = torch.tensor([[0.2, -0.4, 0.1], [1.0, 0.3, -0.5]], dtype=torch.float64)
    logits.requires_grad_()
    responses: list[tuple[int, ...]] = [(0,), *itertools.product((1, 2), (0, 1, 2))]
    reward = {y: float(i * i) - 7 for i, y in enumerate(responses)}
    (wanted,) = torch.autograd.grad(expected_reward(logits, reward), logits)
    total = torch.zeros_like(logits)
    for y in responses:
        ids = torch.tensor([[*y, 0][:2]])
        mask = torch.tensor([[True, len(y) == 2]])
        logp = functional.gather_logprobs(logits[None], ids)
        probability = torch.where(mask, logp, 0).sum().exp().detach()
        loss = functional.policy_gradient_loss(
            logp, torch.tensor([reward[y]]), mask, "constant", max_tokens=1
        )
        total -= probability * torch.autograd.grad(loss, logits)[0]
    torch.testing.assert_close(total, wanted)


def test_bradley_terry_by_hand() -> None:
    equal = torch.tensor([3.0, 1.0])
    assert float(functional.bradley_terry_loss(equal, equal)) == pytest.approx(math.log(2))
    chosen, rejected = torch.tensor([2.0]), torch.tensor([1.0])
    wanted = math.log(1 + math.exp(-1))
    assert float(functional.bradley_terry_loss(chosen, rejected)) == pytest.approx(wanted)
    assert float(functional.bradley_terry_loss(chosen, rejected, margin=1.0)) == pytest.approx(
        math.log(2)
    )
    centred = functional.bradley_terry_loss(chosen, rejected, centering=0.01)
    assert float(centred) == pytest.approx(wanted + 0.01 * 9)
    # Shift-invariant without centring, and finite where exp would overflow.
    shifted = functional.bradley_terry_loss(chosen + 50, rejected + 50)
    assert float(shifted) == pytest.approx(wanted, rel=1e-5)
    assert (
        float(functional.bradley_terry_loss(torch.tensor([-500.0]), torch.tensor([500.0]))) == 1000
    )
    with pytest.raises(ConfigError, match="centering"):
        functional.bradley_terry_loss(chosen, rejected, centering=-1)
    with pytest.raises(ValueError, match="shapes differ"):
        functional.bradley_terry_loss(chosen, torch.zeros(2))


def test_clip_ranges_are_checked() -> None:
    x = torch.zeros(1, 3)
    with pytest.raises(ConfigError, match="clip must be > 0"):
        functional.ppo_policy_loss(x, x, x, ONE, clip=0)
    with pytest.raises(ConfigError, match="value clip"):
        functional.ppo_value_loss(x, x, x, ONE, clip=-1)
    with pytest.raises(ValueError, match="expected shape"):
        functional.policy_gradient_loss(x, torch.zeros(2), ONE)
