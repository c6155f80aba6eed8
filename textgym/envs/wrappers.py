"""Coarser actions over the token environment, and the wrappers that ask a policy."""

from __future__ import annotations

import string
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from textgym.envs.context_window import Observation
from textgym.envs.policy_wrappers import ActionMask, KLPenalty, token_actions
from textgym.envs.text_env import TextEnv
from textgym.errors import InvalidActionError
from textgym.models.tokenize import completion_token_ids

__all__ = ["ActionMask", "CompletionActions", "KLPenalty", "SentenceActions"]

CHARACTERS = string.ascii_letters + string.digits + string.punctuation + " \n"
CHARACTERS_PER_TOKEN = 4

Text = str | Sequence[int]


class TextActions(gymnasium.Wrapper[Observation, Any, Observation, Any], RecordConstructorArgs):
    """Base of the wrappers whose action is a piece of text, stepped token by token.

    An action is a string, or the token ids themselves ([n] integers), which a policy that samples
    tokens should pass: tokenizing its text again may give other tokens. An action ends early where
    the response ends, at an EOS inside it or at the length limit. Its reward is the sum over its
    tokens, and so are the `reward_terms` in its info; the rest of the info is the last token's.

    The action space, for sampling, is printable ASCII of up to 4 characters per response token;
    any string is taken.

    Args:
        env: an environment whose actions are tokens.

    Raises:
        ConfigError: an environment of other actions.
    """

    def __init__(self, env: gymnasium.Env[Observation, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        token_actions(env.action_space)
        self._task = cast("TextEnv", env.unwrapped).token_task
        self.action_space = spaces.Text(
            CHARACTERS_PER_TOKEN * self._task.max_response_tokens, min_length=0, charset=CHARACTERS
        )

    def step(self, action: Text) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Steps through the tokens of the action.

        Raises:
            EpisodeOverError: before the first reset, or after the response has ended.
            InvalidActionError: the action is neither a text nor tokens of the vocabulary.
        """
        total, terms = 0.0, dict[str, float]()
        for token in self.tokens(action):
            observation, reward, terminated, truncated, info = self.env.step(np.int64(token))
            total += float(reward)
            for name, value in info.get("reward_terms", {}).items():
                terms[name] = terms.get(name, 0.0) + value
            if terminated or truncated:
                break
        if terms:
            info["reward_terms"] = terms
        return observation, total, terminated, truncated, info

    @abstractmethod
    def tokens(self, action: Text) -> list[int]:
        """Returns the tokens that an action stands for, at least one."""

    def _encode(self, action: Text) -> list[int]:
        if isinstance(action, str):
            return completion_token_ids(self._task.tokenizer, [action])[0][:-1]
        ids = np.asarray(action)
        if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
            raise InvalidActionError(f"action must be a text or token ids, got {action!r:.60}")
        vocab_size = self._task.vocab_size
        if len(ids) and not (ids.min() >= 0 and ids.max() < vocab_size):
            raise InvalidActionError(f"token ids must be in [0, {vocab_size}), got {action!r:.60}")
        return [int(token) for token in ids]


class SentenceActions(TextActions):
    """One action, one sentence; an empty action ends the response.

    What a sentence is, the agent decides: the text is appended as it is, so a sentence after the
    first starts with its own space.
    """

    def tokens(self, action: Text) -> list[int]:
        """Returns the sentence's tokens, or EOS for an empty one."""
        return self._encode(action) or [self._task.eos_id]


class CompletionActions(TextActions):
    """One action, one whole response: the contextual bandit."""

    def tokens(self, action: Text) -> list[int]:
        """Returns the completion's tokens and EOS."""
        return [*self._encode(action), self._task.eos_id]
