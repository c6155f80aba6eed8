"""The estimated frontier against the exact one, and tilted draws against their enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from textgym.errors import ConfigError
from textgym.metrics import exact, frontier
from textgym.metrics.sets import FloatArray


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def distinct_share(items: Sequence[object]) -> float:
    return len(set(items)) / len(items)


class World:
    """Prompts with 200 outcomes each that can be enumerated, and samples from them."""

    def __init__(self, prompts: int, samples: int, seed: int = 0) -> None:
        random = rng(seed)
        # One problem behind every prompt: then only the sampling tells the prompts apart.
        self.reference = random.dirichlet(np.ones(200))
        self.rewards = random.normal(size=200)
        self.drawn = random.choice(200, size=(prompts, samples), p=self.reference)
        self.sampled = self.rewards[self.drawn]

    def best_reward(self, kl: float) -> float:
        beta = exact.beta_at_kl(self.reference, self.rewards, kl)
        return float(
            exact.expectation(exact.tilted(self.reference, self.rewards, beta), self.rewards)
        )


def at(kl: float, kls: FloatArray, values: FloatArray) -> float:
    return float(np.interp(kl, kls, values))


def test_two_samples_by_hand() -> None:
    # exp(r / beta) is 1 and 3: weights 1/4 and 3/4, KL log 2 less the entropy of the weights.
    beta = 1 / math.log(3)
    weighed = 2 * math.log(2) - 3 / 4 * math.log(3)
    found = frontier.estimated_frontier(
        [[0, 1]], rng(), logprobs=[[-1.0, -2.0]], betas=[0, beta, math.inf]
    )
    assert found.kl == pytest.approx([0, math.log(2) - weighed, math.log(2)])
    assert found.reward == pytest.approx([0.5, 0.75, 1])
    # -log pi* = -log pi_ref - log(2 w): means over the weights.
    middle = (1 - math.log(0.5)) / 4 + 3 * (2 - math.log(1.5)) / 4
    assert found.entropy == pytest.approx([1.5, middle, 2 - math.log(2)])
    assert found.trusted_kl == pytest.approx(math.log(2))
    assert frontier.estimated_frontier([[0, 1]], rng()).entropy is None


def test_estimate_meets_the_exact_frontier_up_to_what_the_samples_show() -> None:
    world = World(prompts=30, samples=256)
    found = frontier.estimated_frontier(world.sampled, rng(), resamples=200)
    assert found.trusted_kl == pytest.approx(math.log(256))
    for kl in (0.01, 0.1, 0.5, 1.0, 2.0, 3.0):
        low, high = at(kl, found.kl, found.reward_low), at(kl, found.kl, found.reward_high)
        middle, width = (low + high) / 2, high - low
        assert abs(world.best_reward(kl) - middle) < 1.5 * width
        # The band is a narrow one: a wide one would contain anything.
        assert width < 0.15
        assert low < at(kl, found.kl, found.reward) < high


def test_estimate_is_wrong_beyond_what_the_samples_show() -> None:
    world = World(prompts=30, samples=8)
    found = frontier.estimated_frontier(world.sampled, rng(), resamples=200)
    assert found.kl[-1] <= found.trusted_kl == pytest.approx(math.log(8))
    beyond = found.trusted_kl + 1.5
    assert world.best_reward(beyond) > found.reward_high[-1] + 0.3
    # There the estimate stays at the mean of the best samples.
    assert frontier.reward_at_kl(world.sampled, beyond) == pytest.approx(world.sampled.max(axis=1))


def test_band_without_kl_is_that_of_a_mean() -> None:
    """At no cost the best reward is the reference's mean, whose interval is well known."""
    world = World(prompts=40, samples=64)
    means = world.sampled.mean(axis=1)
    found = frontier.estimated_frontier(world.sampled, rng(), resamples=4000)
    assert found.reward[0] == pytest.approx(means.mean())
    error = means.std() / math.sqrt(40)
    assert found.reward_high[0] - found.reward_low[0] == pytest.approx(2 * 1.96 * error, rel=0.1)
    # A lone prompt resamples its samples.
    alone = frontier.estimated_frontier(world.sampled[:1], rng(), resamples=4000, betas=[math.inf])
    error = world.sampled[0].std() / 8
    assert alone.reward_high[0] - alone.reward_low[0] == pytest.approx(2 * 1.96 * error, rel=0.1)
    half = frontier.estimated_frontier(world.sampled, rng(), resamples=4000, level=0.5)
    assert half.reward_high[0] < found.reward_high[0]


