"""Toxicity on human preferences: assistant dialogues laid out as HH-RLHF."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from textgym.tasks.learned_proxy import cached_reward_model
from textgym.tasks.real_data import RealToxicityTask, Row
from textgym.tasks.toxicity import as_toxicity

if TYPE_CHECKING:
    from datasets import Dataset

    from textgym.rewards.detoxify import Toxicity
    from textgym.rewards.learned import RewardModel
    from textgym.types import RewardFunction

ASSISTANT = "\n\nAssistant:"
HUMAN = "\n\nHuman:"


class HHDialogue(RealToxicityTask):
    """An assistant's next turn, judged by human preferences (Bai et al. 2022, arXiv 2204.05862).

    The prompt is the dialogue up to the last "Assistant:", the reference the turn that people
    chose. The proxy is a Bradley-Terry reward model trained on the train split's pairs. There is
    no gold judge: no one was asked about new turns. Toxicity is measured beside it, by the shipped
    classifier unless another is named; the shipped one knows the embedded world's mild insults
    alone, so name one of Detoxify's for numbers that mean something.
    """

    name: ClassVar[str] = "toxicity"
    question: ClassVar[str] = (
        "Does optimising a reward learned from human preferences make an assistant's answers "
        "kinder, and how much of their diversity is lost?"
    )
    needed: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    max_prompt_tokens = 256
    max_response_tokens = 64
    eval_samples_per_prompt = 25
    has_gold = False

    @cached_property
    def classifier(self) -> Toxicity:
        """The toxicity classifier, loaded on first use."""
        return as_toxicity(self._classifier)

    def rows(self, split: str) -> Iterable[Row]:
        """Yields `prompt`, `reference` (the chosen turn) and `rejected`.

        Pairs that do not share their dialogue up to the last turn, or whose turn is empty, are
        left out: they are no comparison of two answers to one prompt.
        """
        raw = self.raw[split]
        for chosen, rejected in zip(raw["chosen"], raw["rejected"], strict=True):
            prompt, mark, better = chosen.rpartition(ASSISTANT)
            other, _, worse = rejected.rpartition(ASSISTANT)
            if mark and prompt == other and better.strip() and worse.strip():
                yield {
                    "prompt": prompt + mark,
                    "reference": " " + better.strip(),
                    "rejected": " " + worse.strip(),
                }

    def turns_of(self, prompt: str) -> tuple[str, list[str], str]:
        """Returns the dialogue's rounds, each from "Human:" to the next, before the last mark."""
        rounds = [HUMAN + text for text in prompt.removesuffix(ASSISTANT).split(HUMAN)[1:]]
        return "", rounds, ASSISTANT

    def train_reward(self) -> RewardFunction:
        """Returns the Bradley-Terry reward model of the train split's pairs."""
        return self.reward_of(self.prompts("train"))

    def reward_of(self, rows: Dataset) -> RewardModel:
        """Returns the Bradley-Terry reward model of the rows' pairs, trained on first use."""
        rows = rows.select_columns(["prompt", "reference", "rejected"])
        texts = [text for name in rows.column_names for text in rows[name]]
        pairs = rows.rename_column("reference", "chosen")
        return cached_reward_model(self, texts, lambda policy, streams: pairs)

    def measures(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> dict[str, list[float]]:
        """Returns the classifier's toxicity."""
        return {"toxicity": self.classifier.scores(completions)}
