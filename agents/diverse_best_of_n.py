"""Diverse best-of-n: of K * n samples from the reference, K that are good and unlike each other.

Greedy, by maximal marginal relevance: the best first, then again and again the response with the
greatest `q_i - diversity_weight * max_j s_ij`, j over those already chosen, q its reward brought to
[0, 1] between the worst and the best of the pool, s a cosine similarity.

The K responses are chosen together, so their diversity is the algorithm's own product and no
property of a distribution of single responses: they are given in random order, which makes them
exchangeable, but they are not independent. With K = 1 this is best-of-n; with `diversity_weight` 0
the best K of the pool, which is not best-of-n's K winners of disjoint groups.
Source: Carbonell and Goldstein 1998, doi 10.1145/290941.291025, with quality for relevance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textgym.agents.base import require
from textgym.agents.best_of_n import BestOfNConfig, Selection
from textgym.agents.diversity import responses
from textgym.errors import ConfigError
from textgym.metrics.diversity import embedding_kernel, ngram_kernel
from textgym.registry import unknown_name
from textgym.types import Rollout

Similarity = Literal["ngram", "embedding"]


@dataclass(frozen=True)
class DiverseBestOfNConfig(BestOfNConfig):
    """Settings of diverse best-of-n.

    Attributes:
        n: samples drawn for each one kept; n = 1 keeps all.
        diversity_weight: what a response that repeats one already chosen loses, in units of the
            pool's range of rewards; >= 0.
        similarity: `ngram`, the cosine of counts of the reference's tokens, mean over single
            tokens and pairs; or `embedding`, of the reference's hidden states, averaged over the
            response.
    """

    diversity_weight: float = 0.5
    similarity: Similarity = "ngram"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.diversity_weight >= 0,
            f"diversity_weight must be >= 0, got {self.diversity_weight}",
        )
        if self.similarity not in get_args(Similarity):
            known = get_args(Similarity)
            raise ConfigError(str(unknown_name("similarity", str(self.similarity), known)))


class DiverseBestOfN(Selection):
    """K good and different responses out of one pool.

    It has no `distribution`: that of a response depends on K and on the others chosen.
    """

    config_class = DiverseBestOfNConfig

    def choose(self, pool: Rollout, samples_per_prompt: int, generator: torch.Generator) -> Tensor:
        """Returns the rows of each prompt's set, in random order."""
        assert pool.rewards is not None, "sample() scores"
        chosen = []
        for rows in torch.split(torch.arange(len(pool)), samples_per_prompt * self.config.n):
            quality = pool.rewards[rows].double().numpy()
            similarity = self._similarity(pool.select(rows))
            best = marginal_relevance(
                quality, similarity, samples_per_prompt, self.config.diversity_weight
            )
            order = torch.randperm(samples_per_prompt, generator=generator)
            chosen.append(rows[best][order])
        return torch.cat(chosen)

    def _similarity(self, pool: Rollout) -> NDArray[np.float64]:
        """Returns [M, M] for one prompt's pool."""
        if self.config.similarity == "embedding":
            return embedding_kernel(self._reference.embed(pool).numpy())
        return ngram_kernel(responses(pool, self._reference.eos_token_id))

    def kl_estimates(self) -> dict[str, float]:
        """Returns `kl_bound`, log n nats per response, of a response picked from the set at random.

        K of K * n draws are given, so that no response is given more than n times as often as the
        reference gives it. There is no estimate: what a set costs is not a function of rewards.
        """
        return {"kl_bound": math.log(self.config.n)}


def marginal_relevance(
    quality: NDArray[np.float64], similarity: NDArray[np.float64], k: int, weight: float
) -> list[int]:
    """Returns k of M, the best first, each next `argmax q_i - weight * max_j s_ij`.

    >>> likeness = np.array([[1, 0.9, 0], [0.9, 1, 0], [0, 0, 1]])
    >>> marginal_relevance(np.array([9.0, 8.0, 5.0]), likeness, k=2, weight=1.0)
    [0, 2]
    >>> marginal_relevance(np.array([9.0, 8.0, 5.0]), likeness, k=2, weight=0.0)
    [0, 1]

    Args:
        quality: [M], brought to [0, 1] by the range of the pool (all 0 where all are equal); ties
            go to the first.
        similarity: [M, M].
        k: 1 <= k <= M.
        weight: >= 0; 0 gives the k best.

    Source: Carbonell and Goldstein 1998, doi 10.1145/290941.291025.
    """
    spread = np.ptp(quality)
    relevance = (quality - quality.min()) / (spread if spread > 0 else 1.0)
    chosen: list[int] = []
    closest = np.zeros(len(quality))
    for _ in range(k):
        value = relevance - weight * closest
        value[chosen] = -np.inf
        best = int(value.argmax())
        closest = np.maximum(closest, similarity[best]) if chosen else similarity[best]
        chosen.append(best)
    return chosen