def test_band_is_at_the_same_kl() -> None:
    """A coin and a prompt with nothing to gain: a resample has two, one or none of either.

    Two coins have half the nats each to spend, not the reward that they earn at the same beta.
    """
    rewards = [[0, 1], [0.5, 0.5]]
    found = frontier.estimated_frontier(rewards, rng(), resamples=200)
    coins = [float(frontier.reward_at_kl([[0, 1]], float(kl))[0]) for kl in found.kl]
    assert found.reward_high == pytest.approx(coins, abs=3e-4)
    assert found.reward_low == pytest.approx(np.full(len(coins), 0.5))
    again = frontier.estimated_frontier(rewards, rng(), resamples=200, level=0.2)
    assert again.reward_low == pytest.approx(found.reward)
    assert again.reward_high == pytest.approx(found.reward)


def test_generator_decides_the_band() -> None:
    rewards = rng(1).normal(size=(4, 6))
    first, second, other = (
        frontier.estimated_frontier(rewards, rng(seed), resamples=50) for seed in (1, 1, 2)
    )
    assert first.reward_low.tolist() == second.reward_low.tolist()
    assert first.reward_low.tolist() != other.reward_low.tolist()
    assert first.reward.tolist() == other.reward.tolist()


def test_entropy_of_the_tilted_policy() -> None:
    world = World(prompts=10, samples=2000)
    betas = [math.inf, 1.0, 0.5]
    found = frontier.estimated_frontier(
        world.sampled, rng(), np.log(world.reference)[world.drawn], betas, resamples=2
    )
    wanted = [exact.entropy(exact.tilted(world.reference, world.rewards, beta)) for beta in betas]
    assert found.entropy == pytest.approx(np.array(wanted), abs=0.03)
    # Far apart, so that one could not pass for another.
    assert (np.diff(wanted) < -0.2).all()


def test_reward_at_kl() -> None:
    # One prompt has nothing to gain, so the other spends twice the mean.
    beta = 1 / math.log(3)
    spent = math.log(2) - (2 * math.log(2) - 3 / 4 * math.log(3))
    assert frontier.reward_at_kl([[0, 1], [7, 7]], spent / 2) == pytest.approx([0.75, 7])
    world = World(prompts=6, samples=50)
    point = frontier.estimated_frontier(world.sampled, rng(), betas=[beta], resamples=1)
    found = frontier.reward_at_kl(world.sampled, point.kl[0])
    assert found.shape == (6,)
    assert found.mean() == pytest.approx(point.reward[0])
    assert frontier.reward_at_kl(world.sampled, 0) == pytest.approx(world.sampled.mean(axis=1))


def test_trusted_kl() -> None:
    assert frontier.trusted_kl(64) == pytest.approx(math.log(64))
    assert frontier.trusted_kl(64, 8) == pytest.approx(math.log(8))
    assert frontier.trusted_kl(5, 5) == 0
    for k in (0, 6):
        with pytest.raises(ConfigError, match=f"between 1 and the 5 samples, got {k}"):
            frontier.trusted_kl(5, k)


def test_draws_are_sequential_by_weight() -> None:
    """Three samples, two draws: `w_i w_j / (1 - w_i)` for every ordered pair."""
    weights = np.array([0.2, 0.3, 0.5])
    items, beta = ["a", "b", "c"], 0.7
    value = {frozenset("ab"): 1.0, frozenset("ac"): 10.0, frozenset("bc"): 100.0}
    wanted = sum(
        weights[i] * weights[j] / (1 - weights[i]) * value[frozenset((items[i], items[j]))]
        for i, j in itertools.permutations(range(3), 2)
    )
    found = frontier.tilted_diversity(
        items * 2,
        np.tile(beta * np.log(weights), (2, 1)),
        beta,
        2,
        lambda pair: value[frozenset(pair)],
        rng(),
        repeats=20_000,
    )
    # The value's standard deviation is 48, so 1.4 is four standard errors.
    assert found == pytest.approx([wanted, wanted], abs=1.4)


