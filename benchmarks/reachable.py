"""The best that could be had at an agent's KL, estimated from many samples of the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from textgym.errors import ResultsError
from textgym.metrics.exact import beta_at_kl, tilted
from textgym.metrics.frontier import reward_at_kl, tilted_diversity, trusted_kl

FRONTIER = "frontier/"
"""Prefix of what the best policy at the agent's KL has, prompt by prompt."""
REFERENCE_REWARD = FRONTIER + "reference_reward"
"""The mean reward of the reference's samples, prompt by prompt."""

OPTIMA = 9
"""Points on the line of the best policies."""
LEAST_KL = 0.01
"""Nats below which an agent has spent too little for its efficiency to mean anything."""


@dataclass
class ReferencePool:
    """Samples of the reference on the prompts of a seed.

    Attributes:
        rewards: [N, M], the proxy's.
        ids: N * M token lists, prompt-major.
        gold: [N, M], the judge's; None where the task has none.
    """

    rewards: NDArray[np.float64]
    ids: list[list[int]]
    gold: NDArray[np.float64] | None = None

    def save(self, path: Path) -> None:
        """Writes a parquet file."""
        self.scores().assign(ids=pd.Series(self.ids)).to_parquet(path, index=False)

    def scores(self) -> pd.DataFrame:
        """Returns one row per sample: `prompt`, `reward` and, where there is one, `gold`."""
        n, m = self.rewards.shape
        table = pd.DataFrame({"prompt": np.repeat(np.arange(n), m), "reward": self.rewards.ravel()})
        return table if self.gold is None else table.assign(gold=self.gold.ravel())

    @classmethod
    def load(cls, path: Path) -> ReferencePool:
        """Returns what `save` wrote. Raises: ResultsError when the file cannot be read."""
        try:
            table = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise ResultsError(f"cannot read {path}: {error}") from error
        prompts = int(table["prompt"].max()) + 1
        scores = {
            name: table[name].to_numpy(float).reshape(prompts, -1)
            for name in ("reward", "gold")
            if name in table
        }
        ids = [list(map(int, ids)) for ids in table["ids"]]
        return cls(scores["reward"], ids, scores.get("gold"))

    def columns(
        self,
        kl: float,
        k: int,
        diversity: dict[str, Callable[[Sequence[Sequence[int]]], float]],
        length: int,
    ) -> dict[str, NDArray[np.float64]]:
        """Returns the best reward, and the diversity it leaves, at a mean KL; [N] each.

        Nothing where the agent has not moved, and nothing beyond what M samples can tell: log M
        nats for the reward, log(M / K) for the diversity of K draws.

        Args:
            kl: what the agent spent, nats per response, the mean over prompts.
            k: K, samples that diversity is measured on.
            diversity: metrics of a set of token lists, by name.
            length: tokens that responses are cut to for diversity.
        """
        samples = self.rewards.shape[1]
        if not LEAST_KL <= kl <= trusted_kl(samples):
            return {}
        columns = {
            FRONTIER + "reward": reward_at_kl(self.rewards, kl),
            REFERENCE_REWARD: self.rewards.mean(axis=1),
        }
        if k < 2 or k > samples or kl > trusted_kl(samples, k):
            return columns
        cut = [ids[:length] for ids in self.ids]
        beta = beta_at_kl(np.full(self.rewards.shape, 1 / samples), self.rewards, kl)
        for name, metric in diversity.items():
            random = np.random.default_rng(0)
            columns[FRONTIER + name] = tilted_diversity(cut, self.rewards, beta, k, metric, random)
        return columns

    def optima(
        self, k: int, metric: Callable[[Sequence[Sequence[int]]], float], length: int
    ) -> pd.DataFrame:
        """Returns what the best policies have at some KLs: one row each, means over prompts.

        Columns: `kl` (nats), `reward`, `gold` (under the policy that is best by the reward) and
        `diversity` of `k` draws; up to where M samples tell, log(M / k).
        """
        samples = self.rewards.shape[1]
        uniform = np.full(self.rewards.shape, 1 / samples)
        cut = [ids[:length] for ids in self.ids]
        rows = []
        for kl in np.linspace(0, trusted_kl(samples, k), OPTIMA):
            beta = beta_at_kl(uniform, self.rewards, float(kl))
            weights = tilted(uniform, self.rewards, beta)
            random = np.random.default_rng(0)
            of_draws = tilted_diversity(cut, self.rewards, beta, k, metric, random)
            row = {"kl": float(kl), "reward": (weights * self.rewards).sum(axis=1).mean()}
            if self.gold is not None:
                row["gold"] = (weights * self.gold).sum(axis=1).mean()
            rows.append({**row, "diversity": of_draws.mean()})
        return pd.DataFrame(rows)
