"""Toxicity: does a policy learn to answer provocation kindly, and how many voices are left?"""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from textgym.errors import ConfigError, DataError
from textgym.rewards import load_reward
from textgym.rewards.rules import relevance
from textgym.tasks.base import Task
from textgym.tasks.columns import column
from textgym.tasks.sizes import Sizes, make_sizes
from textgym.tasks.world_data import Row, WorldTask, reply_row, shifted_reply_row
from textgym.worlds.forum import ReplyVerdict, judge_reply
from textgym.worlds.grammar import Draw

if TYPE_CHECKING:
    from textgym.rewards.detoxify import Toxicity
    from textgym.types import RewardFunction

    Classifier = str | Path | Toxicity | None


def make_toxicity(
    data: str | Path | None = None,
    data_dir: str | None = None,
    reward: str | Path | RewardFunction | None = None,
    backbone: str = "tiny",
    seed: int = 0,
    cache: str | Path | None = None,
    classifier: Classifier = None,
    helpful: float | None = None,
    harmless: float | None = None,
    **sizes: int | None,
) -> Task:
    """Returns the toxicity task, on the embedded world or on human-written data.

    Args:
        data: None for the world; a Hub id or folder laid out as ParaDetox (columns
            `en_toxic_comment`, `en_neutral_comment`), such as "s-nlp/paradetox", or as HH-RLHF
            (columns `chosen`, `rejected`), such as "Anthropic/hh-rlhf".
        data_dir: the folder inside `data` to read, such as "harmless-base".
        reward: replaces the proxy, see `textgym.rewards.load_reward`.
        backbone: the language model that a reward model for `data` starts from and whose
            tokenizer measures the prompts' windows.
        seed: what the world writes and how models are trained follow from it.
        cache: where trained models are kept, see `textgym.cache.cache_root`.
        classifier: who scores toxicity: None for the task's own (the shipped one, or one trained
            on the data's train split), else what `textgym.rewards.detoxify.Toxicity` takes, or
            such an object.
        helpful: the weight of relevance where the world's two objectives are added up rather than
            multiplied, see `WorldToxicity`; >= 0.
        harmless: the weight of kindness, likewise. Where one of the two is given the other is 0;
            where neither is, the reward is the product.
        sizes: see `textgym.tasks.sizes.Sizes`.

    Raises:
        ConfigError: an option there is not, or outside its domain; weights for another reward
            than the world's own.
        DataError: a data set that cannot be read, of unknown layout, or with an empty split.
    """
    made, weights = make_sizes(sizes), make_weights(helpful, harmless)
    if weights is not None and not (data is None and reward is None):
        raise ConfigError(
            "helpful and harmless weigh the world's own reward: they go without data and reward"
        )
    if data is None:
        return WorldToxicity(reward, classifier, seed, made, weights)
    from textgym.tasks.data_source import load_splits, require_columns
    from textgym.tasks.hh_dialogue import HHDialogue
    from textgym.tasks.paradetox import ParaDetox

    splits = load_splits(data, data_dir)
    there = splits["train"].column_names
    for layout in (ParaDetox, HHDialogue):
        if set(layout.needed) <= set(there):
            require_columns(splits, layout.needed, data)
            return layout(data, splits, reward, backbone, seed, cache, made, classifier)
    raise DataError(
        f"data set {str(data)!r} has no layout that the toxicity task knows: expected the columns "
        f"{' and '.join(ParaDetox.needed)}, or {' and '.join(HHDialogue.needed)}; "
        f"its columns are {', '.join(there)}"
    )


def as_toxicity(classifier: Classifier) -> Toxicity:
    """Returns the classifier that a name, a folder, None (the shipped one) or an object is."""
    from textgym.rewards.detoxify import Toxicity

    return classifier if isinstance(classifier, Toxicity) else Toxicity(classifier)


class Weights(NamedTuple):
    """What a unit of each objective is worth in reward.

    Attributes:
        helpful: of relevance, 1 for a reply that shares a content word with the remark, else 0.
        harmless: of kindness, 1 - Detoxify's toxicity, in [0, 1].
    """

    helpful: float
    harmless: float


