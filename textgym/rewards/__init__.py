"""The rewards: classes and functions that make a `textgym.types.RewardFunction`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textgym.registry import Registry

if TYPE_CHECKING:
    from textgym.types import RewardFunction

REWARDS = Registry(
    "reward",
    {
        "detoxify": "textgym.rewards.detoxify:Toxicity",
        "learned": "textgym.rewards.learned:load_reward_model",
        "relevance": "textgym.rewards.rules:Relevance",
        "rouge": "textgym.rewards.rouge:Rouge",
        "substance": "textgym.rewards.rules:Substance",
    },
    entry_point_group="textgym.rewards",
)
"""Names -> factories: `REWARDS.load(name)(**options)` is a reward function."""

SAVED = Registry(
    "kind of saved reward",
    {
        "encoder": "textgym.feedback.learning.encoder:load_encoder_reward",
        "ensemble": "textgym.feedback.learning.ensemble:load_ensemble",
        "groups": "textgym.feedback.learning.groups:load_groups",
        "model": "textgym.rewards.learned:load_reward_model",
        "personal": "textgym.feedback.learning.personal:load_personal",
    },
    entry_point_group="textgym.saved_rewards",
)
"""The `kind` in a folder's `reward.json` -> what loads the folder."""


def load_reward(reward: str | Path | RewardFunction, **options: Any) -> RewardFunction:
    """Returns a reward function from whatever names one.

    Args:
        reward: a name in `REWARDS`, `path/to/file.py:Factory`, a folder that a reward's `save`
            wrote, or a reward function, which is returned as it is.
        options: passed to the factory that a name stands for.

    Raises:
        UnknownNameError: a name that is neither known nor a folder.
        PluginError: a file without that object.
        ModelError: a folder that holds no reward model.
    """
    if callable(reward):
        return reward
    if ".py:" not in str(reward) and str(reward) not in REWARDS and Path(reward).is_dir():
        from textgym.rewards.saving import CONSTANTS, read_constants

        known = Path(reward, CONSTANTS).is_file()
        kind = read_constants(reward).get("kind", "model") if known else "model"
        saved: RewardFunction = SAVED.load(str(kind))(reward)
        return saved
    made: RewardFunction = REWARDS.load(str(reward))(**options)
    return made


def packaged_reward(folder: str) -> RewardFunction:
    """Returns the reward model in a folder of the package's assets. Raises: ModelError."""
    return load_reward(Path(str(resources.files("textgym.assets").joinpath(folder))))
