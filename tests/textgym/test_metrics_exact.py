"""Tilted policies against hand-worked coins, enumerated draws and random rivals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from textgym.errors import ConfigError
from textgym.metrics import exact
from textgym.metrics.sets import FloatArray

COIN, PAYS = [0.5, 0.5], [0.0, 1.0]
# exp(r / beta) is 1 and 3, so pi* is 1/4 and 3/4 and Z is 2.
BETA = 1 / math.log(3)
COIN_KL = math.log(0.5) / 4 + 3 * math.log(1.5) / 4


def problem(seed: int, prompts: int = 3, outcomes: int = 6) -> tuple[FloatArray, FloatArray]:
    random = np.random.default_rng(seed)
    return random.dirichlet(np.ones(outcomes), size=prompts), random.normal(
        size=(prompts, outcomes)
    )


def test_sums_by_hand() -> None:
    assert exact.expectation([[0.5, 0.5], [0.25, 0.75]], [1, 3]).tolist() == [2, 2.5]
    assert exact.entropy([[0.5, 0.5, 0], [0, 1, 0]]) == pytest.approx([math.log(2), 0])
    assert exact.kl([[0.25, 0.75], [0.5, 0.5]], COIN) == pytest.approx([COIN_KL, 0])
    assert exact.kl([1, 0], COIN) == pytest.approx(math.log(2))
    assert exact.kl(COIN, [1, 0]) == math.inf


def test_coin_by_hand() -> None:
    best = exact.tilted(COIN, PAYS, BETA)
    assert best == pytest.approx([0.25, 0.75])
    value = math.log(2) / math.log(3)
    assert exact.optimum(COIN, PAYS, BETA) == pytest.approx(value)
    assert exact.objective(best, COIN, PAYS, BETA) == pytest.approx(0.75 - BETA * COIN_KL)
    assert exact.objective(best, COIN, PAYS, BETA) == pytest.approx(value)
    # The reference spends nothing and earns 1/2; always heads earns 1 for log 2 nats.
    assert exact.regret(COIN, COIN, PAYS, BETA) == pytest.approx(value - 0.5)
    assert exact.regret([0, 1], COIN, PAYS, BETA) == pytest.approx(value - (1 - value))
    assert exact.regret(best, COIN, PAYS, BETA) == pytest.approx(0, abs=1e-15)


def test_ends() -> None:
    reference, rewards = [0.1, 0.3, 0.6, 0.0], [2, 2, 1, 9]
    assert exact.tilted(reference, rewards, 0) == pytest.approx([0.25, 0.75, 0, 0])
    assert exact.tilted(reference, rewards, math.inf).tolist() == reference
    assert exact.optimum(reference, rewards, 0) == 2
    assert exact.optimum(reference, rewards, math.inf) == pytest.approx(1.4)
    # The limits are approached, and what the reference never draws is never preferred.
    assert exact.tilted(reference, rewards, 1e-3) == pytest.approx([0.25, 0.75, 0, 0])
    assert exact.tilted(reference, rewards, 1e9) == pytest.approx(reference)
    assert exact.optimum(reference, rewards, 1e9) == pytest.approx(1.4)
    assert exact.regret([0, 0, 1, 0], reference, rewards, 0) == pytest.approx(1)
    assert exact.regret(reference, reference, rewards, math.inf) == 0
    assert exact.regret([0, 0, 1, 0], reference, rewards, math.inf) == math.inf
    for beta in (0.0, 0.5, math.inf):
        assert exact.regret([0, 0, 0, 1], reference, rewards, beta) == math.inf
        assert exact.objective([0, 0, 0, 1], reference, rewards, beta) == -math.inf


def test_regret_is_beta_times_the_kl_to_the_best() -> None:
    reference, rewards = problem(0)
    p = np.random.default_rng(1).dirichlet(np.ones(6), size=3)
    p[0, 2] = 0
    p[0] /= p[0].sum()
    for beta in (0.05, 0.3, 1.0, 40.0):
        regret = exact.regret(p, reference, rewards, beta)
        to_best = exact.kl(p, exact.tilted(reference, rewards, beta))
        assert regret == pytest.approx(beta * to_best)
        gap = exact.optimum(reference, rewards, beta) - exact.objective(p, reference, rewards, beta)
        assert regret == pytest.approx(gap)


def test_regret_where_differences_of_floats_fail() -> None:
    # Always tails at a low price: the best leaves it exp(-1000), which is no float.
    assert exact.regret([1, 0], COIN, PAYS, 1e-3) == pytest.approx(1, rel=1e-12)
    # At a high price the reference misses only variance / (2 beta), against terms near 1/2.
    assert exact.regret(COIN, COIN, PAYS, 1e10) == pytest.approx(0.25 / 2e10, rel=1e-6, abs=0)
    assert exact.regret(COIN, COIN, np.array(PAYS) + 1e3, 1e6) == pytest.approx(
        0.25 / 2e6, rel=1e-6, abs=0
    )

    # A best outcome too rare for 1 - p to tell from 1 costs its whole surprise.
    rare = [1 - 1e-18, 1e-18]
    assert exact.optimum(rare, PAYS, 1e-3) == pytest.approx(1 + 1e-3 * math.log(1e-18), rel=1e-12)
    assert exact.exact_frontier([rare], [PAYS], [0]).kl == pytest.approx(-math.log(1e-18))


def test_nothing_beats_the_tilted_policy() -> None:
    reference, rewards = problem(2)
    random = np.random.default_rng(3)
    for beta in (0.1, 1.0, 10.0):
        best = exact.tilted(reference, rewards, beta)
        top = exact.optimum(reference, rewards, beta)
        assert exact.objective(best, reference, rewards, beta) == pytest.approx(top)
        near = best * np.exp(random.normal(0, 0.1, size=(500, 3, 6)))
        near /= near.sum(axis=-1, keepdims=True)
        assert (exact.objective(near, reference, rewards, beta) < top).all()


def test_no_policy_lies_above_the_frontier() -> None:
    """Whole policies over three prompts, held to their mean KL and mean reward."""
    reference, rewards = problem(4)
    random = np.random.default_rng(5)
    margins = []
    for _ in range(300):
        wild = reference * np.exp(
            random.uniform(0, 4) * rewards + random.normal(0, 0.3, size=rewards.shape)
        )
        wild /= wild.sum(axis=1, keepdims=True)
        spent = exact.kl(wild, reference).mean()
        best = exact.tilted(reference, rewards, exact.beta_at_kl(reference, rewards, spent))
        assert exact.kl(best, reference).mean() == pytest.approx(spent, rel=1e-9)
        margins.append(
            exact.expectation(best, rewards).mean() - exact.expectation(wild, rewards).mean()
        )
    assert min(margins) > 0
    # Some rivals come close, so that the frontier is no loose bound.
    assert min(margins) < 0.02


@pytest.mark.parametrize("k", [1, 2, 4])
def test_expected_maximum_is_that_of_every_draw(k: int) -> None:
    p, values = [[0.1, 0.2, 0.3, 0.4], [0.5, 0.0, 0.5, 0.0]], [3, 7, -1, 3]
    for row, found in zip(p, exact.expected_maximum(p, values, k), strict=True):
        draws = itertools.product(range(4), repeat=k)
        wanted = sum(math.prod(row[i] for i in d) * max(values[i] for i in d) for d in draws)
        assert found == pytest.approx(wanted)


def test_expected_maximum_of_very_many_draws() -> None:
    assert exact.expected_maximum([0.9, 0.1, 0.0], [0, 1, 5], 10**12) == pytest.approx(1)
    # One chance in a million, a million draws: missed with probability 1/e.
    rare = exact.expected_maximum([1 - 1e-6, 1e-6], [0, 1], 10**6)
    assert rare == pytest.approx(1 - math.exp(-1), rel=1e-5)


def test_beta_at_kl_by_hand() -> None:
    assert exact.beta_at_kl(COIN, PAYS, COIN_KL) == pytest.approx(BETA)
    # Near the reference KL = variance / (2 beta^2).
    assert exact.beta_at_kl(COIN, PAYS, 1e-20) == pytest.approx(math.sqrt(0.25 / 2e-20))
    assert exact.beta_at_kl(COIN, PAYS, 0) == math.inf
    assert exact.beta_at_kl(COIN, PAYS, math.log(2)) == 0
    assert 0 < exact.beta_at_kl(COIN, PAYS, math.log(2) - 1e-6) < 0.1
    assert exact.beta_at_kl(COIN, PAYS, math.inf) == 0
    assert exact.beta_at_kl(COIN, [3, 3], 0.1) == 0
    with pytest.raises(ValueError, match="got nan"):
        exact.beta_at_kl(COIN, PAYS, math.nan)


def test_prompts_share_a_beta() -> None:
    """A prompt with nothing to gain spends nothing and leaves its nats to the other."""
    reference, rewards = [COIN, COIN], [PAYS, [4, 4]]
    beta = exact.beta_at_kl(reference, rewards, COIN_KL / 2)
    assert beta == pytest.approx(BETA)
    point = exact.exact_frontier(reference, rewards, [beta])
    assert (point.kl, point.reward) == (
        pytest.approx([COIN_KL / 2]),
        pytest.approx([(0.75 + 4) / 2]),
    )
    alone = exact.tilted(COIN, PAYS, exact.beta_at_kl(COIN, PAYS, COIN_KL / 2))
    assert (exact.expectation(alone, PAYS) + 4) / 2 < point.reward[0]


def test_frontier_by_hand_and_its_grid() -> None:
    one = exact.exact_frontier([COIN], [PAYS], [0, BETA, math.inf])
    assert one.betas.tolist() == [math.inf, BETA, 0]
    assert one.kl == pytest.approx([0, COIN_KL, math.log(2)])
    assert one.reward == pytest.approx([0.5, 0.75, 1])
    assert one.entropy == pytest.approx([math.log(2), math.log(2) - COIN_KL, 0])
    reference, rewards = problem(6, prompts=5, outcomes=40)
    for scale in (1e-6, 1.0, 1e6):
        curve = exact.exact_frontier(reference, scale * rewards)
        assert (curve.betas[0], curve.betas[-1]) == (math.inf, 0)
        assert (np.diff(curve.kl) > 0).all()
        assert (np.diff(curve.reward) > 0).all()
        # Fine enough to draw: no step leaves out more than a tenth of the way.
        assert np.diff(curve.kl).max() < 0.1 * curve.kl[-1]
        assert np.diff(curve.reward).max() < 0.1 * np.ptp(curve.reward)
    by_prompt = exact.frontier_by_prompt(reference, rewards, [0.3])
    assert by_prompt.kl.shape == (1, 5)
    assert exact.exact_frontier(reference, rewards, [0.3]).kl == pytest.approx(by_prompt.kl.mean())
    assert exact.exact_frontier([COIN], [[1, 1]]).kl.tolist() == [0, 0]


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="beta must be >= 0, got -1"):
        exact.tilted(COIN, PAYS, -1)
    with pytest.raises(ConfigError, match="beta must be >= 0, got -inf"):
        exact.optimum(COIN, PAYS, -math.inf)
    with pytest.raises(ConfigError, match="beta must be >= 0, got nan"):
        exact.objective(COIN, COIN, PAYS, math.nan)
    with pytest.raises(ConfigError, match="beta must be >= 0"):
        exact.exact_frontier([COIN], [PAYS], [1, -1])
    with pytest.raises(ConfigError, match=r"betas from 0 to inf, got \[\]"):
        exact.exact_frontier([COIN], [PAYS], [])
    with pytest.raises(ConfigError, match="k must be >= 1, got 0"):
        exact.expected_maximum(COIN, PAYS, 0)
    with pytest.raises(ValueError, match=r"got the sum 1\.5"):
        exact.entropy([COIN, [0.5, 1.0]])
    with pytest.raises(ValueError, match="the reference >= 0"):
        exact.tilted([1.5, -0.5], PAYS, 1)
    with pytest.raises(ValueError, match=r"expected 2 outcomes in rewards, got \[3\]"):
        exact.tilted(COIN, [1, 2, 3], 1)
    with pytest.raises(ValueError, match="finite values"):
        exact.expectation(COIN, [0, math.nan])
    with pytest.raises(ValueError, match=r"shape \[..., L\], got \[0\]"):
        exact.entropy([])
