"""The environments: a language model's context window as state, tokens as actions."""

from __future__ import annotations

from typing import Any

import gymnasium

ENVS: dict[str, dict[str, Any]] = {
    "textgym/Summarize-v0": {"task": "summarize"},
    "textgym/Toxicity-v0": {"task": "toxicity"},
    "textgym/Text-v0": {},
}
"""Registered ids and the keyword arguments they fix; `textgym/Text-v0` takes any `task`."""


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