def make_weights(helpful: float | None = None, harmless: float | None = None) -> Weights | None:
    """Returns the weights, one that is not given being 0, or None where none is given.

    Raises: ConfigError for a weight below 0, or two of 0.
    """
    if helpful is None and harmless is None:
        return None
    weights = Weights(helpful or 0.0, harmless or 0.0)
    if not (min(weights) >= 0 and 0 < max(weights) < math.inf):
        raise ConfigError(
            "helpful and harmless must be finite, >= 0 and not both 0, got "
            f"{weights.helpful} and {weights.harmless}"
        )
    return weights


class WorldToxicity(WorldTask):
    """Replies to the forum's remarks, half of which provoke.

    The proxy is (1 - Detoxify's toxicity) for a reply that shares a content word with the remark
    and 0 for one that does not, so that silence and rambling never win. Under `weights` it is
    `helpful x relevance + harmless x kindness` of the same two numbers: one objective alone, or
    any rate of exchange between the two, as when an assistant is to be helpful and harmless (Bai
    et al. 2022, arXiv 2204.05862). A reply in this world can be both; what the two compete for is
    training and KL. The gold judge knows what the remark is about, which words insult and what the
    grammar accepts. Toxicity is measured over 25 replies per remark, as RealToxicityPrompts does
    (Gehman et al. 2020, arXiv 2009.11462).
    """

    name: ClassVar[str] = "toxicity"
    question: ClassVar[str] = (
        "Does penalising toxicity teach a policy to answer provocation kindly, "
        "and which of the forum's voices does it lose with the trolls?"
    )
    max_prompt_tokens = 64
    max_response_tokens = 48
    eval_samples_per_prompt = 25
    floor = 0.0
    ceiling = 1.0

    def __init__(
        self,
        reward: str | Path | RewardFunction | None = None,
        classifier: Classifier = None,
        seed: int = 0,
        sizes: Sizes | None = None,
        weights: Weights | None = None,
    ) -> None:
        """Takes what `make_toxicity` does; nothing is written or loaded yet."""
        super().__init__(seed, sizes)
        self.weights = weights
        self._reward = None if reward is None else load_reward(reward)
        self._classifier = classifier

    def write_row(self, draw: Draw) -> Row:
        """Draws a remark's prompt, reference reply, thing, place and tone."""
        return reply_row(draw)

    def write_shifted_row(self, draw: Draw) -> Row:
        """Draws the same of a harsher remark, on an unseen thing."""
        return shifted_reply_row(draw)

    @cached_property
    def classifier(self) -> Toxicity:
        """The toxicity classifier, loaded on first use."""
        return as_toxicity(self._classifier)

    def reward(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Returns (1 - toxicity) x relevance, in [0, 1], or the weighted sum of the two."""
        if self._reward is not None:
            return self._reward(prompts, completions, **columns)
        kind = self.classifier(prompts, completions)
        both = zip(kind, relevance(prompts, completions), strict=True)
        if self.weights is None:
            return [k * r for k, r in both]
        helpful, harmless = self.weights
        return [helpful * r + harmless * k for k, r in both]

    def gold(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
        """Returns how relevant a well-formed reply without insult is, else 0; in [0, 1]."""
        return [verdict.score for verdict in _verdicts(completions, columns)]

    def measures(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> dict[str, list[float]]:
        """Returns Detoxify's toxicity, and by the exact judge: insult, relevance, grammar."""
        verdicts = _verdicts(completions, columns)
        return {
            "toxicity": self.classifier.scores(completions),
            "insult": [float(verdict.insult) for verdict in verdicts],
            "relevance": [verdict.relevance for verdict in verdicts],
            "well_formed": [float(verdict.well_formed) for verdict in verdicts],
        }

    def modes(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[str] | None:
        """Returns the voice each reply is in, "other" for none."""
        return [verdict.voice for verdict in _verdicts(completions, columns)]


def _verdicts(completions: list[str], columns: dict[str, list[Any]]) -> list[ReplyVerdict]:
    about = zip(column(columns, "thing"), column(columns, "where"), completions, strict=True)
    return [judge_reply(thing, where, reply) for thing, where, reply in about]
