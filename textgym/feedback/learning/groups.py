"""One reward per group of annotators: the plain alternative to a personal reward."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textgym.errors import FeedbackError
from textgym.feedback.learning.training import LearningConfig, Start, seeded, train_reward
from textgym.feedback.records import Feedback
from textgym.registry import unknown_name
from textgym.rewards import load_reward
from textgym.rewards.learned import RewardModel
from textgym.rewards.saving import CONSTANTS, read_constants, written_whole
from textgym.tasks.columns import column

if TYPE_CHECKING:
    import torch

    from textgym.types import Log, RewardFunction


class GroupRewards:
    """A reward function that scores each row as its column `group` would.

    Attributes:
        rewards: group -> its reward model.
    """

    def __init__(self, rewards: Mapping[str, RewardModel]) -> None:
        if not rewards:
            raise FeedbackError("no group to score for")
        self.rewards = dict(rewards)

    def for_group(self, group: str) -> RewardModel:
        """Returns a group's reward model. Raises: FeedbackError for an unknown group."""
        if group not in self.rewards:
            raise FeedbackError(str(unknown_name("group", group, self.rewards)))
        return self.rewards[group]

    def __call__(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Returns each completion's score by the group named in column `group`.

        Raises:
            RewardError: no such column.
            FeedbackError: an unknown group.
        """
        groups = column(columns, "group")
        scores = [0.0] * len(prompts)
        for group in dict.fromkeys(groups):
            rows = [i for i, own in enumerate(groups) if own == group]
            reward: RewardFunction = self.for_group(group)
            found = reward([prompts[i] for i in rows], [completions[i] for i in rows])
            for i, score in zip(rows, found, strict=True):
                scores[i] = score
        return scores

    def normalise(self, prompts: Sequence[str], completions: Sequence[str]) -> None:
        """Makes these samples score 0 on average with deviation 1 to every group.

        Raises: DataError for fewer than two samples or samples that all score alike.
        """
        for reward in self.rewards.values():
            reward.normalise(prompts, completions)

    def save(self, out: str | Path) -> None:
        """Writes a folder with one folder per group. Raises: ModelError when it cannot."""
        with written_whole(out) as folder:
            for number, reward in enumerate(self.rewards.values()):
                reward.save(folder / str(number))
            constants = {"kind": "groups", "groups": list(self.rewards)}
            (folder / CONSTANTS).write_text(json.dumps(constants, indent=2) + "\n")


def load_groups(path: str | Path) -> GroupRewards:
    """Loads what `GroupRewards.save` wrote. Raises: ModelError when the folder holds none."""
    groups = read_constants(path, ["groups"])["groups"]
    rewards: list[Any] = [load_reward(Path(path, str(i))) for i in range(len(groups))]
    return GroupRewards(dict(zip(groups, rewards, strict=True)))


def train_groups(
    start: Start,
    feedback: Sequence[Feedback],
    config: LearningConfig | None = None,
    generator: torch.Generator | None = None,
    log: Log | None = None,
) -> tuple[GroupRewards, dict[str, dict[str, float]]]:
    """Fits one reward model per group, each to its own answers alone.

    The arguments are those of `train_reward`.

    Returns:
        The rewards, not yet normalised, and each group's report.

    Raises:
        FeedbackError: an answer by an annotator without a group.
        As `train_reward`.
    """
    generator = generator or seeded()
    if alone := next((f.annotator for f in feedback if not f.group), None):
        raise FeedbackError(f"the annotator {alone!r} belongs to no group")
    rewards, reports = {}, {}
    for group in sorted({f.group for f in feedback}):
        own = [f for f in feedback if f.group == group]
        rewards[group], reports[group] = train_reward(start, own, config, generator, log)
    return GroupRewards(rewards), reports
