"""A task seen through a tokenizer: prompts as token ids, responses decoded and scored."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from textgym.errors import ConfigError, DataError, ModelError
from textgym.models.tokenize import encode_prompts, load_tokenizer
from textgym.rewards import load_reward
from textgym.seeding import Streams
from textgym.tasks import load_task
from textgym.tasks.base import Task, checked_rewards, require_split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from textgym.types import RewardFunction

LENGTH_LIMITS = ("terminate", "truncate")


@dataclass(frozen=True)
class Prompt:
    """A prompt of a task.

    Attributes:
        text: what was asked.
        ids: [n] int64, its tokens; n <= max_prompt_tokens.
        columns: the row's other columns, for the reward.
        index: its row in the split, or -1 if the user gave the text.
    """

    text: str
    ids: NDArray[np.int64]
    columns: dict[str, Any]
    index: int


class TokenTask:
    """What the single and the vector environment share.

    Args:
        task: a task, or the name of one.
        tokenizer: a tokenizer, a path or a Hub id; None is the task's own, or that of the embedded
            language model.
        split: which of the task's prompts to draw from.
        max_prompt_tokens: room for the prompt; the task's own by default.
        max_response_tokens: length limit of a response; the task's own by default.
        length_limit: "terminate" if a response cut at the limit counts as terminated, since it is
            complete and scored; "truncate" for the other convention.
        reward: replaces the task's reward; a function, or a name that `load_reward` knows.
        vocab_size: V, where the model's head is larger than the tokenizer.
        task_options: keyword arguments for the task, when `task` is a name.

    Raises:
        ConfigError: an option outside its domain.
        DataError: an unknown or empty split, or one without a `prompt` column.
        ModelError: a tokenizer that cannot be loaded or has no EOS token.
    """

    def __init__(
        self,
        task: str | Task,
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        split: str = "train",
        max_prompt_tokens: int | None = None,
        max_response_tokens: int | None = None,
        length_limit: str = "terminate",
        reward: str | RewardFunction | None = None,
        vocab_size: int | None = None,
        task_options: dict[str, Any] | None = None,
    ) -> None:
        if isinstance(task, Task) and task_options:
            raise ConfigError(f"a task object takes no options, got {', '.join(task_options)}")
        require_split(split, ood=True)
        self.task = load_task(task, **(task_options or {}))
        self.tokenizer = _ready(self.task.tokenizer() if tokenizer is None else tokenizer)
        self.eos_id = int(self.tokenizer.eos_token_id)
        self.pad_id = int(self.tokenizer.pad_token_id)
        known = len(self.tokenizer)
        self.vocab_size = known if vocab_size is None else vocab_size
        if self.vocab_size < known:
            raise ConfigError(f"vocab_size must be >= the tokenizer's {known}, got {vocab_size}")
        self.max_prompt_tokens = _tokens(
            "max_prompt_tokens", max_prompt_tokens, self.task.max_prompt_tokens
        )
        self.max_response_tokens = _tokens(
            "max_response_tokens", max_response_tokens, self.task.max_response_tokens
        )
        if length_limit not in LENGTH_LIMITS:
            raise ConfigError(
                f"length_limit must be one of {', '.join(LENGTH_LIMITS)}, got {length_limit!r}"
            )
        self.truncates = length_limit == "truncate"
        self._given_reward = None if reward is None else load_reward(reward)
        self._reward_name = self.task.name if reward is None else _name_of(reward)
        self._data = self.task.prompts(split)
        if "prompt" not in self._data.column_names:
            columns = ", ".join(self._data.column_names)
            raise DataError(f"split {split!r} has no 'prompt' column (columns: {columns})")
        self._size = len(self._data)
        if self._size == 0:
            raise DataError(f"split {split!r} of task {self.task.name!r} is empty")
        self._prompts: dict[int, Prompt] = {}

    @property
    def context_length(self) -> int:
        """C, tokens."""
        return self.max_prompt_tokens + self.max_response_tokens

    def action_space(self) -> spaces.Discrete:
        """Returns Discrete(V)."""
        return spaces.Discrete(self.vocab_size)

    def observation_space(self) -> spaces.Dict:
        """Returns the space of left-padded contexts, as a model takes them."""
        shape = (self.context_length,)
        return spaces.Dict(
            {
                "input_ids": spaces.Box(0, self.vocab_size - 1, shape, np.int64),
                "attention_mask": spaces.MultiBinary(self.context_length),
            }
        )

    def prompt(self, options: dict[str, Any] | None, generator: np.random.Generator) -> Prompt:
        """Returns the prompt that the reset options ask for, or draws one uniformly.

        Args:
            options: nothing, or {"index": row}, or {"prompt": text} with any further columns that
                the reward needs.
            generator: drawn from only if the options name no prompt.

        Raises:
            ConfigError: unknown options, or an index outside the split.
            PromptTooLongError: the prompt has more than max_prompt_tokens tokens.
        """
        if not options:
            return self._at(int(generator.integers(self._size)))
        if "prompt" in options and "index" not in options:
            columns = {name: value for name, value in options.items() if name != "prompt"}
            return self._encode(options["prompt"], columns, index=-1)
        if set(options) != {"index"}:
            raise ConfigError(
                "reset options must be 'index', or 'prompt' with columns; "
                f"got {', '.join(map(repr, options))}"
            )
        index = options["index"]
        if not 0 <= index < self._size:
            raise ConfigError(f"index must be in [0, {self._size}), got {index}")
        return self._at(int(index))

    def seed(self, seed: int) -> None:
        """Restarts a random reward; a task object that the user gave is left as it is."""
        self.task = self.task.for_run(Streams(seed))

    def score(
        self, prompts: list[Prompt], responses: list[NDArray[np.int64]]
    ) -> tuple[list[str], list[float]]:
        """Decodes responses and scores them in one call of the reward.

        Args:
            prompts: what each response answers.
            responses: [n] int64 each, up to and including EOS.

        Returns:
            The texts and their rewards.

        Raises:
            RewardError: the reward gave NaN, an infinity, or the wrong number of values.
        """
        texts = [self.decode(ids) for ids in responses]
        names = dict.fromkeys(name for prompt in prompts for name in prompt.columns)
        columns = {name: [prompt.columns.get(name) for prompt in prompts] for name in names}
        reward = self._given_reward or self.task.reward
        values = reward([prompt.text for prompt in prompts], texts, **columns)
        return texts, checked_rewards(values, len(texts), self._reward_name)

    def decode(self, ids: NDArray[np.int64]) -> str:
        """Returns the text of [n] int64 tokens, special tokens removed."""
        # As `decode_responses` does, without its tensors and masks, which would cost three times
        # as much; a test holds them equal.
        text: str = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _at(self, index: int) -> Prompt:
        """Returns a row of the split, encoded the first time it is asked for."""
        if index not in self._prompts:
            columns = dict(self._data[index])
            self._prompts[index] = self._encode(columns.pop("prompt"), columns, index)
        return self._prompts[index]

    def _encode(self, text: str, columns: dict[str, Any], index: int) -> Prompt:
        ids, mask = encode_prompts(self.tokenizer, [text], self.max_prompt_tokens)
        return Prompt(text, ids[mask].numpy(), columns, index)


def _ready(tokenizer: str | PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    """Returns a tokenizer that has EOS and pad tokens; what the user passed is not changed."""
    if tokenizer is None:
        return load_tokenizer()
    if isinstance(tokenizer, str):
        return load_tokenizer(tokenizer)
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no EOS token, which ends responses")
    if tokenizer.pad_token_id is None:
        padded = copy.deepcopy(tokenizer)
        padded.pad_token = padded.eos_token
        return padded
    return tokenizer


def _tokens(name: str, given: int | None, default: int) -> int:
    value = default if given is None else given
    if value < 1:
        raise ConfigError(f"{name} must be >= 1, got {value}")
    return value


def _name_of(reward: str | RewardFunction) -> str:
    if isinstance(reward, str):
        return reward
    return str(getattr(reward, "__name__", type(reward).__name__))
