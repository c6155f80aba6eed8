"""Many responses at a time, over preallocated arrays: one environment, not N objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from textgym.envs.context_window import ContextWindow, Observation
from textgym.envs.text_env import METADATA, describe
from textgym.envs.token_task import Prompt, TokenTask
from textgym.errors import ConfigError, EpisodeOverError, InvalidActionError
from textgym.tasks.base import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from textgym.types import RewardFunction

Step = tuple[Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


LISTS = (list, tuple, np.ndarray)
VECTOR_METADATA = {**METADATA, "autoreset_mode": AutoresetMode.SAME_STEP}


class TextVectorEnv(VectorEnv[Observation, NDArray[np.int64], NDArray[Any]]):
    """B `TextEnv`s stepped together; row i seeded with s is the `TextEnv` seeded with s + i.

    Autoreset is `SAME_STEP`: when a response ends, the same step draws the row's next prompt, so
    that every step of every row is a token that counts. The ended response's last observation and
    info are in `infos["final_obs"]` and `infos["final_info"]`, in Gymnasium's layout. The rewards
    of all responses that end in one step are computed in one call.

    Args:
        num_envs: B.
        task, tokenizer, split, max_prompt_tokens, max_response_tokens, length_limit, reward,
            vocab_size, task_options: as in `TextEnv`.
        render_mode: None, "ansi" (`render` returns B texts) or "human" (it prints them).

    Raises:
        ConfigError, DataError, ModelError, UnknownNameError: see `TokenTask` and `load_task`.
    """

    metadata = VECTOR_METADATA
    autoreset_mode = AutoresetMode.SAME_STEP

    def __init__(
        self,
        num_envs: int = 1,
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
        if num_envs < 1:
            raise ConfigError(f"num_envs must be >= 1, got {num_envs}")
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
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.single_action_space = self.token_task.action_space()
        self.single_observation_space = self.token_task.observation_space()
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._window = ContextWindow(
            num_envs, self.token_task.context_length, self.token_task.pad_id
        )
        self._generators: list[np.random.Generator] = []
        self._prompts: list[Prompt] = []
        self._lengths = np.zeros(num_envs, dtype=np.int64)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts a response in every row.

        Args:
            seed: row i is seeded with seed + i, or with seed[i].
            options: as in `TextEnv`, for all rows alike; or with a list of B prompts or indices,
                and then a list of B values for every further column. `reset_mask` ([B] bool)
                resets only the rows where it is True.

        Raises:
            ConfigError: options or seeds that do not fit the rows.
            PromptTooLongError: a prompt does not fit its window.
        """
        options = dict(options or {})
        rows = self._rows_to_reset(options.pop("reset_mask", None))
        self._seed(seed, rows)
        per_row = self._options_of_rows(options)
        prompts = [self.token_task.prompt(per_row[i], self._generators[i]) for i in rows]
        if not self._prompts:
            self._prompts = prompts
        infos = self._start(rows, prompts)
        return self._window.rows(), infos

    def step(self, actions: NDArray[np.int64]) -> Step:
        """Appends one token to every row's response ([B] integers).

        Raises:
            EpisodeOverError: before the first reset.
            InvalidActionError: an action that is no token of the vocabulary.
            RewardError: the reward of a finished response is not finite.
        """
        if not self._prompts:
            raise EpisodeOverError("step needs responses in progress; call reset first")
        tokens = self.tokens(actions)
        self._window.push(tokens)
        self._lengths += 1
        stopped = tokens == self.token_task.eos_id
        done = stopped | (self._lengths == self.token_task.max_response_tokens)
        rewards = np.zeros(self.num_envs)
        infos: dict[str, Any] = {}
        if done.any():
            infos = self._finish(np.flatnonzero(done).tolist(), stopped, rewards)
        if self.token_task.truncates:
            return self._window.rows(), rewards, stopped, done & ~stopped, infos
        return self._window.rows(), rewards, done, np.zeros_like(done), infos

    def _finish(
        self, rows: list[int], stopped: NDArray[np.bool_], rewards: NDArray[np.float64]
    ) -> dict[str, Any]:
        """Scores the rows' responses into `rewards`, starts their next ones, returns the infos."""
        prompts = [self._prompts[row] for row in rows]
        lengths = self._lengths[rows].tolist()
        responses = [self._window.last(row, n) for row, n in zip(rows, lengths, strict=True)]
        texts, values = self.token_task.score(prompts, responses)
        rewards[rows] = values
        final_obs = [self._window.row(row) for row in rows]
        final_info = {
            "prompt": [prompt.text for prompt in prompts],
            "index": [prompt.index for prompt in prompts],
            "response": texts,
            "response_tokens": lengths,
            "finish_reason": ["stop" if stopped[row] else "length" for row in rows],
            "reward_terms": {"task": values},
        }
        following = [self.token_task.prompt(None, self._generators[row]) for row in rows]
        started = self._start(rows, following)
        return self._infos(rows, {"final_obs": final_obs, "final_info": final_info}) | started

    def _start(self, rows: list[int], prompts: list[Prompt]) -> dict[str, Any]:
        """Begins the rows' responses to the prompts and returns the infos of their reset."""
        for row, prompt in zip(rows, prompts, strict=True):
            self._prompts[row] = prompt
            self._window.place(row, prompt.ids)
        self._lengths[rows] = 0
        texts, indices = [prompt.text for prompt in prompts], [prompt.index for prompt in prompts]
        return self._infos(rows, {"prompt": texts, "index": indices})

    def _infos(self, rows: list[int], columns: dict[str, Any]) -> dict[str, Any]:
        """Returns Gymnasium's layout: per name an array of B, and under `_name` who has a value.

        Args:
            rows: who has a value.
            columns: name -> their values, or a dict of such columns.
        """
        has_value = np.zeros(self.num_envs, dtype=bool)
        has_value[rows] = True
        infos: dict[str, Any] = {}
        for name, values in columns.items():
            if isinstance(values, dict):
                array: Any = self._infos(rows, values)
            elif isinstance(values[0], (int, float)):
                array = np.zeros(self.num_envs, dtype=type(values[0]))
                array[has_value] = values
            else:
                array = np.empty(self.num_envs, dtype=object)
                for row, value in zip(rows, values, strict=True):
                    array[row] = value
            infos[name], infos[f"_{name}"] = array, has_value.copy()
        return infos

    def tokens(self, actions: Any) -> NDArray[np.int64]:
        """Returns actions as token ids [B]. Raises: InvalidActionError unless B in [0, V)."""
        tokens = np.asarray(actions)
        if tokens.shape != (self.num_envs,) or tokens.dtype.kind not in "iu":
            raise InvalidActionError(
                f"actions must be {self.num_envs} integers, "
                f"got shape {tokens.shape} of {tokens.dtype}"
            )
        vocab_size = self.token_task.vocab_size
        low, high = tokens.min(), tokens.max()
        if low < 0 or high >= vocab_size:
            bad = low if low < 0 else high
            raise InvalidActionError(f"actions must be in [0, {vocab_size}), got {bad}")
        return tokens

    def _rows_to_reset(self, mask: NDArray[np.bool_] | None) -> list[int]:
        if mask is None:
            return list(range(self.num_envs))
        if np.shape(mask) != (self.num_envs,) or not np.any(mask):
            raise ConfigError(f"reset_mask must be {self.num_envs} booleans, at least one True")
        if not self._prompts and not np.all(mask):
            raise ConfigError("the first reset must reset every row; reset_mask has a False")
        return [int(row) for row in np.flatnonzero(mask)]

    def _seed(self, seed: int | Sequence[int | None] | None, rows: list[int]) -> None:
        if seed is None and not self._generators:
            self._generators = list(self.np_random.spawn(self.num_envs))
        if seed is None:
            return
        if isinstance(seed, int):
            seed = range(seed, seed + self.num_envs)
        seeds = list(seed)
        if seeds and seeds[0] is not None:
            # One reward scores all rows: the first row's seed restarts it.
            self.token_task.seed(seeds[0])
        if len(seeds) != self.num_envs:
            raise ConfigError(f"expected {self.num_envs} seeds, got {len(seeds)}")
        if not self._generators:
            self._generators = [seeding.np_random(one)[0] for one in seeds]
            return
        for row in rows:
            if seeds[row] is not None:
                self._generators[row] = seeding.np_random(seeds[row])[0]

    def _options_of_rows(self, options: dict[str, Any]) -> list[dict[str, Any]]:
        """Returns each row's own options."""
        asked = options.get("prompt", options.get("index"))
        if not isinstance(asked, LISTS):
            return [options] * self.num_envs
        for name, values in options.items():
            if not isinstance(values, LISTS) or len(values) != self.num_envs:
                raise ConfigError(f"option {name!r} must list {self.num_envs} values, one per row")
        return [{name: values[i] for name, values in options.items()} for i in range(self.num_envs)]

    def render(self) -> tuple[str, ...] | None:
        """Returns ("ansi") or prints ("human") each row's prompt, response so far and rewards."""
        if not self._prompts:
            raise EpisodeOverError("render needs prompts; call reset first")
        texts = []
        for row, (prompt, length) in enumerate(
            zip(self._prompts, self._lengths.tolist(), strict=True)
        ):
            response = self.token_task.decode(self._window.last(row, length))
            texts.append(describe(prompt.text, response, length, None, {}))
        if self.render_mode == "human":
            print("\n\n".join(texts))
        return tuple(texts) if self.render_mode == "ansi" else None
