"""Noisy reward: what does an unbiased but noisy judge cost each algorithm?"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textgym.tasks.oracle.known_frontier import KnownFrontier


class NoisyReward(KnownFrontier):
    """The known frontier under a judge who errs by a standard normal half as wide as the scale.

    The noise is drawn anew each time a completion is scored, so that on average the judge is
    right: the optimum is that of the table without noise.

    Args:
        noise: its standard deviation; rewards span [0, 1].
        beta: see `OracleTask`.
        seed: of the tables.
        cache: see `OracleTask`.

    Raises:
        ConfigError: an option outside its domain.
    """

    name: ClassVar[str] = "noisy-reward"
    question: ClassVar[str] = "What does an unbiased but noisy judge cost each algorithm?"

    def __init__(
        self,
        noise: float = 0.5,
        beta: float = 0.2,
        seed: int = 0,
        cache: str | Path | None = None,
    ) -> None:
        super().__init__(beta=beta, noise=noise, seed=seed, cache=cache)
