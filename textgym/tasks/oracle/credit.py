"""Credit: the first token decides, the reward comes last; what does the way between cost?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textgym.errors import ConfigError
from textgym.tasks.oracle.base import OracleTask, Tables, numbered_prompts

HORIZONS = (1, 2, 4, 8)


class Credit(OracleTask):
    """Each prompt asks for a response of another length; only the first token matters.

    The reward, 1 if the first symbol is "a", comes with the last token. The language model answers
    with fair coin flips of the length that it is asked for. Regret by prompt is regret against
    horizon.

    Args:
        horizons: the lengths, tokens, each between 1 and 8; text such as "1+4+8" on a command line.
        limit: the most tokens of a response, by default the longest of them, which then has no
            room for EOS.
        beta: see `OracleTask`.
        cache: see `OracleTask`.

    Raises:
        ConfigError: an option outside its domain.
    """

    name: ClassVar[str] = "credit"
    question: ClassVar[str] = (
        "The first token decides and the reward comes last: what does the way between cost?"
    )

    def __init__(
        self,
        horizons: Sequence[int] | str | int = HORIZONS,
        limit: int | None = None,
        beta: float = 0.2,
        cache: str | Path | None = None,
    ) -> None:
        listed = _numbers(str(horizons)) if isinstance(horizons, (str, int)) else horizons
        self.horizons = tuple(listed)
        if not self.horizons or not all(1 <= h <= 8 for h in self.horizons):
            raise ConfigError(f"horizons must be between 1 and 8 tokens, got {self.horizons}")
        limit = max(self.horizons) if limit is None else limit
        if not max(self.horizons) <= limit <= 8:
            raise ConfigError(
                f"limit must be between the longest horizon, {max(self.horizons)}, and 8, "
                f"got {limit}"
            )
        symbols = "ab"
        super().__init__(
            symbols=symbols,
            horizon=limit,
            prompts=numbered_prompts(symbols, len(self.horizons)),
            beta=beta,
            cache=cache,
            fit={"steps": 200},
        )

    def write_tables(self) -> Tables:
        """Fair coin flips of the asked length; 1 for a first "a"."""
        length = dict(zip(self.asked, self.horizons, strict=True))
        known = self.tabulate(lambda prompt, text: len(text) == length[prompt])
        rewards = self.tabulate(lambda _, text: text.startswith("a"))
        return Tables(known=known / known.sum(axis=1, keepdims=True), rewards=rewards, gold=rewards)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split("+"))
    except ValueError:
        raise ConfigError(f"horizons must be whole numbers like 1+4+8, got {text!r}") from None
