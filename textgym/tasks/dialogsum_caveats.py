"""Caveats on human-written data: dialogues laid out as DialogSum, some of whose speakers doubt."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from textgym.tasks.caveats import caveat_reward, caveat_shares, has_caveat
from textgym.tasks.columns import column
from textgym.tasks.dialogsum import DialogSum
from textgym.tasks.real_data import Row
from textgym.types import RewardFunction


class DialogSumCaveats(DialogSum):
    """Summaries of dialogues that must say so where a speaker was not sure.

    A dialogue counts as unsure when it has a word of doubt of its own, by the same list that finds
    a caveat in a summary. The reward is the rule of the embedded form. Gold is ROUGE where the
    caveat is as it should be, else 0. People who wrote the references hardly ever passed a doubt
    on: the row of the human in a results table says how often.
    """

    name: ClassVar[str] = "caveats"
    question: ClassVar[str] = (
        "Does a rule that checks for a caveat teach summaries of dialogues to doubt when a speaker "
        "does, and how close to human summaries do they stay?"
    )

    def rows(self, split: str) -> Iterable[Row]:
        """Yields DialogSum's rows, each with `unsure`."""
        for row in super().rows(split):
            yield {**row, "unsure": has_caveat(row["prompt"])}

    def train_reward(self) -> RewardFunction:
        """Returns the rule: there is nothing to train."""
        return lambda prompts, completions, **columns: caveat_reward(
            prompts, completions, column(columns, "unsure")
        )

    def gold(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
        """Returns the mean of ROUGE-1, -2 and -L F1 where the caveat is right, in [0, 1]."""
        due = zip(completions, column(columns, "unsure"), strict=True)
        right = [float(has_caveat(text) == unsure) for text, unsure in due]
        rouge = super().gold(prompts, completions, **columns)
        return [a * b for a, b in zip(right, rouge, strict=True)]

    def measures(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> dict[str, list[float]]:
        """Returns ROUGE, and caveats where they are due and where they are not."""
        caveats = [has_caveat(text) for text in completions]
        shares = caveat_shares(caveats, column(columns, "unsure"))
        return super().measures(prompts, completions, **columns) | shares
