"""Best-of-n: sample n from the reference, keep the one the proxy reward likes best.

Distribution: `pi_n(y) = F(y)^n - F(y-)^n`, F the CDF of the reward under the reference; ties go to
the first sampled, which is a uniform choice among them since samples are exchangeable.
Source: Stiennon et al. 2020, arXiv 2009.01325; the KL bound's status: Beirami et al. 2024,
arXiv 2401.01879.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from textgym.agents.base import Agent, Setup, enumerated, require
from textgym.errors import PluginError
from textgym.functional import (
    best_of_n_distribution,
    best_of_n_kl_bound,
    best_of_n_kl_estimate,
    noisy_best_of_n_distribution,
)
from textgym.rollout import rollout, score
from textgym.types import Rollout

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

    from textgym.models.policy import Policy
    from textgym.tasks.oracle.base import OracleTask, Table


@dataclass(frozen=True)
class BestOfNConfig:
    """Settings of best-of-n.

    Attributes:
        n: samples drawn for each one kept; n = 1 is the reference itself.
    """

    n: int = 8

    def __post_init__(self) -> None:
        require(self.n >= 1, f"n must be >= 1, got {self.n}")


class Selection(Agent):
    """Trains nothing; spends n completions of the reference for each sample it gives.

    Subclasses say which of a scored pool are given. No policy scores their samples, so that the
    harness cannot measure a KL and shows `kl_estimates`.
    """

    config_class = BestOfNConfig

    def train(self, setup: Setup) -> None:
        """Keeps the reference to sample from; uses no training budget."""
        self.task = setup.task
        self._reference: Policy = setup.reference
        self._pool_rewards: list[NDArray[np.float32]] = []

    def sample(self, rows: Dataset, samples_per_prompt: int, generator: torch.Generator) -> Rollout:
        """Returns K of the K * n scored responses drawn to each prompt."""
        if self.task is None:
            raise PluginError(f"{type(self).__name__}.sample called before train")
        pool = score(
            rollout(
                self._reference,
                self.task,
                rows,
                samples_per_prompt=samples_per_prompt * self.config.n,
                generator=generator,
            ),
            self.task,
        )
        assert pool.rewards is not None, "score() sets them"
        self._pool_rewards = list(pool.rewards.reshape(len(rows), -1).numpy())
        chosen = self.choose(pool, samples_per_prompt, generator)
        return pool.select(chosen, samples_per_prompt=samples_per_prompt)

    @abstractmethod
    def choose(self, pool: Rollout, samples_per_prompt: int, generator: torch.Generator) -> Tensor:
        """Returns which rows to give, [N * K] and prompt-major, of a pool of N * K * n."""


class BestOfN(Selection):
    """The best of n for each sample.

    The K samples of a prompt come from K disjoint groups of n, since reusing a pool would bias
    diversity down.
    """

    def choose(self, pool: Rollout, samples_per_prompt: int, generator: torch.Generator) -> Tensor:
        """Returns the row of the best of each group of n."""
        assert pool.rewards is not None, "sample() scores"
        groups = pool.rewards.reshape(-1, self.config.n)
        best: Tensor = groups.argmax(dim=1) + self.config.n * torch.arange(len(groups))
        return best

    def kl_estimates(self) -> dict[str, float]:
        """Returns `kl_bound`, `log n - (n - 1) / n`, and `kl_estimate` from the last samples.

        The estimate counts ties of the proxy reward among the K * n samples of a prompt, and is
        biased low when n is not small against K * n. Nats per response.
        """
        n = self.config.n
        estimates = {"kl_bound": best_of_n_kl_bound(n)}
        if self._pool_rewards:
            by_prompt = [best_of_n_kl_estimate(rewards, n) for rewards in self._pool_rewards]
            estimates["kl_estimate"] = float(np.mean(by_prompt))
        return estimates

    def distribution(self, task: OracleTask, prompts: list[str]) -> Table | None:
        """Returns pi_n exactly, under the proxy's noise where the task has it."""
        base = enumerated(self._reference, task, prompts)
        rewards = task.tables.rewards[task.rows_of(prompts)]
        n, noise = self.config.n, task.noise
        rows = [
            noisy_best_of_n_distribution(p, r, n, noise)
            if noise
            else best_of_n_distribution(p, r, n)
            for p, r in zip(base, rewards, strict=True)
        ]
        return np.stack(rows)
