"""Author and searcher on human preferences: dialogues laid out as HH-RLHF, two reward models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from textgym.functional.best_of_n import expected_best_of_n
from textgym.rewards.rules import content_words, words
from textgym.tasks.author import SEEN
from textgym.tasks.columns import column
from textgym.tasks.hh_dialogue import HHDialogue

if TYPE_CHECKING:
    from textgym.rewards.learned import RewardModel
    from textgym.types import RewardFunction

HALVES = {"proxy": 0, "gold": 1}
"""Which half of the training pairs (even or odd rows) each reward model learns from."""
ALIKE = 0.5
"""Two replies are one idea when they share this part of their content words."""
GRAM = 3
"""Words of the pieces in which novelty is counted."""


class HHAuthor(HHDialogue):
    """An assistant's next turn under two users, both served by people's preferences.

    The proxy is a Bradley-Terry reward model of half of the train split's pairs; gold is the
    logistic function of one of the other half, which shares none of its pairs. A good idea is a
    reply that gold puts above the one that people chose; two that share half of their content words
    are one idea. It is novel when most of its word trigrams are in no reply of the train split.
    """

    name: ClassVar[str] = "author"
    question: ClassVar[str] = (
        "For whom does optimising human preferences help: the searcher, who sees one reply, or the "
        "author, who sees ten?"
    )
    eval_samples_per_prompt = SEEN
    has_gold = True
    floor = 0.0
    ceiling = 1.0

    def train_reward(self) -> RewardFunction:
        """Returns the reward model of the even half."""
        return self._trained("proxy")

    @cached_property
    def judge(self) -> RewardModel:
        """The reward model of the odd half, trained on first use."""
        return self._trained("gold")

    def gold(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
        """Returns the logistic function of the judge's score, in [0, 1]."""
        return [1 / (1 + math.exp(-score)) for score in self.judge(prompts, completions)]

    def set_measures(
        self,
        prompts: list[str],
        completions: list[str],
        samples_per_prompt: int,
        **columns: list[Any],
    ) -> dict[str, list[float]]:
        """Returns both users' satisfaction with a prompt's completions, and its good ideas.

        `searcher`, `author` and `novel_ideas` as in the embedded form; `good_ideas` is the number
        of different ideas among the K completions that gold puts above the reference.
        """
        k = samples_per_prompt
        gold = np.reshape(self.gold(prompts, completions), (-1, k))
        bars = self.gold(prompts[::k], column(columns, "reference")[::k])
        good = [
            distinct([text for text, score in zip(texts, scores, strict=True) if score > bar])
            for texts, scores, bar in zip(_sets(completions, k), gold, bars, strict=True)
        ]
        return {
            "searcher": gold.mean(axis=1).tolist(),
            "author": [expected_best_of_n(scores.tolist(), min(SEEN, k)) for scores in gold],
            "good_ideas": [float(len(ideas)) for ideas in good],
            "novel_ideas": [self._novel_share(ideas) for ideas in good],
        }

    def _novel_share(self, ideas: Sequence[str]) -> float:
        if not ideas:
            return math.nan
        return float(np.mean([novelty(text, self._known) > 0.5 for text in ideas]))

    @cached_property
    def _known(self) -> frozenset[tuple[str, ...]]:
        """The pieces of every reply in the train split."""
        rows = self.prompts("train")
        replies = [*rows["reference"], *rows["rejected"]]
        return frozenset(piece for reply in replies for piece in pieces(reply))

    def _trained(self, which: str) -> RewardModel:
        rows = self.prompts("train")
        half = rows.select(range(HALVES[which], len(rows), 2))
        return self.reward_of(half)


def distinct(texts: Sequence[str]) -> list[str]:
    """Returns the texts without those that share most content words with an earlier one.

    >>> distinct([" Try the baker in town.", " The baker in town, try!", " Ask a friend."])
    [' Try the baker in town.', ' Ask a friend.']
    """
    kept: list[str] = []
    for text in texts:
        own = content_words(text)
        if not any(_overlap(own, content_words(other)) >= ALIKE for other in kept):
            kept.append(text)
    return kept


def pieces(text: str) -> list[tuple[str, ...]]:
    """Returns the word trigrams of a text, or all of a shorter one as one piece."""
    said = words(text)
    if len(said) < GRAM:
        return [tuple(said)] if said else []
    return [tuple(said[i : i + GRAM]) for i in range(len(said) - GRAM + 1)]


def novelty(text: str, known: frozenset[tuple[str, ...]]) -> float:
    """Returns the share of a text's pieces that are not among the known; 0 for an empty text."""
    own = pieces(text)
    return sum(piece not in known for piece in own) / len(own) if own else 0.0


def _overlap(a: frozenset[str], b: frozenset[str]) -> float:
    """Returns the Jaccard index of two sets, 1 of two empty ones."""
    return len(a & b) / len(a | b) if a | b else 1.0


def _sets(completions: Sequence[str], k: int) -> list[Sequence[str]]:
    return [completions[start : start + k] for start in range(0, len(completions), k)]
