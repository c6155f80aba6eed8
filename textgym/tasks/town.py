"""What the tasks of the town share: they bring its language model, unless another is named."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from textgym.rewards import load_reward
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


def packaged_reward(folder: str) -> RewardFunction:
    """Returns the reward model in a folder of the package's assets. Raises: ModelError."""
    return load_reward(Path(str(resources.files("textgym.assets").joinpath(folder))))
