"""Two modes: of two answers worth 51 and 49, does an algorithm keep both or end on the 51?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from textgym.errors import ConfigError
from textgym.tasks.oracle.base import OracleTask, Table, Tables


class TwoModes(OracleTask):
    """The reference answers A and B alike; A is right with probability `right`.

    The reward is the probability of being right, so that pi* has odds `exp((2 right - 1) / beta)`
    for A. The demonstrations are people who are each asked once and are right as often as that:
    matching their distribution keeps both answers.

    Args:
        right: how often A is right, in (0, 1).
        beta: see `OracleTask`.
        cache: see `OracleTask`.

    Raises:
        ConfigError: an option outside its domain.
    """

    name: ClassVar[str] = "two-modes"
    question: ClassVar[str] = (
        "Of two answers worth 51 and 49, does an algorithm keep both or end on the 51?"
    )

    def __init__(
        self, right: float = 0.51, beta: float = 0.2, cache: str | Path | None = None
    ) -> None:
        if not 0 < right < 1:
            raise ConfigError(f"right must be in (0, 1), got {right}")
        self._right = right
        super().__init__(
            symbols="AB", horizon=1, prompts=[""], beta=beta, cache=cache, fit={"steps": 100}
        )

    def write_tables(self) -> Tables:
        """Silence is as rare as one in a hundred, and never right."""
        right = self._right
        known = self._column_of(0.01, 0.495, 0.495)
        rewards = self._column_of(0.0, right, 1 - right)
        return Tables(known, rewards, gold=rewards, experts=rewards)

    def _column_of(self, silence: float, a: float, b: float) -> Table:
        values = {"": silence, "A": a, "B": b}
        return self.tabulate(lambda _, text: values[text])

    def exact_measures(
        self, probabilities: Table, prompts: Sequence[str]
    ) -> dict[str, NDArray[np.float64]]:
        """Returns `p_a`, the probability of the answer A."""
        return {"p_a": probabilities[:, self.texts.index("A")]}
