"""Many good answers: of K answers that are equally good, how many does an algorithm keep?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from textgym.metrics.exact import entropy
from textgym.seeding import Streams
from textgym.tasks.oracle.base import OracleTask, Table, Tables, numbered_prompts

GOOD = (1, 2, 4, 8, 16, 32)
"""K of each prompt."""


class ManyGoodAnswers(OracleTask):
    """64 answers of two symbols, K of them worth 1 and the others nothing; a prompt for every K.

    The language model says all 64 alike, so the optimum says the K good ones alike at any beta:
    whatever coverage an agent loses is its own doing.

    Args:
        beta: see `OracleTask`.
        seed: which answers are good.
        cache: see `OracleTask`.

    Raises:
        ConfigError: an option outside its domain.
    """

    name: ClassVar[str] = "many-good-answers"
    question: ClassVar[str] = "Of K answers that are equally good, how many does an algorithm keep?"

    def __init__(self, beta: float = 0.2, seed: int = 0, cache: str | Path | None = None) -> None:
        symbols = "abcdefgh"
        self._seed = seed
        super().__init__(
            symbols=symbols,
            horizon=2,
            prompts=numbered_prompts(symbols, len(GOOD)),
            beta=beta,
            cache=cache,
            fit={"steps": 150},
        )

    def write_tables(self) -> Tables:
        """Draws K good answers for every prompt, without looking at the other prompts."""
        random = Streams(self._seed).numpy("oracle-good")
        answers = [i for i, text in enumerate(self.texts) if len(text) == 2]
        rewards = np.zeros((len(self.asked), len(self.texts)))
        for row, k in zip(rewards, GOOD, strict=True):
            row[random.choice(answers, size=k, replace=False)] = 1.0
        known = self.tabulate(lambda _, text: (len(text) == 2) / len(answers))
        return Tables(known=known, rewards=rewards, gold=rewards)

    def exact_measures(
        self, probabilities: Table, prompts: Sequence[str]
    ) -> dict[str, NDArray[np.float64]]:
        """Returns `good` = P(good), `good_answers` = K and `coverage`, in [1 / K, 1].

        Coverage is `exp(H(y | y good)) / K`: the effective number of good answers that are said
        when a good one is, as a share of those there are.
        """
        good = self.tables.gold[self.rows_of(prompts)]
        mass = (probabilities * good).sum(axis=1)
        conditional = probabilities * good / np.maximum(mass, 1e-300)[:, None]
        count = good.sum(axis=1)
        return {
            "good": mass,
            "good_answers": count,
            "coverage": np.exp(entropy(conditional)) / count,
        }
