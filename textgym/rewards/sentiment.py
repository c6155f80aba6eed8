"""Sentiment: the chance that a text is positive, by a two-way text classifier."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import torch

from textgym.errors import ConfigError, ModelError
from textgym.models.tokenize import load_pretrained
from textgym.rewards.batching import buckets, each_once
from textgym.rewards.text_classifier import ClassifierConfig, train_classifier

POSITIVE = ("positive", "pos", "label_1")
"""What classifiers of two classes call the positive one, in lower case."""

BUCKET_CHARACTERS = 2**14
"""Characters read at once, padding included: a few thousand tokens."""


class TextClassifier(Protocol):
    """Whatever says how positive a text is."""

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Returns each text's probability of positive, in [0, 1]."""


class Sentiment:
    """The probability of positive by any `AutoModelForSequenceClassification` of two classes.

    As a reward function it reads the prompt and the completion as one text.

    Attributes:
        name: which classifier it is; numbers of different classifiers are not comparable.
        bucket_characters: most that are read at once: texts times the longest of them.
    """

    def __init__(
        self, classifier: str | Path | None = None, bucket_characters: int = BUCKET_CHARACTERS
    ) -> None:
        """Loads the classifier.

        Args:
            classifier: None for the shipped one, else a folder or a Hub id, such as
                "distilbert/distilbert-base-uncased-finetuned-sst-2-english".
            bucket_characters: most that are read at once: texts times the longest of them.

        Raises:
            ConfigError: a bucket below 1.
            ModelError: no classifier there, or one that does not say which class is positive.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        if bucket_characters < 1:
            raise ConfigError(f"bucket_characters must be >= 1, got {bucket_characters}")
        shipped = str(resources.files("textgym.assets").joinpath("sentiment"))
        where = shipped if classifier is None else str(classifier)
        self.name = "sentiment-tiny" if classifier is None else f"sentiment-{Path(where).name}"
        self.bucket_characters = bucket_characters
        self.tokenizer = load_pretrained(AutoTokenizer, where, "tokenizer")
        self.model = load_pretrained(AutoModelForSequenceClassification, where, "classifier")
        self.model.eval()
        longest = self.tokenizer.model_max_length
        self._limit = min(longest, getattr(self.model.config, "max_position_embeddings", longest))
        self._positive = _positive_class(self.model.config, where)

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Returns each text's probability of positive, in [0, 1].

        Texts of like length share a batch and equal ones are read once; a score does not depend on
        the batch.
        """
        return each_once(self._predict, texts)

    def __call__(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Returns the probability that prompt and completion together are positive."""
        return self.scores([p + c for p, c in zip(prompts, completions, strict=True)])

    @torch.no_grad()
    def _predict(self, texts: list[str]) -> list[float]:
        scores = [0.0] * len(texts)
        lengths = [len(text) for text in texts]
        order = sorted(range(len(texts)), key=lengths.__getitem__)
        for rows in buckets(order, lengths, self.bucket_characters):
            batch = self.tokenizer(
                [texts[i] for i in rows],
                truncation=True,
                max_length=self._limit,
                padding=True,
                return_tensors="pt",
            )
            logits = self.model(**batch).logits.double()
            if self._positive is None:
                found = torch.sigmoid(logits[:, 0])
            else:
                found = torch.softmax(logits, dim=-1)[:, self._positive]
            for i, score in zip(rows, found.tolist(), strict=True):
                scores[i] = score
        return scores


def train_sentiment(
    texts: Sequence[str],
    labels: Sequence[int],
    out: str | Path,
    config: ClassifierConfig | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Trains a classifier from nothing and writes it for `Sentiment(out)`.

    Args:
        texts: what to classify.
        labels: 1 positive, 0 negative, one per text.
        out: the folder to write: weights (safetensors), configuration and tokenizer.
        config: how.
        seed: initialisation, order and held-out texts follow from it.

    Returns:
        The report of `train_classifier`.

    Raises:
        DataError: fewer than two texts of a class, or labels of another number.
        TrainingError: the loss is not finite.
    """
    model, tokenizer, report = train_classifier(texts, labels, config, seed)
    model.config.id2label, model.config.label2id = {0: "positive"}, {"positive": 0}
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return report


def _positive_class(config: Any, where: str) -> int | None:
    """Returns the index of the positive class, or None where one logit is its log-odds."""
    labels = {index: str(label).lower() for index, label in config.id2label.items()}
    if list(labels.values()) == ["positive"]:
        return None
    found: list[int] = [index for index, label in labels.items() if label in POSITIVE]
    if len(labels) != 2 or len(found) != 1:
        raise ModelError(
            f"the classifier {where} has the classes {', '.join(labels.values())}; "
            "expected two, one of them called positive"
        )
    return found[0]
