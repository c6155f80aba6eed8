"""Stepping stones: the best answer lies behind a prefix that reference and proxy dislike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from textgym.metrics.exact import expected_maximum
from textgym.seeding import Streams
from textgym.tasks.oracle.base import OracleTask, Table, Tables

DRAWS = tuple(2**i for i in range(11))
"""1, 2, 4, ... 1,024."""

STONE, TREASURE = "d", "dad"


class SteppingStones(OracleTask):
    """Who draws once does better to avoid the stone, who draws a thousand times does not.

    Responses have up to four symbols. One in twenty of the reference's begins with "d". The proxy
    gives those 0.1; so does the truth, unless they go on "dad", which is worth 1. All others are
    worth something between 0.2 and 0.7, and the proxy knows how much.

    Args:
        beta: see `OracleTask`.
        seed: of the ordinary answers' values.
        cache: see `OracleTask`.

    Raises:
        ConfigError: an option outside its domain.
    """

    name: ClassVar[str] = "stepping-stones"
    question: ClassVar[str] = (
        "The best answer lies behind a prefix that the reference and the proxy dislike: "
        "when is the tuned policy overtaken by the one it began as?"
    )
    has_gold = True

    def __init__(self, beta: float = 0.2, seed: int = 0, cache: str | Path | None = None) -> None:
        self._seed = seed
        super().__init__(
            symbols="abcd", horizon=4, prompts=[""], beta=beta, cache=cache, fit={"steps": 200}
        )

    def write_tables(self) -> Tables:
        """Tokens are drawn one by one: EOS one time in ten, the first a "d" one time in twenty."""
        first = {"a": 0.3, "b": 0.3, "c": 0.3, "d": 0.05, "": 0.05}

        def known(_: str, text: str) -> float:
            later = 0.225 ** max(len(text) - 1, 0)
            ended = 0.1 if 0 < len(text) < self.tree.horizon else 1.0
            return first[text[:1]] * later * ended

        ordinary = Streams(self._seed).numpy("oracle-values").uniform(0.2, 0.7, len(self.texts))
        stone = np.array([text.startswith(STONE) for text in self.texts])
        treasure = np.array([text.startswith(TREASURE) for text in self.texts])
        rewards = np.where(stone, 0.1, ordinary)[None]
        gold = np.where(treasure, 1.0, rewards)
        return Tables(known=self.tabulate(known), rewards=rewards, gold=gold)

    def exact_measures(
        self, probabilities: Table, prompts: Sequence[str]
    ) -> dict[str, NDArray[np.float64]]:
        """Returns `best_of/k`, the expected gold score of the best of k draws, and `p_best`."""
        gold = self.tables.gold[self.rows_of(prompts)]
        best = {f"best_of/{k}": expected_maximum(probabilities, gold, k) for k in DRAWS}
        return {"p_best": (probabilities * (gold == 1.0)).sum(axis=1), **best}
