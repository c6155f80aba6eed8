"""What the tasks of the town share: they bring its language model, unless another is named."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textgym.rewards import load_reward, packaged_reward
from textgym.tasks.world_data import WorldTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from textgym.tasks.sizes import Sizes
    from textgym.types import RewardFunction

TOWN = "town"


class TownTask(WorldTask):
    """A task written by the town's worlds.

    Attributes:
        backbone: the language model that is asked; "tiny", the suites' default, means the packaged
            one that knows the town.
    """

    def __init__(
        self,
        reward: str | Path | RewardFunction | None = None,
        backbone: str = "tiny",
        seed: int = 0,
        sizes: Sizes | None = None,
    ) -> None:
        """Nothing is written or loaded yet; `reward` replaces the proxy."""
        super().__init__(seed, sizes)
        self.backbone = TOWN if backbone == "tiny" else backbone
        self._reward = None if reward is None else load_reward(reward)

    def language_model(self) -> Path | None:
        """Returns the packaged model's folder, or None where another was named."""
        from textgym.models.tokenize import resolve

        return Path(resolve(TOWN)) if self.backbone == TOWN else None

    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Returns the packaged model's tokenizer, or None where another model was named."""
        from textgym.models.tokenize import load_tokenizer

        return load_tokenizer(TOWN) if self.backbone == TOWN else None


class LearnedTownTask(TownTask):
    """A task of the town whose proxy is a shipped reward model, learned from comparisons.

    Attributes:
        shipped_reward: its folder in the package's assets, made by `textgym pretrain-reward`.
    """

    shipped_reward: ClassVar[str]

    @cached_property
    def proxy(self) -> RewardFunction:
        """The reward function behind `reward`, loaded on first use."""
        return self._reward or packaged_reward(self.shipped_reward)

    def reward(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Returns the reward model's score, 0 on average for the pretrained model's completions."""
        return self.proxy(prompts, completions, **columns)
