"""Known frontier: on random reward tables, how far from the best possible does an agent end?"""

from __future__ import annotations

import string
from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy.special import softmax

from textgym.errors import ConfigError
from textgym.seeding import Streams
from textgym.tasks.oracle.base import OracleTask, Tables, numbered_prompts


class KnownFrontier(OracleTask):
    """Every response of every prompt has a random probability and a random reward.

    Log-probabilities are drawn from a standard normal (before they are normalised), rewards
    uniformly from [0, 1]. Each prompt has tables of its own: several prompts are several draws.

    Args:
        vocabulary: V, tokens including EOS, 2 to 16.
        horizon: H, the most tokens of a response, 1 to 8; at most 2^16 responses.
        prompts: N, how many tables.
        beta: see `OracleTask`.
        noise: see `OracleTask`.
        seed: of the tables.
        cache: see `OracleTask`.

    Raises:
        ConfigError: an option outside its domain.
    """

    name: ClassVar[str] = "known-frontier"
    question: ClassVar[str] = (
        "On random reward tables, how far from the best possible does an algorithm end?"
    )

    def __init__(
        self,
        vocabulary: int = 5,
        horizon: int = 2,
        prompts: int = 4,
        beta: float = 0.2,
        noise: float = 0.0,
        seed: int = 0,
        cache: str | Path | None = None,
    ) -> None:
        if not 2 <= vocabulary <= 16:
            raise ConfigError(f"vocabulary must be between 2 and 16 tokens, got {vocabulary}")
        if not 1 <= horizon <= 8:
            raise ConfigError(f"horizon must be between 1 and 8 tokens, got {horizon}")
        if prompts < 1:
            raise ConfigError(f"prompts must be >= 1, got {prompts}")
        symbols = string.ascii_lowercase[: vocabulary - 1]
        if len(symbols) == 1 and prompts > 1:
            raise ConfigError("one symbol can write one prompt only; got a vocabulary of 2 tokens")
        self._seed = seed
        super().__init__(
            symbols=symbols,
            horizon=horizon,
            prompts=numbered_prompts(symbols, prompts),
            beta=beta,
            noise=noise,
            cache=cache,
        )

    def write_tables(self) -> Tables:
        """Draws the tables."""
        shape = (len(self.asked), len(self.texts))
        known = Streams(self._seed).numpy("oracle-known").standard_normal(shape)
        rewards = Streams(self._seed).numpy("oracle-rewards").random(shape)
        return Tables(known=np.asarray(softmax(known, axis=1)), rewards=rewards, gold=rewards)
