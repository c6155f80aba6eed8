"""Masked statistics, and the promise that padding and row order change nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from textgym import functional
from textgym.errors import ConfigError

X = torch.tensor([[1.0, 2.0, 9.0], [3.0, 9.0, 9.0]])
MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_masked_mean_and_whitening_by_hand() -> None:
    assert functional.masked_mean(X, MASK) == 2
    # Over 1, 2, 3: mean 2, population variance 2/3.
    expected = torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]) * 1.5**0.5
    torch.testing.assert_close(functional.masked_whiten(X, MASK), expected)
    kept = torch.where(MASK, expected + 2, 0)
    torch.testing.assert_close(functional.masked_whiten(X, MASK, shift_mean=False), kept)


def test_whitening_centres_and_scales_large_offsets() -> None:
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)) * 3 + 100
    mask = torch.arange(8) < torch.arange(1, 17)[:, None].clamp(max=8)
    white = functional.masked_whiten(x, mask)[mask]
    assert abs(white.mean()) < 1e-4
    assert white.var(correction=0) == pytest.approx(1, abs=1e-4)


def test_whitening_equal_values_gives_zeros() -> None:
    assert functional.masked_whiten(torch.ones(2, 3), MASK).abs().max() == 0


def test_reward_sits_on_the_last_token_not_on_the_first_pad() -> None:
    placed = functional.rewards_on_last_token(torch.tensor([5.0, -7.0]), MASK)
    assert placed.tolist() == [[0, 5, 0], [-7, 0, 0]]
    full = functional.rewards_on_last_token(torch.tensor([1.0]), torch.ones(1, 2, dtype=torch.bool))
    assert full.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("how", "expected"),
    [("token", 6 / 3), ("sequence", (1.5 + 3) / 2), ("constant", (3 + 3) / 2 / 10)],
)
def test_aggregations_by_hand(how: str, expected: float) -> None:
    assert float(functional.aggregate(X, MASK, how, max_tokens=10)) == pytest.approx(expected)


def test_bad_input_is_refused() -> None:
    empty = torch.tensor([[True, False, False], [False, False, False]])
    with pytest.raises(ConfigError, match="did you mean 'token'"):
        functional.aggregate(X, MASK, "tokens")
    with pytest.raises(ConfigError, match="max_tokens >= 1, got None"):
        functional.aggregate(X, MASK, "constant")
    with pytest.raises(ValueError, match="row 1"):
        functional.aggregate(X, empty, "sequence")
    with pytest.raises(ValueError, match="row 1"):
        functional.rewards_on_last_token(torch.zeros(2), empty)
    with pytest.raises(ValueError, match="rewards of shape"):
        functional.rewards_on_last_token(torch.zeros(3), MASK)
    with pytest.raises(ValueError, match="bool"):
        functional.masked_mean(X, MASK.float())
    with pytest.raises(ValueError, match="expected shape"):
        functional.masked_mean(X[:1], MASK)
    with pytest.raises(ValueError, match="selects no element"):
        functional.masked_mean(X, torch.zeros_like(MASK))


Inputs = dict[str, Tensor]

# Everything that takes a mask; each gives a scalar, [B, T], or several of these.
MASKED: dict[str, Callable[[Inputs], object]] = {
    "masked_mean": lambda i: functional.masked_mean(i["a"], i["mask"]),
    "masked_whiten": lambda i: functional.masked_whiten(i["a"], i["mask"]),
    "masked_whiten_kept": lambda i: functional.masked_whiten(i["a"], i["mask"], shift_mean=False),
    "rewards_on_last_token": lambda i: functional.rewards_on_last_token(i["row"], i["mask"]),
    "token": lambda i: functional.aggregate(i["a"], i["mask"], "token"),
    "sequence": lambda i: functional.aggregate(i["a"], i["mask"], "sequence"),
    "constant": lambda i: functional.aggregate(i["a"], i["mask"], "constant", 7),
    "gae": lambda i: functional.gae(i["a"], i["b"], i["mask"], 0.9, 0.8),
    "returns_to_go": lambda i: functional.returns_to_go(i["a"], i["mask"], 0.9),
    "policy_gradient": lambda i: functional.policy_gradient_loss(i["a"], i["row"], i["mask"]),
    "ppo_policy": lambda i: functional.ppo_policy_loss(i["a"], i["b"], i["c"], i["mask"]),
    "ppo_value": lambda i: functional.ppo_value_loss(i["a"], i["b"], i["c"], i["mask"]),
}


def make_inputs() -> Inputs:
    generator = torch.Generator().manual_seed(1)
    inputs = {name: torch.randn(4, 5, generator=generator) for name in "abc"}
    lengths = torch.tensor([5, 1, 3, 4])
    return inputs | {
        "row": torch.randn(4, generator=generator),
        "mask": torch.arange(5) < lengths[:, None],
    }


def with_nan_pads(inputs: Inputs) -> Inputs:
    holes = ~inputs["mask"]
    return inputs | {name: inputs[name].masked_fill(holes, torch.nan) for name in "abc"}


def padded(x: Tensor) -> Tensor:
    """One more column on the left and three on the right, of NaN (False for a mask)."""
    if x.ndim == 1:
        return x
    fill = 0.0 if x.dtype == torch.bool else float("nan")
    return torch.nn.functional.pad(x, (1, 3), value=fill)


def flat(result: object) -> list[Tensor]:
    if isinstance(result, tuple):
        return [leaf for part in result for leaf in flat(part)]
    if isinstance(result, dict):
        return [torch.tensor(value) for value in result.values()]
    assert isinstance(result, Tensor)
    return [result]


@pytest.mark.parametrize("name", MASKED)
def test_pads_of_nan_change_nothing(name: str) -> None:
    inputs = with_nan_pads(make_inputs())
    wide = {k: padded(v) for k, v in inputs.items()}
    for before, after in zip(flat(MASKED[name](inputs)), flat(MASKED[name](wide)), strict=True):
        narrow = after[:, 1:-3] if after.ndim == 2 else after
        torch.testing.assert_close(narrow, before, rtol=1e-6, atol=1e-6)
        if after.ndim == 2:
            assert after[~wide["mask"]].abs().max() == 0


@pytest.mark.parametrize("name", MASKED)
def test_reordering_the_batch_changes_nothing(name: str) -> None:
    inputs, order = make_inputs(), torch.tensor([2, 0, 3, 1])
    moved = {k: v[order] for k, v in inputs.items()}
    for before, after in zip(flat(MASKED[name](inputs)), flat(MASKED[name](moved)), strict=True):
        wanted = before[order] if before.ndim == 2 else before
        torch.testing.assert_close(after, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", MASKED)
def test_arguments_stay_untouched(name: str) -> None:
    inputs = make_inputs()
    MASKED[name](inputs)
    assert all(torch.equal(v, make_inputs()[k]) for k, v in inputs.items())


@pytest.mark.parametrize("name", ["policy_gradient", "ppo_policy", "ppo_value"])
def test_gradients_stay_finite_beside_pads_that_are_not(name: str) -> None:
    inputs = with_nan_pads(make_inputs())
    leaf = torch.nan_to_num(inputs["a"], nan=torch.inf).requires_grad_()
    result = flat(MASKED[name](inputs | {"a": leaf}))[0]
    result.backward()
    assert leaf.grad is not None
    assert torch.isfinite(leaf.grad).all()
    assert leaf.grad[~inputs["mask"]].abs().max() == 0
