"""Soft best-of-n: of n samples from the reference, one chosen with probability softmax(r / T).

As n grows it tends to the regularised optimum at the price T of a nat, `pi_ref exp(r / T) / Z`, at
a rate of 1 / n in KL; as T falls to 0 it is best-of-n. So n bounds what may be spent and T says how
much of it is.
Source: Verdun et al. 2025, arXiv 2505.03156.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from textgym.agents.base import enumerated, require
from textgym.agents.best_of_n import BestOfNConfig, Selection
from textgym.functional import (
    best_of_n_kl_bound,
    soft_best_of_n_distribution,
    soft_best_of_n_kl,
)
from textgym.types import Rollout

if TYPE_CHECKING:
    from textgym.tasks.oracle.base import OracleTask, Table


@dataclass(frozen=True)
class SoftBestOfNConfig(BestOfNConfig):
    """Settings of soft best-of-n.

    Attributes:
        n: samples drawn for each one kept; n = 1 is the reference itself.
        temperature: T, in units of reward, > 0: the price of a nat in the optimum it tends to.
    """

    temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, f"temperature must be > 0, got {self.temperature}")


class SoftBestOfN(Selection):
    """One of each of K disjoint groups of n, by softmax."""

    config_class = SoftBestOfNConfig

    def choose(self, pool: Rollout, samples_per_prompt: int, generator: torch.Generator) -> Tensor:
        """Draws a row of each group of n."""
        assert pool.rewards is not None, "sample() scores"
        groups = pool.rewards.reshape(-1, self.config.n).double()
        chance = torch.softmax(groups / self.config.temperature, dim=1)
        drawn = torch.multinomial(chance, 1, generator=generator).squeeze(1)
        rows: Tensor = drawn + self.config.n * torch.arange(len(groups))
        return rows

    def kl_estimates(self) -> dict[str, float]:
        """Returns `kl_bound`, that of best-of-n, and `kl_estimate` from the last samples.

        The estimate is the exact KL of soft best-of-n from a prompt's K * n samples, taken as if
        they were the reference; it is biased low when n is not small against K * n. Nats per
        response.
        """
        n = self.config.n
        estimates = {"kl_bound": best_of_n_kl_bound(n)}
        if self._pool_rewards:
            by_prompt = [
                soft_best_of_n_kl(np.full(len(r), 1 / len(r)), r, n, self.config.temperature)
                for r in self._pool_rewards
            ]
            estimates["kl_estimate"] = float(np.mean(by_prompt))
        return estimates

    def distribution(self, task: OracleTask, prompts: list[str]) -> Table | None:
        """Returns the exact distribution, under the proxy's noise where the task has it."""
        base = enumerated(self._reference, task, prompts)
        rewards = task.tables.rewards[task.rows_of(prompts)]
        n, temperature = self.config.n, self.config.temperature
        rows = [
            soft_best_of_n_distribution(p, r, n, temperature, task.noise)
            for p, r in zip(base, rewards, strict=True)
        ]
        return np.stack(rows)
