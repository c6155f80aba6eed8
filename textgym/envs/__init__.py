"""The environments: a language model's context window as state, tokens as actions."""

from __future__ import annotations

from typing import Any

import gymnasium

ENVS: dict[str, dict[str, Any]] = {
    "textgym/Summarize-v0": {"task": "summarize"},
    "textgym/Toxicity-v0": {"task": "toxicity"},
    "textgym/Assistant-v0": {"task": "assistant"},
    "textgym/Author-v0": {"task": "author"},
    "textgym/Sentiment-v0": {"task": "sentiment"},
    "textgym/Caveats-v0": {"task": "caveats"},
    "textgym/Text-v0": {},
    "textgym/Oracle-v0": {"task": "known-frontier"},
    "textgym/TwoModes-v0": {"task": "two-modes"},
    "textgym/NoisyReward-v0": {"task": "noisy-reward"},
    "textgym/Credit-v0": {"task": "credit"},
    "textgym/ManyGoodAnswers-v0": {"task": "many-good-answers"},
    "textgym/SteppingStones-v0": {"task": "stepping-stones"},
    "textgym/TicTacToeText-v0": {"task": "tic-tac-toe"},
}
"""Ids of the text environments and the keyword arguments they fix; `textgym/Text-v0` takes any
`task`."""

GAMES: dict[str, str] = {"textgym/TicTacToe-v0": "textgym.envs.tictactoe:TicTacToeEnv"}
"""Ids of plain games, to learn with any agent of the field, and where they are."""


def register_envs() -> None:
    """Registers the environments with Gymnasium, by strings that are imported on first use.

    Calling it again changes nothing.
    """
    for env_id, kwargs in ENVS.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id,
                entry_point="textgym.envs.text_env:TextEnv",
                vector_entry_point="textgym.envs.vector_env:TextVectorEnv",
                # The environment enforces the order itself, with its own typed error.
                order_enforce=False,
                kwargs=dict(kwargs),
            )
    for env_id, entry_point in GAMES.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, entry_point=entry_point, order_enforce=False)
