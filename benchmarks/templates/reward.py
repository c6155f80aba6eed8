"""MyReward: the share of words in a completion that stand there once.

Run it:    textgym bench --tasks summarize@reward=./my_reward.py:MyReward --agents reinforce
"""

from __future__ import annotations

from collections import Counter
from typing import Any


class MyReward:
    """TRL's convention: texts in, one finite float per completion out; higher is better.

    Args:
        floor: the reward of a completion without words.
    """

    def __init__(self, floor: float = 0.0) -> None:
        self.floor = floor

    def __call__(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Scores each completion; `columns` are the data set's others, such as `reference`."""
        return [self._score(text) for text in completions]

    def _score(self, text: str) -> float:
        counts = Counter(text.lower().split())
        once = sum(count == 1 for count in counts.values())
        return once / counts.total() if counts else self.floor
