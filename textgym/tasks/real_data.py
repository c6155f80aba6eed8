"""What the tasks on human-written data share: rows, windows, demonstrations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textgym.errors import DataError
from textgym.rewards import load_reward
from textgym.tasks.base import Task, require_split
from textgym.tasks.sizes import Sizes

if TYPE_CHECKING:
    from datasets import Dataset

    from textgym.tasks.toxicity import Classifier
    from textgym.types import RewardFunction

Row = dict[str, Any]

CHUNK = 256
"""Rows that are tokenized together."""


class RealTask(Task):
    """Prompts from a data set.

    A prompt longer than the window loses turns from its front until it fits, if it has turns
    (`turns_of`); a row whose prompt still does not fit is dropped. Tokens are counted by the
    backbone's tokenizer.

    Attributes:
        needed: the columns that make a data set this task's.
    """

    needed: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        data: str | Path,
        splits: Mapping[str, Dataset],
        reward: str | Path | RewardFunction | None = None,
        backbone: str = "tiny",
        seed: int = 0,
        cache: str | Path | None = None,
        sizes: Sizes | None = None,
    ) -> None:
        """Trains and tokenizes nothing yet.

        Args:
            data: where the splits come from, for messages.
            splits: train, validation and test as `load_splits` returns them, columns checked.
            reward: replaces the proxy, see `textgym.rewards.load_reward`.
            backbone: the language model that a reward model starts from; its tokenizer measures
                the prompts.
            seed: the training of rewards and classifiers follows from it.
            cache: where they are kept.
            sizes: at most how many rows of each split are used, and the windows.
        """
        self.data = data
        self.raw = splits
        self.backbone = backbone
        self.seed = seed
        self.cache = cache
        self.sizes = sizes or Sizes()
        self.max_prompt_tokens = self.sizes.max_prompt_tokens or self.max_prompt_tokens
        self.max_response_tokens = self.sizes.max_response_tokens or self.max_response_tokens
        self._reward = None if reward is None else load_reward(reward)
        self._prompts: dict[str, Dataset] = {}

    @abstractmethod
    def rows(self, split: str) -> Iterable[Row]:
        """Yields the rows of a split, `prompt` and all, whatever the prompt's length."""

    def turns_of(self, prompt: str) -> tuple[str, list[str], str]:
        """Returns head, turns and tail, which together are the prompt; no turns if it has none."""
        return prompt, [], ""

    @abstractmethod
    def train_reward(self) -> RewardFunction:
        """Returns the task's own proxy, trained on the train split or read from the cache."""

    @cached_property
    def proxy(self) -> RewardFunction:
        """The reward function behind `reward`, loaded or trained on first use."""
        return self.train_reward() if self._reward is None else self._reward

    def reward(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """The proxy reward that agents train on."""
        return self.proxy(prompts, completions, **columns)

    @cached_property
    def tokenizer(self) -> Any:
        """The backbone's tokenizer, which measures the prompts."""
        from textgym.models.tokenize import load_tokenizer

        return load_tokenizer(self.backbone)

    def prompts(self, split: str) -> Dataset:
        """Returns the split's rows that fit. Raises: DataError for an unknown or empty split."""
        from datasets import Dataset

        require_split(split)
        if split not in self._prompts:
            rows = self._fitting(iter(self.rows(split)), getattr(self.sizes, split))
            if not rows:
                raise DataError(
                    f"data set {str(self.data)!r}: split {split!r} has no usable row with a "
                    f"prompt of at most {self.max_prompt_tokens} tokens"
                )
            self._prompts[split] = Dataset.from_list(rows)
        return self._prompts[split]

    def demonstrations(self) -> Dataset:
        """Returns `prompt` and `completion`: the training prompts with their references."""
        rows = self.prompts("train").select_columns(["prompt", "reference"])
        return self.first(rows.rename_column("reference", "completion"))

    def first(self, demonstrations: Dataset) -> Dataset:
        """Returns at most as many demonstrations as `sizes` allows."""
        most = self.sizes.demonstrations or len(demonstrations)
        return demonstrations.select(range(min(most, len(demonstrations))))

    def _fitting(self, rows: Iterator[Row], most: int | None) -> list[Row]:
        """Returns the first `most` rows that fit, or all, their prompts cut where need be."""
        kept: list[Row] = []
        while (most is None or len(kept) < most) and (part := list(islice(rows, CHUNK))):
            lengths = self._lengths([row["prompt"] for row in part])
            for row, length in zip(part, lengths, strict=True):
                fits = length <= self.max_prompt_tokens
                prompt = row["prompt"] if fits else self._cut(row["prompt"])
                if prompt is not None:
                    kept.append({**row, "prompt": prompt})
        return kept[:most]

    def _cut(self, prompt: str) -> str | None:
        """Returns the prompt with as few of its first turns left out as makes it fit, or None."""
        head, turns, tail = self.turns_of(prompt)
        shorter = [head + "".join(turns[start:]) + tail for start in range(1, len(turns))]
        fits = (n <= self.max_prompt_tokens for n in self._lengths(shorter))
        return next((text for text, fit in zip(shorter, fits, strict=True) if fit), None)

    def _lengths(self, prompts: list[str]) -> list[int]:
        from textgym.models.tokenize import prompt_token_ids

        return [len(ids) for ids in prompt_token_ids(self.tokenizer, prompts)]


class RealToxicityTask(RealTask):
    """Prompts from a data set, whose completions' toxicity is measured by a classifier."""

    def __init__(
        self,
        data: str | Path,
        splits: Mapping[str, Dataset],
        reward: str | Path | RewardFunction | None = None,
        backbone: str = "tiny",
        seed: int = 0,
        cache: str | Path | None = None,
        sizes: Sizes | None = None,
        classifier: Classifier = None,
    ) -> None:
        """Takes what `RealTask` does, and who measures toxicity; None for the task's own."""
        super().__init__(data, splits, reward, backbone, seed, cache, sizes)
        self._classifier = classifier
