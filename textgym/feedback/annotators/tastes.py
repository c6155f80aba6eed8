"""Tastes: rewards that people of different minds would give the same texts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from textgym.errors import ConfigError
from textgym.registry import unknown_name
from textgym.rewards.rules import words
from textgym.tasks.world_data import WorldTask
from textgym.worlds import forum, reports

if TYPE_CHECKING:
    from textgym.tasks.base import Task
    from textgym.types import RewardFunction

VOICES = {"summarize": reports.WRITERS, "toxicity": forum.VOICES}
"""The voices of each embedded task, by its name."""
MINORITY = {"summarize": "rambling", "toxicity": "poet"}
"""The voice that the ready-made minority prefers: one that gold does not favour."""
REFERENCES = 256
"""Training references that a taste learns from what is common."""


@dataclass(frozen=True)
class Taste:
    """What a group of annotators likes.

    Attributes:
        name: the group's.
        reward: of TRL's convention; on the scale of gold, about 0 to 1.

    Raises:
        ConfigError: on construction, for no name.
    """

    name: str
    reward: RewardFunction

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("a taste needs a name")


class RareWords:
    """The mean rarity of a text's distinct words, 0 (all are in every text) to 1 (none is known).

    The rarity of a word that d of n known texts hold is log((n + 1) / (d + 1)) / log(n + 1), its
    inverse document frequency (Sparck Jones 1972) scaled to [0, 1]. A text without words gets 0.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        """Takes the known texts. Raises: ConfigError for none."""
        if not len(texts):
            raise ConfigError("rarity needs known texts, got none")
        self.count = len(texts)
        self.holding = Counter(word for text in texts for word in set(words(text)))

    def rarity(self, text: str) -> float:
        """Returns a text's mean rarity."""
        n = self.count + 1
        found = [math.log(n / (self.holding[w] + 1)) / math.log(n) for w in set(words(text))]
        return sum(found) / len(found) if found else 0.0

    def __call__(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Scores each completion."""
        return [self.rarity(text) for text in completions]


class RareVoice:
    """One less the share of the task's references that are in the completion's voice.

    A text that no voice could have written gets 0: a wild card, not noise.
    """

    def __init__(self, task: Task) -> None:
        """Counts the voices of training references. Raises: ConfigError for a task without."""
        known = voices_of(task)
        rows = task.prompts("train")
        rows = rows.select(range(min(REFERENCES, len(rows))))
        columns = {name: list(rows[name]) for name in rows.column_names if name != "prompt"}
        met = task.modes(list(rows["prompt"]), columns["reference"], **columns) or []
        self.task = task
        self.scores = {voice: 1 - met.count(voice) / len(met) for voice in known}

    def __call__(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Scores each completion."""
        found = self.task.modes(prompts, completions, **columns) or []
        return [self.scores.get(voice, 0.0) for voice in found]


class PreferredVoice:
    """1 for a completion in the voice, else 0."""

    def __init__(self, task: Task, voice: str) -> None:
        """Takes an embedded task and one of its voices.

        Raises:
            UnknownNameError: another voice.
            ConfigError: a task without voices.
        """
        known = voices_of(task)
        if voice not in known:
            raise unknown_name("voice", voice, known)
        self.task = task
        self.voice = voice

    def __call__(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Scores each completion."""
        found = self.task.modes(prompts, completions, **columns) or []
        return [float(voice == self.voice) for voice in found]


def ready_made(task: Task, minority: str | None = None) -> dict[str, Taste]:
    """Returns three tastes of an embedded task by name.

    "searchers" use it as a search engine and want the one reliable answer: gold. "authors" look
    for a wild card: the voice that is met least (`RareVoice`). "minority" prefers one voice.

    Args:
        task: summarize or toxicity on its embedded world.
        minority: the voice that the minority prefers; by default the one in `MINORITY`.

    Raises:
        UnknownNameError: a voice that the task does not have.
        ConfigError: a task without voices.
    """
    voices_of(task)
    voice = minority if minority is not None else MINORITY[task.name]
    rewards: dict[str, RewardFunction] = {
        "searchers": task.gold,
        "authors": RareVoice(task),
        "minority": PreferredVoice(task, voice),
    }
    return {name: Taste(name, reward) for name, reward in rewards.items()}


def voices_of(task: Task) -> tuple[str, ...]:
    """Returns the voices of an embedded task. Raises: ConfigError for any other."""
    if not isinstance(task, WorldTask) or task.name not in VOICES:
        raise ConfigError(f"task {task.name!r} has no voices on this data; its world has")
    return VOICES[task.name]
