"""Summarize on human-written data: dialogues and summaries, laid out as DialogSum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from textgym.rewards.preferences import Annotator, simulate_preferences
from textgym.rewards.rouge import rouge_scores
from textgym.seeding import Streams
from textgym.tasks.columns import column
from textgym.tasks.learned_proxy import cached_reward_model, sample_completions
from textgym.tasks.real_data import RealTask, Row

if TYPE_CHECKING:
    from datasets import Dataset

    from textgym.models.policy import Policy
    from textgym.types import RewardFunction

HEAD, TAIL = "Dialogue: ", "\nSummary:"

ANNOTATOR = Annotator(rationality=15.0, flips=0.05)
"""Compares summaries with the human one in mind; its gold is ROUGE, in [0, 1]."""


class DialogSum(RealTask):
    """Summaries of everyday dialogues (Chen et al. 2021, arXiv 2105.06762).

    Gold is the mean of ROUGE-1, -2 and -L F1 against the references, the best over several. The
    proxy is a Bradley-Terry reward model trained on the train split: a simulated annotator, noisy,
    who knows the human summary compares pairs of it, a summary of another dialogue, the dialogue's
    first turn, the human summary with its words shuffled, and samples of the backbone. Samples
    teach it the texts that training starts from, the others that content, and order, count.

    Where a dialogue has several references, the first is the `reference` that stands for the
    human in comparisons and the others are the `references` that everyone is judged by; where
    there is one, it is both, and the human's own gold is 1.
    """

    name: ClassVar[str] = "summarize"
    question: ClassVar[str] = (
        "Does optimising a learned reward bring summaries of dialogues closer to human ones, "
        "and how much of their diversity is lost?"
    )
    needed: ClassVar[tuple[str, ...]] = ("dialogue", "summary")
    max_prompt_tokens = 384
    max_response_tokens = 64
    floor = 0.0
    ceiling = 1.0

    def rows(self, split: str) -> Iterable[Row]:
        """Yields one row per dialogue: `prompt`, `reference`, `references`, `topic`."""
        summaries: dict[str, list[str]] = {}
        topics: dict[str, str] = {}
        raw = self.raw[split]
        found = raw["topic"] if "topic" in raw.column_names else [""] * len(raw)
        for dialogue, summary, topic in zip(raw["dialogue"], raw["summary"], found, strict=True):
            summaries.setdefault(dialogue, []).append(" " + summary.strip())
            topics.setdefault(dialogue, topic)
        for dialogue, references in summaries.items():
            yield {
                "prompt": f"{HEAD}{dialogue.strip()}{TAIL}",
                "reference": references[0],
                "references": references[1:] or references,
                "topic": topics[dialogue],
            }

    def turns_of(self, prompt: str) -> tuple[str, list[str], str]:
        """Returns the dialogue's lines between the prompt's two labels."""
        dialogue = prompt.removeprefix(HEAD).removesuffix(TAIL)
        return HEAD, dialogue.splitlines(keepends=True), TAIL

    def gold(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
        """Returns the mean of ROUGE-1, -2 and -L F1, in [0, 1]."""
        return mean_rouge(completions, column(columns, "references"))

    def measures(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> dict[str, list[float]]:
        """Returns ROUGE-1, -2 and -L F1 against the references."""
        return rouge_scores(completions, column(columns, "references"))

    def train_reward(self) -> RewardFunction:
        """Returns the Bradley-Terry reward model of the train split."""
        rows = self.prompts("train")

        def preferences(policy: Policy, streams: Streams) -> Dataset:
            samples = sample_completions(
                policy,
                rows["prompt"],
                samples_per_prompt=3,
                max_prompt_tokens=self.max_prompt_tokens,
                max_response_tokens=self.max_response_tokens,
                generator=streams.torch("sampling"),
            )
            random = streams.numpy("annotators")
            written = self._written(rows, random)
            candidates = [a + b for a, b in zip(samples, written, strict=True)]
            gold = [
                mean_rouge(texts, [reference] * len(texts))
                for texts, reference in zip(candidates, rows["reference"], strict=True)
            ]
            return simulate_preferences(
                rows["prompt"], candidates, gold, ANNOTATOR, random, pairs_per_prompt=6
            )

        return cached_reward_model(self, [*rows["prompt"], *rows["reference"]], preferences)

    def _written(self, rows: Dataset, random: np.random.Generator) -> list[list[str]]:
        """Returns, for each row, the candidates that no policy wrote.

        They are the human summary, another dialogue's, the first turn, and the human one shuffled.
        """
        human = rows["reference"][:]
        # Every row gets the summary of another one: a cycle through all rows in random order.
        order = random.permutation(len(human))
        other = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
        candidates = []
        for i, (prompt, summary) in enumerate(zip(rows["prompt"], human, strict=True)):
            words = summary.split()
            shuffled = " ".join(words[int(j)] for j in random.permutation(len(words)))
            first = self.turns_of(prompt)[1][:1]
            candidates.append(
                [summary, human[other[i]], *(" " + turn.strip() for turn in first), " " + shuffled]
            )
        return candidates


def mean_rouge(completions: list[str], references: list[Any]) -> list[float]:
    """Returns the mean of ROUGE-1, -2 and -L F1 of each completion, in [0, 1]."""
    scores = list(rouge_scores(completions, references).values())
    return [sum(kinds) / len(kinds) for kinds in zip(*scores, strict=True)]