def test_draws_at_the_ends() -> None:
    items, rewards = list("abcdefgh"), [[1, 3, 2, 3], [0, 0, 0, 9]]
    drawn: list[str] = []

    def record(chosen: Sequence[str]) -> float:
        drawn.append("".join(sorted(chosen)))
        return float(len(drawn))

    # The best, then the next best, ties at random; means of 1, 3, 5 and of 2, 4, 6.
    found = frontier.tilted_diversity(items, rewards, 0, 2, record, rng(), repeats=3)
    assert found.tolist() == [3, 4]
    assert set(drawn[::2]) == {"bd"}
    assert all("h" in pair for pair in drawn[1::2])
    drawn.clear()
    frontier.tilted_diversity(items, rewards, 0, 2, record, rng(), repeats=40)
    assert set(drawn[1::2]) == {"eh", "fh", "gh"}
    drawn.clear()
    frontier.tilted_diversity(items, rewards, math.inf, 1, record, rng(), repeats=100)
    assert set(drawn) == set(items)


@pytest.mark.parametrize("outcomes", [3, 40])
def test_diversity_is_that_of_the_tilted_policy(outcomes: int) -> None:
    """Two draws of an enumerated policy are one text with probability `sum pi*^2`."""
    random = rng(1)
    reference, rewards = random.dirichlet(np.ones(outcomes)), random.normal(size=outcomes)
    drawn = random.choice(outcomes, size=(60, 300), p=reference)
    for beta in (math.inf, 0.7):
        found = frontier.tilted_diversity(
            drawn.ravel().tolist(), rewards[drawn], beta, 2, distinct_share, rng(), repeats=30
        )
        policy = exact.tilted(reference, rewards, beta)
        # 1800 pairs: a standard error of at most 0.006, and 0.005 for 300 samples.
        assert found.mean() == pytest.approx(1 - (policy**2).sum() / 2, abs=0.025)


def test_fresh_texts_stay_fresh_until_the_samples_run_out() -> None:
    """Where no text comes twice the policy's sets are all distinct, at any price."""
    rewards = rng(1).normal(size=(5, 32))
    found = frontier.tilted_diversity(range(160), rewards, 0.1, 8, distinct_share, rng())
    assert found.tolist() == [1] * 5
    # Beyond log(M / k): a quarter is good, the policy writes nothing else and has one text among
    # 8 draws, but 4 of 16 samples do not fill a set of 8.
    items = ["good"] * 4 + ["bad"] * 12
    biased = frontier.tilted_diversity(
        items, [[1.0] * 4 + [0.0] * 12], 0.01, 8, distinct_share, rng()
    )
    assert biased.tolist() == [2 / 8]
    assert frontier.trusted_kl(16, 8) < math.log(4)
    within = frontier.tilted_diversity(
        items, [[1.0] * 4 + [0.0] * 12], 0.01, 4, distinct_share, rng()
    )
    assert within.tolist() == [1 / 4]


def test_bad_input_is_refused() -> None:
    def draw(items: Sequence[int], beta: float = 1.0, k: int = 1, repeats: int = 1) -> FloatArray:
        return frontier.tilted_diversity(
            items, [[0, 1]], beta, k, distinct_share, rng(), repeats=repeats
        )

    with pytest.raises(ValueError, match=r"shape \[N, M\], got \[2\]"):
        frontier.estimated_frontier([0, 1], rng())
    with pytest.raises(ValueError, match="finite rewards"):
        frontier.reward_at_kl([[0, math.nan]], 1)
    with pytest.raises(ValueError, match=r"logprobs of shape \[1, 2\], got \[2\]"):
        frontier.estimated_frontier([[0, 1]], rng(), logprobs=[-1, -1])
    with pytest.raises(ConfigError, match="resamples must be >= 1, got 0"):
        frontier.estimated_frontier([[0, 1]], rng(), resamples=0)
    with pytest.raises(ConfigError, match=r"level must be in \(0, 1\), got 95"):
        frontier.estimated_frontier([[0, 1]], rng(), level=95)
    with pytest.raises(ConfigError, match="beta must be >= 0, got -2"):
        frontier.estimated_frontier([[0, 1]], rng(), betas=[1, -2])
    with pytest.raises(ConfigError, match="beta must be >= 0, got nan"):
        draw([1, 2], beta=math.nan)
    with pytest.raises(ConfigError, match="between 1 and the 2 samples, got 3"):
        draw([1, 2], k=3)
    with pytest.raises(ConfigError, match="repeats must be >= 1"):
        draw([1, 2], repeats=0)
    with pytest.raises(ValueError, match="expected 2 items and finite rewards, got 3"):
        draw([1, 2, 3])
