"""Whether a score depends on what else is scored with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textgym.feedback.report.scoring import Row, score_rows
from textgym.metrics.sets import FloatArray
from textgym.types import RewardFunction

SAMPLE = 32
"""Texts that are scored again."""
NEIGHBOURS = 4
"""The longest completions, which pad all others of their batch."""
TOLERANCE = 1e-3
"""What scores may move by, in their own standard deviations; rounding stays far below."""
ROUNDING = 1e-6
"""What they may move by in any case, as a share of the greatest score's size."""


@dataclass(frozen=True)
class Invariance:
    """How far scores move when the same texts are scored otherwise, greatest differences.

    Attributes:
        texts: how many were scored again.
        repeated: by the same call once more.
        alone: one by one.
        among_others: in another order, each beside one of the longest completions.
        tolerance: what counts as no difference.
        moves: whether any of the three is greater.
    """

    texts: int
    repeated: float
    alone: float
    among_others: float
    tolerance: float
    moves: bool


def invariance(
    reward: RewardFunction, rows: Sequence[Row], spread: float, generator: np.random.Generator
) -> Invariance:
    """Scores a sample of texts in one call, again, one by one and among others.

    Args:
        reward: what is tested.
        rows: at least one; the sample and its neighbours are drawn from them.
        spread: standard deviation of the reward's scores.
        generator: draws the sample and the other order.
    """
    picked = generator.permutation(len(rows))[:SAMPLE]
    sample = [rows[i] for i in sorted(picked.tolist())]
    together = np.array(score_rows(reward, sample, "reward"))
    repeated = np.array(score_rows(reward, sample, "reward"))
    alone = np.array([score_rows(reward, [row], "reward")[0] for row in sample])
    order = generator.permutation(len(sample))
    longest = sorted(rows, key=lambda row: len(row.completion))[-NEIGHBOURS:]
    crowd = [r for n, i in enumerate(order) for r in (longest[n % len(longest)], sample[i])]
    among = np.empty(len(sample))
    among[order] = score_rows(reward, crowd, "reward")[1::2]
    tolerance = max(TOLERANCE * spread, ROUNDING * float(np.abs(together).max()))
    repeat, solo, crowded = (_greatest(s - together) for s in (repeated, alone, among))
    moves = max(repeat, solo, crowded) > tolerance
    return Invariance(len(sample), repeat, solo, crowded, tolerance, moves)


def _greatest(differences: FloatArray) -> float:
    return float(np.abs(differences).max())
