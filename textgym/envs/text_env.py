"""One response at a time, one token per step."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from textgym.envs.context_window import ContextWindow, Observation
from textgym.envs.token_task import Prompt, TokenTask
from textgym.errors import EpisodeOverError, InvalidActionError
from textgym.tasks.base import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from textgym.types import RewardFunction


METADATA: dict[str, Any] = {"render_modes": ["ansi", "human"], "render_fps": 4}


class TextEnv(gymnasium.Env[Observation, np.int64]):
    """A language model's context window as state, tokens as actions, the task's reward at the end.

    Observations are `Dict(input_ids: Box(0, V - 1, (C,), int64), attention_mask: MultiBinary(C))`,
    left-padded; actions are `Discrete(V)`. C = max_prompt_tokens + max_response_tokens. The reward
    is 0 until EOS or the length limit ends the response, then the task's.

    `reset` gives info `prompt` (text) and `index` (row of the split, -1 for a prompt of the
    user's). The last step gives info `prompt`, `index`, `response` (text), `response_tokens` (up to
    and including EOS), `finish_reason` ("stop" after EOS, "length" at the limit) and
    `reward_terms` (name -> value; they add up to the reward). Other steps give no info.

    Args:
        task: a task, or the name of one.
        tokenizer: a tokenizer, a path or a Hub id; None is the task's own, or that of the embedded
            language model.
        split: which of the task's prompts to draw from: train, validation or test.
        max_prompt_tokens: room for the prompt; the task's own by default.
        max_response_tokens: length limit of a response; the task's own by default.
        length_limit: whether a response that reaches the limit is "terminate"d (it is complete and
            scored) or "truncate"d.
        reward: replaces the task's reward; a function, or a name that `load_reward` knows.
        vocab_size: V, where the model's head is larger than the tokenizer.
        render_mode: None, "ansi" (`render` returns a text) or "human" (it prints the text, which
            the last step of a response also does by itself).
        task_options: keyword arguments for the task, such as `data`, when `task` is a name.

    Attributes:
        reward_terms: what the response has earned so far, by name; wrappers add their own.

    Raises:
        ConfigError, DataError, ModelError, UnknownNameError: see `TokenTask` and `load_task`.
    """

    metadata = METADATA

    def __init__(
        self,
        task: str | Task = "summarize",
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        split: str = "train",
        max_prompt_tokens: int | None = None,
        max_response_tokens: int | None = None,
        length_limit: str = "terminate",
        reward: str | RewardFunction | None = None,
        vocab_size: int | None = None,
        render_mode: str | None = None,
        **task_options: Any,
    ) -> None:
        self.token_task = TokenTask(
            task,
            tokenizer,
            split,
            max_prompt_tokens,
            max_response_tokens,
            length_limit,
            reward,
            vocab_size,
            task_options,
        )
        self.render_mode = render_mode
        self.action_space = self.token_task.action_space()
        self.observation_space = self.token_task.observation_space()
        self.reward_terms: dict[str, float] = {}
        self._window = ContextWindow(1, self.token_task.context_length, self.token_task.pad_id)
        self._vocab_size = self.token_task.vocab_size
        self._eos_id = self.token_task.eos_id
        self._limit = self.token_task.max_response_tokens
        self._prompt: Prompt | None = None
        self._length = 0
        self._finish_reason: str | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts a response to a prompt drawn from the environment's own generator.

        Args:
            seed: restarts that generator, and a reward that is random.
            options: {"index": row of the split}, or {"prompt": text} with further columns for the
                reward, instead of a drawn prompt.

        Raises:
            ConfigError: unknown options, or an index outside the split.
            PromptTooLongError: the prompt does not fit its window.
        """
        super().reset(seed=seed)
        if seed is not None:
            self.token_task.seed(seed)
        prompt = self.token_task.prompt(options, self.np_random)
        self._prompt = prompt
        self._window.place(0, prompt.ids)
        self._length = 0
        self._finish_reason = None
        self.reward_terms = {}
        return self._window.row(0), {"prompt": prompt.text, "index": prompt.index}

    def token(self, action: Any) -> int:
        """Returns an action as a token id. Raises: InvalidActionError outside [0, V)."""
        try:
            token = operator.index(action)
        except TypeError:
            raise InvalidActionError(
                f"action must be one token id, got {type(action).__name__} {action!r:.60}"
            ) from None
        if not 0 <= token < self._vocab_size:
            raise InvalidActionError(f"action must be in [0, {self._vocab_size}), got {token}")
        return token

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Appends a token to the response.

        Raises:
            EpisodeOverError: before the first reset, or after the response has ended.
            InvalidActionError: the action is no token of the vocabulary.
            RewardError: the reward of the finished response is not finite.
        """
        if self._prompt is None or self._finish_reason is not None:
            raise EpisodeOverError("step needs a response in progress; call reset first")
        token = self.token(action)
        self._window.push(token)
        self._length += 1
        if token != self._eos_id and self._length < self._limit:
            return self._window.row(0), 0.0, False, False, {}
        return self._finish(self._prompt, stopped=token == self._eos_id)

    def _finish(
        self, prompt: Prompt, *, stopped: bool
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self._finish_reason = "stop" if stopped else "length"
        response = self._window.last(0, self._length)
        (text,), (reward,) = self.token_task.score([prompt], [response])
        self.reward_terms["task"] = reward
        if self.render_mode == "human":
            self.render()
        truncated = self.token_task.truncates and not stopped
        info = {
            "prompt": prompt.text,
            "index": prompt.index,
            "response": text,
            "response_tokens": self._length,
            "finish_reason": self._finish_reason,
            "reward_terms": {"task": reward},
        }
        return self._window.row(0), reward, not truncated, truncated, info

    def render(self) -> str | None:
        """Returns ("ansi") or prints ("human") the prompt, the response so far and its rewards."""
        if self._prompt is None:
            raise EpisodeOverError("render needs a prompt; call reset first")
        if self.render_mode is None:
            return None
        response = self.token_task.decode(self._window.last(0, self._length))
        text = describe(
            self._prompt.text, response, self._length, self._finish_reason, self.reward_terms
        )
        if self.render_mode == "human":
            print(text)
            return None
        return text


def describe(
    prompt: str,
    response: str,
    response_tokens: int,
    finish_reason: str | None,
    reward_terms: dict[str, float],
) -> str:
    """Returns what `render` shows.

    >>> print(describe("Report: rain.", "It rained.", 4, "stop", {"task": 0.5}))
    [prompt]
    Report: rain.
    [response: 4 tokens, stop]
    It rained.
    [reward]
    task 0.5000
    """
    lines = ["[prompt]", prompt]
    lines += [f"[response: {response_tokens} tokens, {finish_reason or 'open'}]", response]
    lines += ["[reward]", *(f"{name} {value:.4f}" for name, value in reward_terms.items())]
    return "\n".join(lines)
