"""Simulated comparisons: a noisy Bradley-Terry annotator with a gold score in mind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from textgym.errors import ConfigError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Annotator:
    """How a simulated annotator compares two completions.

    Attributes:
        rationality: beta >= 0 of P(a over b) = sigmoid(beta (gold_a - gold_b)), in units of one
            over the gold score's; 0 is a coin, infinity never errs (ties stay a coin).
        flips: share of comparisons in [0, 0.5] that are then reversed at random, whatever the
            gold scores are.
    """

    rationality: float = 12.0
    flips: float = 0.05

    def __post_init__(self) -> None:
        if not self.rationality >= 0:
            raise ConfigError(f"rationality must be >= 0, got {self.rationality}")
        if not 0 <= self.flips <= 0.5:
            raise ConfigError(f"flips must be in [0, 0.5], got {self.flips}")

    def prefers_first(
        self, gold_a: np.ndarray, gold_b: np.ndarray, random: np.random.Generator
    ) -> np.ndarray:
        """Returns [M] bool, True where the annotator picks a (Bradley and Terry 1952).

        Args:
            gold_a: [M] gold scores of the first completions.
            gold_b: [M] gold scores of the second.
            random: the only source of noise.
        """
        margin = np.asarray(gold_a, np.float64) - np.asarray(gold_b, np.float64)
        # The mask keeps infinity times a tie, which is not a number, out.
        logit = np.zeros_like(margin)
        np.multiply(self.rationality, margin, out=logit, where=margin != 0)
        probability = 0.5 * (1 + np.tanh(logit / 2))
        picked = random.random(len(margin)) < probability
        return np.asarray(picked ^ (random.random(len(margin)) < self.flips))


def simulate_preferences(
    prompts: Sequence[str],
    candidates: Sequence[Sequence[str]],
    gold: Sequence[Sequence[float]],
    annotator: Annotator,
    random: np.random.Generator,
    pairs_per_prompt: int = 1,
) -> Dataset:
    """Compares random pairs of each prompt's completions.

    Pairs of equal texts are never asked about; a prompt with fewer distinct completions than two
    gives no pair.

    Args:
        prompts: N texts.
        candidates: N lists of completions.
        gold: N lists of their gold scores.
        annotator: who compares.
        random: draws the pairs and the annotator's noise.
        pairs_per_prompt: how many pairs (at most all of them) are asked about per prompt.

    Returns:
        A data set with columns `prompt`, `chosen`, `rejected`.
    """
    from datasets import Dataset

    asked: list[str] = []
    pairs: list[tuple[str, str]] = []
    golds: list[tuple[float, float]] = []
    for prompt, texts, scores in zip(prompts, candidates, gold, strict=True):
        distinct = [
            (i, j)
            for i in range(len(texts))
            for j in range(i + 1, len(texts))
            if texts[i] != texts[j]
        ]
        for p in random.permutation(len(distinct))[:pairs_per_prompt]:
            i, j = distinct[int(p)]
            asked.append(prompt)
            pairs.append((texts[i], texts[j]))
            golds.append((scores[i], scores[j]))
    scored = np.asarray(golds, np.float64).reshape(-1, 2)
    first = annotator.prefers_first(scored[:, 0], scored[:, 1], random)
    return Dataset.from_dict(
        {
            "prompt": asked,
            "chosen": [pair[0 if a else 1] for pair, a in zip(pairs, first, strict=True)],
            "rejected": [pair[1 if a else 0] for pair, a in zip(pairs, first, strict=True)],
        }
    )
