"""KL and entropy per response and per token: hand numbers, standard errors, padding."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from textgym.errors import ConfigError
from textgym.metrics import kl

FULL = np.array([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0], [1.0, 1.0, 1.0], [0.0, 2.0, 9.0]])
MASK = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]], bool)
# Sums 3, 4 | 3, 2 and lengths 2, 1 | 3, 2.


def test_per_response_and_per_token_are_different_numbers() -> None:
    assert kl.kl_seq(FULL, MASK).value == 3
    assert kl.kl_token(FULL, MASK).value == 12 / 8
    # The mean of per-response means would be (1.5 + 4 + 1 + 1) / 4.
    assert kl.entropy_seq(FULL, MASK) == kl.kl_seq(FULL, MASK)
    assert kl.entropy_token(FULL, MASK) == kl.kl_token(FULL, MASK)


def test_standard_errors_are_over_prompts() -> None:
    # Prompt means 3.5 and 2.5: sample variance 0.5, over two prompts.
    assert kl.prompt_sums(FULL, MASK, 2).tolist() == [3.5, 2.5]
    assert kl.kl_seq(FULL, MASK, k=2).standard_error == pytest.approx(math.sqrt(0.5 / 2))
    # Residuals 3.5 - 1.5 * 1.5 = 1.25 and 2.5 - 1.5 * 2.5 = -1.25, over the mean length 2.
    wanted = math.sqrt(2 * 1.25**2 / 1 / 2) / 2
    assert kl.kl_token(FULL, MASK, k=2).standard_error == pytest.approx(wanted)
    assert math.isnan(kl.kl_seq(FULL, MASK, k=4).standard_error)


def test_standard_errors_are_the_spread_of_repeated_experiments() -> None:
    generator = np.random.default_rng(0)
    runs: dict[str, list[kl.Estimate]] = {"seq": [], "token": []}
    for _ in range(400):
        level = generator.gamma(2.0, size=(50, 1)).repeat(4, axis=0)
        lengths = generator.integers(1, 7, size=(200, 1))
        mask = np.arange(6) < lengths
        full = level * generator.exponential(size=(200, 6))
        runs["seq"].append(kl.kl_seq(full, mask, k=4))
        runs["token"].append(kl.kl_token(full, mask, k=4))
    for estimates in runs.values():
        spread = np.std([e.value for e in estimates])
        assert np.mean([e.standard_error for e in estimates]) == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize("function", [kl.kl_seq, kl.kl_token, kl.entropy_seq, kl.entropy_token])
def test_padding_and_order_change_nothing(function: Callable[..., kl.Estimate]) -> None:
    before = function(FULL, MASK, 2)
    wide = np.pad(FULL, ((0, 0), (1, 2)), constant_values=np.nan)
    assert function(wide, np.pad(MASK, ((0, 0), (1, 2))), 2) == before
    order = [3, 2, 0, 1]
    assert function(FULL[order], MASK[order], 2) == before


def test_takes_tensors() -> None:
    assert kl.kl_seq(torch.tensor(FULL), torch.tensor(MASK), 2) == kl.kl_seq(FULL, MASK, 2)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="bool mask"):
        kl.kl_seq(FULL, MASK.astype(float))
    with pytest.raises(ValueError, match="no multiple of 3"):
        kl.kl_seq(FULL, MASK, 3)
    with pytest.raises(ConfigError, match=">= 1, got 0"):
        kl.kl_seq(FULL, MASK, 0)
    with pytest.raises(ValueError, match="selects no token"):
        kl.kl_token(FULL, np.zeros_like(MASK))
