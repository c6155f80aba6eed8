"""Makes the shipped sentiment classifier of the embedded sentiment task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textgym.rewards.sentiment import Sentiment, train_sentiment
from textgym.rewards.text_classifier import ClassifierConfig
from textgym.seeding import Streams
from textgym.worlds import reviews
from textgym.worlds.grammar import Draw

WORLD_SENTIMENT = ClassifierConfig(vocab_size=800, width=64, max_tokens=64, epochs=5)
"""How the shipped classifier is made: small, since the world's words are few."""

HELD_OUT = 2000
"""Whole reviews that the classifier's accuracy is measured on."""

CUT = 0.25
"""Share of the texts that are cut short, as those of a policy in training are."""


def make_world_sentiment(
    out: str | Path, seed: int = 0, config: ClassifierConfig | None = None, texts: int = 20_000
) -> dict[str, Any]:
    """Trains a sentiment classifier on the review world and writes it for `Sentiment(out)`.

    Args:
        out: the folder to write.
        seed: texts and training follow from it.
        config: how it is trained.
        texts: how many texts it learns from and is tested on.

    Returns:
        The report of `train_sentiment`, whose accuracy counts mixed and cut reviews too, and as
        `clear_accuracy` that on other whole reviews, positive or negative.
    """
    report = train_sentiment(*sentiment_texts(texts, seed), out, config or WORLD_SENTIMENT, seed)
    return {**report, "clear_accuracy": clear_accuracy(Sentiment(out), HELD_OUT, seed)}


def clear_accuracy(classifier: Sentiment, count: int, seed: int) -> float:
    """Returns how often the classifier sides with the exact judge on whole, unmixed reviews."""
    draw = Draw(Streams(seed).numpy("world/sentiment/held-out"))
    sides = [draw.choice(("negative", "positive")) for _ in range(count)]
    texts = [
        reviews.write_continuation(
            reviews.sample_review(draw), draw.choice(reviews.VOICES), s, draw
        )
        for s in sides
    ]
    agreed = [
        (score > 0.5) == (side == "positive")
        for score, side in zip(classifier.scores(texts), sides, strict=True)
    ]
    return sum(agreed) / count


def sentiment_texts(count: int, seed: int) -> tuple[list[str], list[int]]:
    """Returns continuations of reviews and whether someone called them positive: 1 yes, 0 no.

    Whoever is asked must say one or the other, and tosses a coin over a mixed review. A text that
    is cut short, to nothing at the shortest, keeps the answer that the whole was given.
    """
    draw = Draw(Streams(seed).numpy("world/sentiment"))
    texts: list[str] = []
    labels: list[int] = []
    for _ in range(count):
        review, sentiment = reviews.sample_review(draw), draw.choice(tuple(reviews.SENTIMENTS))
        text = reviews.write_continuation(review, draw.choice(reviews.VOICES), sentiment, draw)
        words = text.split()
        kept = draw.integer(0, len(words)) if draw.chance(CUT) else len(words)
        texts.append(" ".join(words[:kept]))
        labels.append(int(draw.chance((reviews.SENTIMENTS[sentiment] + 1) / 2)))
    return texts, labels
