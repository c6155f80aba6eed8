"""Losses on pairs, on numbers worked by hand, and what their minimum is."""

from __future__ import annotations

import math

import pytest
import torch

from textgym import functional
from textgym.errors import ConfigError

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


@pytest.mark.parametrize("loss", [functional.dpo_loss, functional.ipo_loss])
def test_bad_input_is_refused(loss):
    with pytest.raises(ConfigError, match="beta must be > 0, got 0"):
        loss(CHOSEN, REJECTED, 0.0)
    with pytest.raises(ValueError, match=r"shapes differ: \[2\] and \[1\]"):
        loss(CHOSEN, REJECTED[:1])
