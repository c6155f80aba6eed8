"""From many people's rewards to one: mean, majority, Borda, maximin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from textgym.errors import ConfigError, RewardError
from textgym.metrics.sets import FloatArray
from textgym.registry import unknown_name

if TYPE_CHECKING:
    from textgym.types import RewardFunction


def mean(scores: FloatArray, weights: FloatArray) -> FloatArray:
    """Returns the weighted mean [M] of scores [A, M]: the utilitarian sum of Harsanyi 1955."""
    return np.asarray(weights @ scores)


def maximin(scores: FloatArray, weights: FloatArray) -> FloatArray:
    """Returns the least score [M] of [A, M], by whomever of weight > 0: Rawls 1971.

    Over groups as in MaxMin-RLHF (Chakraborty et al. 2024, arXiv 2402.08925).
    """
    return np.asarray(scores[weights > 0].min(axis=0))


def support(scores: FloatArray, weights: FloatArray) -> FloatArray:
    """Returns [M, M]: the weight of those who score the row's completion above the column's.

    Equal scores give half; the diagonal is one half.

    Args:
        scores: [A, M] of M completions of one prompt.
        weights: [A], which sum to 1.
    """
    above = np.sign(scores[:, :, None] - scores[:, None, :])
    return np.asarray(np.einsum("a,aij->ij", weights, above) / 2 + 0.5)


def borda(scores: FloatArray, weights: FloatArray) -> FloatArray:
    """Returns the mean support [M] of each completion against the others, in [0, 1].

    Borda's count over its greatest value (Borda 1784). A completion alone has one half.
    """
    return _against_others(support(scores, weights))


def majority(scores: FloatArray, weights: FloatArray) -> FloatArray:
    """Returns the share [M] of the others that each completion beats by majority, in [0, 1].

    A contest that is even counts as half (Copeland 1951); where majorities go round in a circle
    all in it score alike. A completion alone has one half.
    """
    share = support(scores, weights)
    even = np.isclose(share, 0.5, rtol=0, atol=1e-9)
    return _against_others(np.where(even, 0.5, share > 0.5))


AGGREGATIONS: dict[str, Callable[[FloatArray, FloatArray], FloatArray]] = {
    "borda": borda,
    "majority": majority,
    "maximin": maximin,
    "mean": mean,
}
"""The rules by name."""

WITHIN_PROMPT = ("borda", "majority")
"""The rules that compare completions of one prompt with each other."""


def aggregate(
    scores: ArrayLike,
    how: str,
    prompts: Sequence[str] | None = None,
    weights: ArrayLike | None = None,
) -> FloatArray:
    """Returns one score [M] for each completion from many.

    `mean` and `maximin` compare people's scores, which must then be in one unit (normalise each on
    the same samples); `majority` and `borda` read nothing but each one's order within a prompt.

    Args:
        scores: [A, M], each annotator's or group's of M completions.
        how: one of `AGGREGATIONS`.
        prompts: M prompts; None where all complete one prompt.
        weights: [A] >= 0, such as the groups' sizes; None for equal ones.

    Raises:
        ConfigError: an unknown rule.
        ValueError: shapes that do not fit, scores that are not finite, weights below 0 or all 0.

    >>> aggregate([[3.0, 1.0, 2.0], [0.0, 1.0, 2.0]], "borda").tolist()
    [0.5, 0.25, 0.75]
    """
    if how not in AGGREGATIONS:
        raise ConfigError(str(unknown_name("aggregation", how, AGGREGATIONS)))
    x = np.asarray(scores, float)
    if x.ndim != 2 or not len(x) or not np.isfinite(x).all():
        raise ValueError(f"expected finite scores of shape [A, M], got {list(x.shape)}")
    w = _normalised(weights, len(x))
    rule = AGGREGATIONS[how]
    if how not in WITHIN_PROMPT:
        return rule(x, w)
    asked = [""] * x.shape[1] if prompts is None else list(prompts)
    if len(asked) != x.shape[1]:
        raise ValueError(f"{len(asked)} prompts for {x.shape[1]} completions")
    columns: dict[str, list[int]] = {}
    for i, prompt in enumerate(asked):
        columns.setdefault(prompt, []).append(i)
    found = np.zeros(x.shape[1])
    for own in columns.values():
        found[own] = rule(x[:, own], w)
    return found


class AggregateReward:
    """A reward function made of several people's.

    With `majority` and `borda` a completion's reward depends on the other completions of its prompt
    in the same call: score all samples of a prompt together.

    Attributes:
        rewards: name -> reward function.
        how: one of `AGGREGATIONS`.
        weights: name -> weight >= 0; None for equal ones.

    Raises:
        ConfigError: on construction, no rewards, an unknown rule, or weights of other names.
        ValueError: on construction, weights below 0 or all 0.
    """

    def __init__(
        self,
        rewards: Mapping[str, RewardFunction],
        how: str = "mean",
        weights: Mapping[str, float] | None = None,
    ) -> None:
        if not rewards:
            raise ConfigError("no rewards to aggregate")
        if how not in AGGREGATIONS:
            raise ConfigError(str(unknown_name("aggregation", how, AGGREGATIONS)))
        if weights is not None and set(weights) != set(rewards):
            raise ConfigError(f"weights of {sorted(weights)} for rewards of {sorted(rewards)}")
        self.rewards = dict(rewards)
        self.how = how
        self.weights = None if weights is None else [weights[name] for name in self.rewards]
        _normalised(self.weights, len(self.rewards))

    def __call__(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Returns each completion's aggregated score.

        Raises: RewardError when a reward gives another number of scores or one not finite.
        """
        scores = []
        for name, reward in self.rewards.items():
            given = reward(prompts, completions, **columns)
            if len(given) != len(completions) or not np.isfinite(given).all():
                raise RewardError(
                    f"the reward of {name!r} gave {len(given)} scores for {len(completions)} "
                    "completions, or one that is not finite"
                )
            scores.append(given)
        return [float(x) for x in aggregate(scores, self.how, prompts, self.weights)]


def _against_others(shares: FloatArray) -> FloatArray:
    """Returns the mean of each row of [M, M] without its diagonal, which is one half."""
    others = len(shares) - 1
    return (shares.sum(axis=1) - 0.5) / others if others else np.full(1, 0.5)


def _normalised(weights: ArrayLike | None, count: int) -> FloatArray:
    """Returns weights [A] that sum to 1."""
    w = np.ones(count) if weights is None else np.asarray(weights, float)
    if w.shape != (count,) or not (w >= 0).all() or not 0 < w.sum() < np.inf:
        raise ValueError(f"expected {count} weights >= 0, one of them above, got {w.tolist()}")
    return np.asarray(w / w.sum())
