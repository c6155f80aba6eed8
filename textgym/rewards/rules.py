"""Rewards that are rules: is the completion on topic, does it say anything at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from textgym.errors import ConfigError

FUNCTION_WORDS = frozenset(
    {
        "a", "about", "after", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be",
        "because", "been", "before", "being", "but", "by", "can", "could", "did", "do", "does",
        "doing", "down", "for", "from", "had", "has", "have", "he", "her", "here", "him", "his",
        "how", "i", "if", "in", "into", "is", "it", "its", "just", "like", "me", "more", "most",
        "my", "no", "not", "now", "of", "off", "on", "one", "only", "or", "our", "out", "over",
        "own", "remark", "reply", "report", "she", "should", "so", "some", "such", "summary",
        "than", "that", "the", "their", "them", "then", "there", "these", "they", "this", "those",
        "through", "to", "too", "under", "until", "up", "us", "very", "was", "we", "were", "what",
        "when", "where", "which", "while", "who", "why", "will", "with", "would", "you", "your",
    }
)  # fmt: skip
"""Words that carry no topic, with the labels of our prompts among them."""


def words(text: str) -> list[str]:
    """Returns the lower-case words of a text, an apostrophe inside a word kept.

    >>> words("It's 5 o'clock, #Person1#!")
    ["it's", '5', "o'clock", 'person1']
    """
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())


def content_words(text: str) -> frozenset[str]:
    """Returns the words that carry a topic: no function words, no single letters, plurals cut.

    >>> sorted(content_words("The trains are late, and so is the bus."))
    ['bus', 'late', 'train']
    """
    found = (w for w in words(text) if len(w) > 1 and w not in FUNCTION_WORDS)
    return frozenset(
        w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in found
    )


def relevance(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """Returns 1 for a completion that shares a content word with its prompt, else 0."""
    return [
        float(bool(content_words(prompt) & content_words(completion)))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def substance(completions: Sequence[str], min_words: int = 4) -> list[float]:
    """Returns min(1, distinct words / min_words): 0 for silence, low for one word said often.

    >>> substance(["", "no no no", "that is a good point"])
    [0.0, 0.25, 1.0]
    """
    return [min(1.0, len(set(words(text))) / min_words) for text in completions]


class Relevance:
    """1 for a completion that shares a content word with its prompt, else 0."""

    def __call__(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Scores each completion."""
        return relevance(prompts, completions)


class Substance:
    """The share of `min_words` distinct words that a completion has, at most 1."""

    def __init__(self, min_words: int = 4) -> None:
        """Takes how many distinct words earn the full reward. Raises: ConfigError below 1."""
        if min_words < 1:
            raise ConfigError(f"min_words must be >= 1, got {min_words}")
        self.min_words = min_words

    def __call__(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Scores each completion."""
        return substance(completions, self.min_words)
