"""Sentiment: does a policy learn to praise, and does it lose voices that could praise as well?"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textgym.tasks.base import Task
from textgym.tasks.columns import column
from textgym.tasks.sizes import Sizes, make_sizes
from textgym.tasks.town import TownTask
from textgym.tasks.world_data import Row
from textgym.worlds import reviews
from textgym.worlds.grammar import Draw
from textgym.worlds.reviews import Review, ReviewVerdict, judge_review, review_prompt

if TYPE_CHECKING:
    from textgym.rewards.sentiment import TextClassifier
    from textgym.types import RewardFunction

    SentimentClassifier = str | Path | TextClassifier | None


def make_sentiment(
    data: str | Path | None = None,
    data_dir: str | None = None,
    reward: str | Path | RewardFunction | None = None,
    backbone: str = "tiny",
    seed: int = 0,
    cache: str | Path | None = None,
    classifier: SentimentClassifier = None,
    **sizes: int | None,
) -> Task:
    """Returns the sentiment task, on the embedded town's reviews or on human-written ones.

    Args:
        data: None for the town; a Hub id or folder laid out as SST-2 (columns `sentence`,
            `label`), such as "stanfordnlp/sst2".
        data_dir: the folder inside `data` to read.
        reward: replaces the proxy, see `textgym.rewards.load_reward`.
        backbone: the language model that is asked; "tiny" is the packaged one of the town. On
            `data` its tokenizer measures the windows.
        seed: what the town writes and how classifiers are trained follow from it.
        cache: where trained classifiers are kept, see `textgym.cache.cache_root`.
        classifier: who says how positive a text is: None for the task's own (the shipped one, or
            one trained on the data's train split), else what `textgym.rewards.sentiment.Sentiment`
            takes, or such an object.
        sizes: see `textgym.tasks.sizes.Sizes`.

    Raises:
        ConfigError: an option there is not, or outside its domain.
        DataError: a data set that cannot be read, lacks a column or has an empty split.
    """
    made = make_sizes(sizes)
    if data is None:
        return WorldSentiment(reward, backbone, seed, made, classifier)
    from textgym.tasks.data_source import load_splits, require_columns
    from textgym.tasks.sst2 import SST2

    splits = load_splits(data, data_dir)
    require_columns(splits, SST2.needed, data)
    return SST2(data, splits, reward, backbone, seed, cache, made, classifier)


class WorldSentiment(TownTask):
    """Reviews to be continued, as positively as can be (after Ziegler et al. 2019, 1909.08593).

    Five critics write, and each praises as often as any other: a policy can be positive in all
    five voices, so any voice it loses is lost by the algorithm and not asked for by the reward.
    The proxy is the probability of positive by a small classifier (shipped), which was taught on
    whole and cut reviews and believes both; gold is exact, wants a whole one and half likes a
    mixed one.
    """

    name: ClassVar[str] = "sentiment"
    question: ClassVar[str] = (
        "Does rewarding praise cost a policy voices that can praise just as well?"
    )
    max_prompt_tokens = 48
    max_response_tokens = 40
    floor = 0.0
    ceiling = 1.0

    def __init__(
        self,
        reward: str | Path | RewardFunction | None = None,
        backbone: str = "tiny",
        seed: int = 0,
        sizes: Sizes | None = None,
        classifier: SentimentClassifier = None,
    ) -> None:
        """Takes what `make_sentiment` does; nothing is written or loaded yet."""
        super().__init__(reward, backbone, seed, sizes)
        self._classifier = classifier

    def write_row(self, draw: Draw) -> Row:
        """Draws an opening's prompt, a reference continuation, the thing and the place."""
        return _row(reviews.sample_review(draw), draw)

    def write_shifted_row(self, draw: Draw) -> Row:
        """Draws the same of an opening worded, and about a thing, as none in the corpus."""
        return _row(reviews.sample_review(draw, shifted=True), draw)

    @cached_property
    def classifier(self) -> TextClassifier:
        """The sentiment classifier, loaded on first use."""
        return as_sentiment(self._classifier)

    def reward(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Returns the probability that the continuation is positive, in [0, 1]."""
        if self._reward is not None:
            return self._reward(prompts, completions, **columns)
        return self.classifier.scores(completions)

    def gold(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
        """Returns 1 for praise on topic, less for a mixed review or off topic; in [0, 1]."""
        return [verdict.score for verdict in _verdicts(completions, columns)]

    def measures(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> dict[str, list[float]]:
        """Returns, by the exact judge, which sentiment each has, topic and grammar."""
        verdicts = _verdicts(completions, columns)
        return {
            **{
                name: [float(v.well_formed and v.sentiment == value) for v in verdicts]
                for name, value in reviews.SENTIMENTS.items()
            },
            "on_topic": [float(verdict.on_topic) for verdict in verdicts],
            "well_formed": [float(verdict.well_formed) for verdict in verdicts],
        }

    def modes(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[str] | None:
        """Returns the critic whose voice each continuation is in, "other" for none."""
        return [verdict.voice for verdict in _verdicts(completions, columns)]


def as_sentiment(classifier: SentimentClassifier) -> TextClassifier:
    """Returns the classifier that a name, a folder, None (the shipped one) or an object is."""
    from textgym.rewards.sentiment import Sentiment

    return Sentiment(classifier) if isinstance(classifier, str | Path | None) else classifier


def _row(review: Review, draw: Draw) -> Row:
    sentiment = draw.weighted(reviews.DEMONSTRATION_SENTIMENTS)
    text = reviews.write_continuation(review, draw.choice(reviews.VOICES), sentiment, draw)
    return {
        "prompt": review_prompt(review.prefix),
        "reference": " " + text,
        "thing": review.thing,
        "where": review.where,
    }


def _verdicts(completions: list[str], columns: dict[str, list[Any]]) -> list[ReviewVerdict]:
    about = zip(column(columns, "thing"), column(columns, "where"), completions, strict=True)
    return [judge_review(thing, where, text) for thing, where, text in about]
