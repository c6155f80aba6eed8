"""Which responses form a set; lengths, duplicates, modes and toxicity."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from textgym.errors import ConfigError
from textgym.metrics import responses, sets, toxicity

# Two prompts, three samples each.
NESTED = [["a", "b", "c"], ["x", "y", "z"]]
FLAT = ["a", "b", "c", "x", "y", "z"]


def test_sets_are_per_prompt_or_one_per_prompt_and_never_the_pool() -> None:
    seen: list[Any] = []

    def metric(group: Any) -> float:
        seen.append(list(group))
        return float(len(seen))

    assert sets.per_prompt(metric, FLAT, k=3).tolist() == [1, 2]
    assert seen == NESTED
    seen.clear()
    assert sets.per_choice(metric, NESTED).tolist() == [1, 2, 3]
    assert seen == [["a", "x"], ["b", "y"], ["c", "z"]]


def test_means_over_prompts_and_choices() -> None:
    values = np.arange(6.0)[:, None]
    assert sets.per_input(lambda e: float(np.max(e)), values, k=3) == (2 + 5) / 2
    assert sets.across_input(lambda e: float(np.max(e)), values, k=3) == (3 + 4 + 5) / 3


def test_across_input_sees_collapse_across_prompts_that_per_input_cannot() -> None:
    """The same K different answers to every prompt: varied within, identical across."""
    samples = [["a", "b"], ["a", "b"], ["a", "b"]]

    def distinct(group: Any) -> float:
        return len(set(group)) / len(group)

    assert sets.per_input(distinct, samples) == 1
    assert sets.across_input(distinct, samples) == pytest.approx(1 / 3)


def test_cut() -> None:
    assert sets.cut([[1, 2, 3], [4]], 2) == [[1, 2], [4]]
    with pytest.raises(ConfigError, match=">= 1 token, got 0"):
        sets.cut([[1]], 0)


def test_quality_gate_keeps_one_size_of_set() -> None:
    passed = [[True, False, True], [False, True, False]]
    values = sets.quality_gated(lambda g: ord(g[0]) + ord(g[1]), NESTED, passed)
    assert values[0] == ord("a") + ord("c")
    assert math.isnan(values[1])
    everything = sets.quality_gated(len, FLAT, np.ones(6, bool), keep=2, k=3)
    assert everything.tolist() == [2, 2]
    with pytest.raises(ValueError, match="5 gates for 2 x 3"):
        sets.quality_gated(len, FLAT, np.ones(5, bool), k=3)
    with pytest.raises(ConfigError, match="keep must be >= 1"):
        sets.quality_gated(len, NESTED, passed, keep=0)


def test_bad_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="6 samples are no multiple of 4"):
        sets.by_prompt(FLAT, 4)
    with pytest.raises(ConfigError, match=">= 1, got 0"):
        sets.by_prompt(FLAT, 0)
    with pytest.raises(ValueError, match=r"equally many samples per prompt, got \[1, 2\]"):
        sets.by_prompt([["a"], ["b", "c"]])
    for nothing in ([], [[], []]):
        with pytest.raises(ValueError, match="no samples"):
            sets.by_prompt(nothing)


def test_lengths_truncation_and_duplicates() -> None:
    mask = np.array([[True, True, False], [True, False, False]])
    assert responses.response_lengths(mask).tolist() == [2, 1]
    assert responses.response_lengths(np.pad(mask, ((0, 0), (1, 2)))).tolist() == [2, 1]
    assert responses.truncation_rate([True, False, False, True]) == 0.5
    assert responses.duplicate_rate([[1, 2], [1, 2], [1], [1, 2]]) == 0.5
    assert responses.duplicate_rate([[1], [2]]) == 0
    for function in (responses.truncation_rate, responses.duplicate_rate, responses.mode_coverage):
        with pytest.raises(ConfigError, match="at least one"):
            function([])


def test_mode_coverage() -> None:
    even = responses.mode_coverage(["poet", "troll"] * 5)
    assert even.entropy == pytest.approx(math.log(2))
    assert even.modes == 2
    # One in a hundred is not above 1%, one in ninety-nine is.
    assert responses.mode_coverage(["poet"] * 99 + ["troll"]).modes == 1
    assert responses.mode_coverage(["poet"] * 98 + ["troll"]).modes == 2
    assert responses.mode_coverage(["poet"] * 3).entropy == 0


def test_toxicity_by_hand() -> None:
    scores = [[0.1, 0.9], [0.5, 0.2], [0.6, 0.51]]
    assert toxicity.max_toxicity(scores).tolist() == [0.9, 0.5, 0.6]
    assert toxicity.expected_max_toxicity(scores) == pytest.approx(2 / 3)
    # Above 0.5, so the second prompt does not count.
    assert toxicity.toxicity_probability(scores) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"shape \[N, K\], got \[2\]"):
        toxicity.max_toxicity([0.1, 0.2])
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        toxicity.max_toxicity([[1.2]])
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        toxicity.max_toxicity([[float("nan")]])
