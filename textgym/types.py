"""The shape legend and the few records that everything passes around.

Shape legend, used in every docstring:

    B  responses (rows of a batch)     T  response tokens
    N  prompts                         V  vocabulary
    K  samples per prompt (B = N * K)  C  context length
    P  prompt tokens

Rows are prompt-major: the K samples of prompt n are rows n * K ... n * K + K - 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from torch import Tensor

from textgym.errors import BudgetError, ConfigError

Columns = dict[str, list[Any]]
"""A data set's other columns, one value per row."""

Log = Callable[[int, dict[str, float]], None]
"""Receives (training step, metrics) from an agent."""


class RewardFunction(Protocol):
    """TRL's reward convention: texts in, one finite float per completion out."""

    def __call__(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Scores each completion."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. The default is the raw softmax at temperature 1.

    Attributes:
        temperature: logits are divided by this; > 0.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose probability reaches p; 1 keeps all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be > 0, got {self.temperature}")
        if self.top_k < 0:
            raise ConfigError(f"top_k must be >= 0, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be in (0, 1], got {self.top_p}")


@dataclass
class Rollout:
    """A batch of prompts, responses, masks, log-probabilities and rewards.

    Attributes:
        prompts: B prompt texts.
        completions: B response texts, special tokens removed.
        columns: the data set's other columns, B values each.
        samples_per_prompt: K; rows are prompt-major.
        prompt_ids: [B, P] int64, left-padded.
        prompt_mask: [B, P] bool, True on prompt tokens.
        response_ids: [B, T] int64, right-padded.
        response_mask: [B, T] bool, True up to and including EOS. The only response mask.
        policy_logprobs: [B, T] float32, nats, the policy's own log-probability of each token at
            temperature 1 without truncation; 0 where the mask is False.
        sampling_logprobs: [B, T] float32, nats, under the distribution really sampled from; equal
            to policy_logprobs at the default `sampling`.
        truncated: [B] bool, True where the length limit cut the response (no EOS).
        sampling: how the tokens were drawn.
        rewards: [B] float32, or None before scoring.
    """

    prompts: list[str]
    completions: list[str]
    columns: Columns
    samples_per_prompt: int
    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    response_mask: Tensor
    policy_logprobs: Tensor
    sampling_logprobs: Tensor
    truncated: Tensor
    sampling: Sampling = field(default_factory=Sampling)
    rewards: Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    def select(self, rows: Tensor, samples_per_prompt: int | None = None) -> Rollout:
        """Returns the rollout of the given rows ([M] int64 indices), in that order.

        Args:
            rows: which rows to keep.
            samples_per_prompt: K of the result; the caller keeps rows prompt-major.
        """
        picked: dict[str, Any] = {}
        index = rows.tolist()
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                value = value[rows]
            elif isinstance(value, list):
                value = [value[i] for i in index]
            picked[f.name] = value
        picked["columns"] = {name: [v[i] for i in index] for name, v in self.columns.items()}
        if samples_per_prompt is not None:
            picked["samples_per_prompt"] = samples_per_prompt
        return Rollout(**picked)


@dataclass
class Budget:
    """What a comparison holds equal: completions sampled and scored while training.

    Attributes:
        completions: how many may be sampled and scored.
        used: how many have been.
    """

    completions: int
    used: int = 0

    def __post_init__(self) -> None:
        if self.completions < 0:
            raise ConfigError(f"budget must be >= 0 completions, got {self.completions}")

    @property
    def left(self) -> int:
        """Completions that may still be sampled."""
        return self.completions - self.used

    def spend(self, completions: int) -> None:
        """Books `completions`. Raises: BudgetError when more are asked for than are left."""
        if completions > self.left:
            raise BudgetError(f"asked for {completions} completions with {self.left} left")
        self.used += completions
