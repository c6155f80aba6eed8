"""What the oracle tasks share: tables over every response, and a language model of their own."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from textgym.cache import cached
from textgym.errors import ConfigError, DataError
from textgym.metrics.exact import tilted
from textgym.models.enumeration import SequenceTree
from textgym.models.tabular import fit_defaults, fit_distribution, symbol_tokenizer
from textgym.seeding import Streams
from textgym.tasks.base import Task, require_split

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Table = NDArray[np.float64]
"""[N, L], one number for every prompt and response."""

DEMONSTRATIONS = 1024


class Tables(NamedTuple):
    """What an oracle task knows, all [N, L].

    Attributes:
        known: the distribution over responses that the language model is pretrained to.
        rewards: the proxy that agents train on.
        gold: the truth, in [0, 1]; where it is not the rewards, the class has `has_gold`.
        experts: who writes the demonstrations, a distribution; None is the regularised optimum of
            the gold score.
    """

    known: Table
    rewards: Table
    gold: Table
    experts: Table | None = None


class OracleTask(Task):
    """A question whose every answer can be written down.

    Prompts and responses are strings of a few symbols, one token each. The task brings its own
    language model, a very small Llama pretrained to a known distribution, so that nothing in an
    agent is special. Its prompts are the same in every split: there is nothing to overfit that
    regret does not show.

    Args:
        symbols: S different characters; with EOS the vocabulary has V = S + 1 tokens.
        horizon: the most tokens of a response.
        prompts: N different strings of symbols.
        beta: the price of a nat of KL in the optimum that regret is measured against, > 0.
        noise: standard deviation of what is added to a reward each time it is asked for.
        cache: where the language model is kept, see `textgym.cache.cache_root`.
        fit: options of `textgym.models.tabular.fit_distribution`.

    Attributes:
        tree: the L responses.
        texts: the same as strings.

    Raises:
        ConfigError: an option outside its domain, or too many responses to enumerate.
    """

    eval_samples_per_prompt = 32
    has_gold = False
    floor = 0.0
    ceiling = 1.0

    def __init__(
        self,
        *,
        symbols: str,
        horizon: int,
        prompts: Sequence[str],
        beta: float = 0.2,
        noise: float = 0.0,
        cache: str | Path | None = None,
        fit: dict[str, Any] | None = None,
    ) -> None:
        if not beta > 0:
            raise ConfigError(f"beta must be > 0, got {beta}")
        if not noise >= 0:
            raise ConfigError(f"noise must be >= 0, got {noise}")
        self._tokenizer = symbol_tokenizer(symbols)
        self.symbols, self.beta, self.noise = symbols, beta, noise
        self.tree = SequenceTree(len(self._tokenizer), self._tokenizer.eos_token_id, horizon)
        self.texts = self.tree.texts(self._tokenizer)
        self.asked = list(prompts)
        self.max_prompt_tokens = 1 + max(map(len, self.asked))
        self.max_response_tokens = horizon
        self._row = {prompt: n for n, prompt in enumerate(self.asked)}
        self._column = {text: i for i, text in enumerate(self.texts)}
        self._noise: np.random.Generator = Streams(0).numpy("reward-noise")
        self._cache, self._fit = cache, fit or {}

    @abstractmethod
    def write_tables(self) -> Tables:
        """Returns what the task knows of every prompt and response."""

    @cached_property
    def tables(self) -> Tables:
        """What the task knows, written on first use."""
        return self.write_tables()

    def tabulate(self, value: Callable[[str, str], float]) -> Table:
        """Returns [N, L], `value(prompt, text)` of every prompt and response."""
        return np.array([[float(value(p, text)) for text in self.texts] for p in self.asked])

    def rows_of(self, prompts: Sequence[str]) -> NDArray[np.int64]:
        """Returns each prompt's row in the tables. Raises: DataError for another prompt."""
        for prompt in prompts:
            if prompt not in self._row:
                raise DataError(f"{prompt!r} is no prompt of task {self.name!r}")
        return np.array([self._row[prompt] for prompt in prompts], np.int64)

    def exact_measures(
        self, probabilities: Table, prompts: Sequence[str]
    ) -> dict[str, NDArray[np.float64]]:
        """Returns the task's own exact numbers of a policy, by name, [n] each.

        Args:
            probabilities: [n, L], what the policy answers to each prompt.
            prompts: n of the task's.
        """
        return {}

    def summaries(self, answers: Callable[[list[str]], Table]) -> dict[str, float]:
        """Returns the task's own exact numbers that need a policy's answer to more prompts.

        Args:
            answers: returns [n, L], what the policy answers to each of n prompts of the task.
        """
        return {}

    def prompts(self, split: str) -> Dataset:
        """Returns the rows `prompt`, the same in every split."""
        from datasets import Dataset

        require_split(split)
        return Dataset.from_dict({"prompt": self.asked})

    def demonstrations(self) -> Dataset:
        """Returns rows `prompt`, `completion` drawn from the experts' distribution."""
        from datasets import Dataset

        tables, random = self.tables, Streams(0).numpy("demonstrations")
        experts = tables.experts
        if experts is None:
            experts = tilted(tables.known, tables.gold, self.beta)
        rows = random.permutation(np.arange(DEMONSTRATIONS) % len(self.asked))
        picked = [random.choice(len(self.texts), p=experts[n]) for n in rows]
        return Dataset.from_dict(
            {
                "prompt": [self.asked[n] for n in rows],
                "completion": [self.texts[i] for i in picked],
            }
        )

    def reward(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Returns the proxy, with noise where the task has it.

        A text that is no response of the task (another tokenizer's, say) gets the lowest reward.
        """
        values = self._look_up(self.tables.rewards, prompts, completions)
        if self.noise:
            values = values + self.noise * self._noise.standard_normal(len(values))
        return [float(value) for value in values]

    def gold(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
        """Returns the true score, in [0, 1]."""
        values = self._look_up(self.tables.gold, prompts, completions)
        return [float(value) for value in values]

    def _look_up(
        self, table: Table, prompts: Sequence[str], completions: Sequence[str]
    ) -> NDArray[np.float64]:
        rows = self.rows_of(prompts)
        lowest = table.min()
        values = [
            table[n, self._column[text]] if text in self._column else lowest
            for n, text in zip(rows, completions, strict=True)
        ]
        return np.array(values, float)

    def for_run(self, streams: Streams) -> Task:
        """Returns the same task whose noise, if any, comes from this run's streams."""
        if not self.noise:
            return self
        run = copy.copy(self)
        run._noise = streams.numpy("reward-noise")
        return run

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Returns the tokenizer of the symbols."""
        return self._tokenizer

    def language_model(self) -> Path:
        """Returns the folder of the language model, pretrained to `known` on first use."""
        known = self.tables.known
        key = {
            "symbols": self.symbols,
            "horizon": self.tree.horizon,
            "prompts": self.asked,
            "known": np.round(known, 12).tolist(),
            "fit": {**fit_defaults(), **self._fit},
        }

        def build(folder: Path) -> dict[str, Any]:
            target = torch.from_numpy(known)
            policy, left = fit_distribution(
                self._tokenizer, self.tree, self.asked, target, **self._fit
            )
            policy.save(folder)
            return {"kl": left}

        return cached(self._cache, f"oracle-{self.name}", key, build)


def numbered_prompts(symbols: str, count: int) -> list[str]:
    """Returns `count` different strings of one length: the numbers from 0, written in symbols.

    >>> numbered_prompts("ab", 3)
    ['aa', 'ab', 'ba']
    >>> numbered_prompts("ab", 1)
    ['']
    """
    width = 0
    while len(symbols) ** width < count:
        width += 1
    base = len(symbols)
    return [
        "".join(symbols[n // base**place % base] for place in reversed(range(width)))
        for n in range(count)
    ]
