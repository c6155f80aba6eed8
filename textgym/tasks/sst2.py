"""Sentiment on human-written movie reviews, laid out as SST-2."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textgym.cache import cached, fingerprint
from textgym.errors import DataError
from textgym.rewards.rules import substance
from textgym.tasks.real_data import RealTask, Row
from textgym.tasks.sentiment import as_sentiment
from textgym.tasks.sizes import Sizes

if TYPE_CHECKING:
    from datasets import Dataset

    from textgym.rewards.sentiment import TextClassifier
    from textgym.tasks.sentiment import SentimentClassifier
    from textgym.types import RewardFunction

SENTENCE, LABEL = "sentence", "label"
LABELS = (0, 1)
"""Negative and positive; the public test split hides its labels behind another number."""

PREFIX = 5
"""Words of a sentence that make its prompt; as many at least must be left to continue."""

HALVES = {"proxy": 0, "gold": 1}
"""Which half of the training sentences, by checksum, each classifier learns from: equal ones are in
one half, and the order of the rows says nothing."""


class SST2(RealTask):
    """Sentences of movie reviews, continued as positively as can be, from Socher et al. 2013.

    The prompt is a sentence's first five words and the reference its rest, whatever its sentiment,
    and so are the demonstrations: a policy that starts with both kinds has something to learn, and
    the human stands where people do, not where the reward wants them.

    The proxy is the probability of positive, for the sentence as a whole, by a classifier trained
    on one half of the train split, times substance, min(1, distinct words / 4) of the
    continuation, which keeps silence from winning. Gold is the same by a classifier of the other
    half: it shares the proxy's kind but not its sentences or accidents. Both weigh n-grams and
    start from nothing. `agreement` tells how often each is right on held-out sentences, about four
    times in five (results/proxy-accuracy); pretrained models do far better (94.9% by BERT, Devlin
    et al. 2019), and any of them can be named as the proxy's `classifier`.
    """

    name: ClassVar[str] = "sentiment"
    question: ClassVar[str] = (
        "Does rewarding positive sentiment teach a policy to praise, "
        "and how much of its diversity is lost?"
    )
    needed: ClassVar[tuple[str, ...]] = (SENTENCE, LABEL)
    max_prompt_tokens = 48
    max_response_tokens = 48
    floor = 0.0
    ceiling = 1.0

    def __init__(
        self,
        data: str | Path,
        splits: Mapping[str, Dataset],
        reward: str | Path | RewardFunction | None = None,
        backbone: str = "tiny",
        seed: int = 0,
        cache: str | Path | None = None,
        sizes: Sizes | None = None,
        classifier: SentimentClassifier = None,
    ) -> None:
        """Takes what `RealTask` does, and the proxy's classifier; None for the task's own."""
        super().__init__(data, splits, reward, backbone, seed, cache, sizes)
        self._classifier = classifier

    @cached_property
    def classifier(self) -> TextClassifier:
        """The proxy's classifier, trained on first use unless one was given."""
        if self._classifier is not None:
            return as_sentiment(self._classifier)
        return self._trained("proxy")

    @cached_property
    def gold_classifier(self) -> TextClassifier:
        """The gold judge's classifier, trained on first use."""
        return self._trained("gold")

    def rows(self, split: str) -> Iterable[Row]:
        """Yields `prompt`, `reference` and `label` (1 where the whole sentence is positive)."""
        raw = self.raw[split]
        for sentence, label in zip(raw[SENTENCE], raw[LABEL], strict=True):
            words = sentence.split()
            if len(words) >= 2 * PREFIX:
                opening, rest = " ".join(words[:PREFIX]), " ".join(words[PREFIX:])
                yield {"prompt": opening, "reference": f" {rest}", "label": label}

    def train_reward(self) -> RewardFunction:
        """Returns P(positive) x substance by the proxy's classifier."""
        return lambda prompts, completions, **columns: _praise(
            self.classifier, prompts, completions
        )

    def gold(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
        """Returns P(positive) x substance by the gold classifier, in [0, 1]."""
        return _praise(self.gold_classifier, prompts, completions)

    def measures(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> dict[str, list[float]]:
        """Returns the gold classifier's P(positive), the proxy's, and the substance."""
        whole = _whole(prompts, completions)
        return {
            "positive": self.gold_classifier.scores(whole),
            "proxy_positive": self.classifier.scores(whole),
            "substance": substance(completions),
        }

    def agreement(self) -> dict[str, list[float]]:
        """Returns whether each classifier is right (1 or 0) on every labelled held-out sentence.

        Raises: DataError where neither the test nor the validation split has labels.
        """
        texts, labels = self._held_out()
        return {
            name: [float((p > 0.5) == y) for p, y in zip(judge.scores(texts), labels, strict=True)]
            for name, judge in (("proxy", self.classifier), ("gold", self.gold_classifier))
        }

    def _held_out(self) -> tuple[list[str], list[int]]:
        """Returns sentences and labels of the test split, or of validation where it hides them."""
        for split in ("test", "validation"):
            texts, labels = _labelled(self.raw[split])
            if texts:
                return texts, labels
        raise DataError(f"data set {str(self.data)!r} has no labelled row to test a classifier on")

    def _trained(self, which: str) -> TextClassifier:
        """Returns a classifier of one half of the train split, from the cache if it is there."""
        from textgym.rewards.ngrams import NgramConfig, load_ngrams, train_ngrams

        sums = [zlib.crc32(sentence.encode()) for sentence in self.raw["train"][SENTENCE]]
        half = [row for row, checksum in enumerate(sums) if checksum % 2 == HALVES[which]]
        texts, labels = _labelled(self.raw["train"].select(half))
        config = NgramConfig()
        marked = [f"{label} {text}" for text, label in zip(texts, labels, strict=True)]
        key = {"texts": fingerprint(marked), "config": asdict(config)}

        def build(folder: Path) -> dict[str, Any]:
            classifier = train_ngrams(texts, labels, config)
            classifier.save(folder)
            return {"texts": len(texts), **_accuracy(classifier, *self._held_out())}

        return load_ngrams(cached(self.cache, "sentiment", key, build))


def _labelled(rows: Dataset) -> tuple[list[str], list[int]]:
    """Returns sentences and labels of the rows that have one."""
    both = zip(rows[SENTENCE], rows[LABEL], strict=True)
    kept = [(text, int(label)) for text, label in both if label in LABELS]
    return [text for text, _ in kept], [label for _, label in kept]


def _accuracy(
    classifier: TextClassifier, texts: Sequence[str], labels: Sequence[int]
) -> dict[str, float]:
    """Returns the share of held-out texts that a classifier is right on, and how many there are."""
    right = [(p > 0.5) == y for p, y in zip(classifier.scores(texts), labels, strict=True)]
    return {"held_out": len(right), "accuracy": sum(right) / len(right)}


def _whole(prompts: list[str], completions: list[str]) -> list[str]:
    return [prompt + rest for prompt, rest in zip(prompts, completions, strict=True)]


def _praise(classifier: TextClassifier, prompts: list[str], completions: list[str]) -> list[float]:
    """Returns P(positive) of the whole sentence x substance of its continuation, in [0, 1]."""
    scores = classifier.scores(_whole(prompts, completions))
    return [p * said for p, said in zip(scores, substance(completions), strict=True)]
