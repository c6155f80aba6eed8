"""Reward models learned from preferences: a language model's trunk with a scalar head.

The score is the head's mean over the completion's tokens. Reading the last token alone asks the
trunk to carry every slip of the text to its end, which a small one hardly learns; it falls for
style.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from textgym.errors import ConfigError, DataError, ModelError
from textgym.functional import bradley_terry_loss
from textgym.models.tokenize import (
    completion_token_ids,
    load_pretrained,
    load_tokenizer,
    pad,
    prompt_token_ids,
    quiet,
)
from textgym.models.trunk import states_before_responses
from textgym.models.value_head import ScalarHead
from textgym.rewards.batching import buckets, each_once
from textgym.rewards.fitting import RewardModelConfig as RewardModelConfig
from textgym.rewards.fitting import fit
from textgym.rewards.saving import CONSTANTS, read_constants, written_whole
from textgym.types import Log

if TYPE_CHECKING:
    from datasets import Dataset

    from textgym.models.policy import Policy

HEAD = "reward_head.safetensors"
CONSTANT_FIELDS = ("mean", "std", "max_tokens")


class TokenRow(NamedTuple):
    """A prompt and its completion as tokens.

    Attributes:
        ids: token ids of both and EOS.
        completion: how many of the last ids are the completion's, EOS included.
    """

    ids: tuple[int, ...]
    completion: int


class RewardModel:
    """A reward function: the mean over the completion's tokens of a linear head on the trunk.

    The tokens read are prompt + completion + EOS, cut from the front at `max_tokens`. Neither
    padding nor the rest of the batch changes a score. Scores are (raw - mean) / std, since
    Bradley-Terry leaves the origin and the reader the unit free.

    Attributes:
        trunk: a causal transformer without its language-model head.
        head: the scalar read-out of hidden states.
        tokenizer: the trunk's.
        max_tokens: most tokens that are read.
        bucket_tokens: most that are scored at once: rows times the longest of them.
        mean, std: of the raw scores of the samples given to `normalise`; 0 and 1 before.
    """

    def __init__(self, trunk: Any, head: ScalarHead, tokenizer: Any, max_tokens: int) -> None:
        if max_tokens < 2:
            raise ConfigError(f"max_tokens must be >= 2, got {max_tokens}")
        self.trunk = trunk.eval()
        self.head = head
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.bucket_tokens = 2**13
        self.mean = 0.0
        self.std = 1.0

    @classmethod
    def from_policy(
        cls, policy: Policy, generator: torch.Generator, max_tokens: int | None = None
    ) -> RewardModel:
        """Returns an untrained reward model on a copy of a policy's trunk.

        Args:
            policy: its model is copied, without the language-model head.
            generator: initialises the head.
            max_tokens: at most the model's context, which is the default.
        """
        trunk = copy.deepcopy(policy.model.base_model).float().requires_grad_(True)
        head = ScalarHead(trunk.config.hidden_size, generator).to(policy.device)
        context = policy.max_length
        return cls(trunk, head, policy.tokenizer, min(max_tokens or context, context))

    def encode(self, prompts: Sequence[str], completions: Sequence[str]) -> list[TokenRow]:
        """Returns B rows of token ids: prompt + completion + EOS, cut at the front."""
        asked = each_once(lambda texts: prompt_token_ids(self.tokenizer, texts), prompts)
        given = each_once(lambda texts: completion_token_ids(self.tokenizer, texts), completions)
        return [
            TokenRow(tuple((p + c)[-self.max_tokens :]), min(len(c), self.max_tokens))
            for p, c in zip(asked, given, strict=True)
        ]

    def parameters(self) -> list[nn.Parameter]:
        """Returns the weights of trunk and head."""
        return [*self.trunk.parameters(), *self.head.parameters()]

    def states(self, rows: Sequence[TokenRow]) -> tuple[Tensor, Tensor]:
        """Returns the states [M, D] of the M tokens that are read, and whose row each is, [M]."""
        fill = self.tokenizer.pad_token_id
        starts = [max(1, len(row.ids) - row.completion) for row in rows]
        pairs = list(zip(rows, starts, strict=True))
        prompts = pad([row.ids[:start] for row, start in pairs], fill, side="left")
        # One token more, predicted and never read: before it is the state of the last.
        ids, mask = pad([(*row.ids[start:], fill) for row, start in pairs], fill, side="right")
        hidden = states_before_responses(self.trunk, *prompts, ids, mask, torch.float32)
        scored = mask.clone()
        # The first state is the prompt's, unless the completion has pushed the prompt out.
        scored[:, 0] = torch.tensor([row.completion == len(row.ids) for row in rows])
        return hidden[scored[mask].to(hidden.device)], scored.nonzero()[:, 0].to(hidden.device)

    def raw_scores(self, rows: Sequence[TokenRow]) -> Tensor:
        """Returns the head's mean [B] over each row's completion, before normalisation."""
        states, row_of = self.states(rows)
        return _means(self.head(states), row_of, len(rows))

    def pooled(self, rows: Sequence[TokenRow]) -> Tensor:
        """Returns the mean state [B, D] of each row's completion: what the head reads, averaged."""
        return _means(*self.states(rows), len(rows))

    @torch.no_grad()
    def score_rows(self, rows: Sequence[TokenRow]) -> Tensor:
        """Returns the raw scores [B] of any number of rows; equal ones are scored once."""
        return torch.tensor(each_once(lambda some: self._in_buckets(self.raw_scores, some), rows))

    @torch.no_grad()
    def pool_rows(self, rows: Sequence[TokenRow]) -> Tensor:
        """Returns the mean states [B, D] of any number of rows; equal ones are read once."""
        if not rows:
            return torch.zeros(0, self.trunk.config.hidden_size)
        return torch.stack(each_once(lambda some: self._in_buckets(self.pooled, some), rows))

    def _in_buckets(
        self, read: Callable[[list[TokenRow]], Tensor], rows: list[TokenRow]
    ) -> list[Tensor]:
        lengths = [len(row.ids) for row in rows]
        # Prompts go by their length, and the rows of one stay together: it is read once for them.
        order = sorted(range(len(rows)), key=lambda i: (lengths[i] - rows[i].completion, rows[i]))
        found: dict[int, Tensor] = {}
        for bucket in buckets(order, lengths, self.bucket_tokens):
            values = read([rows[i] for i in bucket]).float().cpu()
            found.update(zip(bucket, values, strict=True))
        return [found[i] for i in range(len(rows))]

    def __call__(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Returns each completion's normalised score."""
        raw = self.score_rows(self.encode(prompts, completions))
        return [(float(score) - self.mean) / self.std for score in raw]

    def normalise(self, prompts: Sequence[str], completions: Sequence[str]) -> None:
        """Sets the constants so that these samples score 0 on average with deviation 1.

        Raises: DataError for fewer than two samples or samples that all score alike.
        """
        raw = self.score_rows(self.encode(prompts, completions)).double()
        if len(raw) < 2 or not float(raw.std(correction=0)) > 0:
            raise DataError(f"cannot normalise a reward on {len(raw)} samples of equal score")
        self.mean, self.std = float(raw.mean()), float(raw.std(correction=0))

    def constants(self) -> dict[str, Any]:
        """Returns what is kept beside the weights, as JSON values."""
        return {"mean": self.mean, "std": self.std, "max_tokens": self.max_tokens}

    def save(self, out: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Writes the trunk, head and tokenizer (safetensors and JSON) into a folder.

        Args:
            out: the folder.
            dtype: what the trunk is rounded to in the file; it is computed with in float32 again.

        Raises: ModelError when they cannot be written; nothing half-written loads then.
        """
        with written_whole(out) as folder:
            with quiet():
                copy.deepcopy(self.trunk).to(dtype).save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            save_model(self.head, str(folder / HEAD))
            (folder / CONSTANTS).write_text(json.dumps(self.constants(), indent=2) + "\n")


def _means(values: Tensor, row_of: Tensor, rows: int) -> Tensor:
    """Returns the mean [B, ...] of each row's values [M, ...]."""
    sums = values.new_zeros(rows, *values.shape[1:]).index_add(0, row_of, values)
    counts = row_of.bincount(minlength=rows)
    return sums / counts.view(-1, *[1] * (values.dim() - 1))


def load_reward_model(path: str | Path) -> RewardModel:
    """Loads what `RewardModel.save` wrote. Raises: ModelError when the folder holds none."""
    from transformers import AutoModel

    path = Path(path)
    constants = read_constants(path, CONSTANT_FIELDS, ("config.json", HEAD, CONSTANTS))
    if "kind" in constants:
        raise ModelError(f"{path} holds a reward of kind {constants['kind']!r}: use load_reward")
    trunk = load_pretrained(AutoModel, path, "reward model", dtype=torch.float32)
    head = ScalarHead(trunk.config.hidden_size)
    load_model(head, str(path / HEAD))
    model = RewardModel(trunk, head, load_tokenizer(path), constants["max_tokens"])
    model.mean, model.std = constants["mean"], constants["std"]
    return model


def train_reward_model(
    policy: Policy,
    preferences: Dataset,
    config: RewardModelConfig,
    generator: torch.Generator,
    log: Log | None = None,
) -> tuple[RewardModel, dict[str, float]]:
    """Fits a reward model to comparisons by the Bradley-Terry likelihood.

    Args:
        policy: the trunk starts from its weights; it is not changed.
        preferences: columns `prompt`, `chosen`, `rejected`.
        config: how.
        generator: initialises the head, holds pairs out and orders the rest.
        log: receives (step, {"loss", "accuracy"}) of every step's batch.

    Returns:
        The model, not yet normalised, and a report: `accuracy` and `loss` (nats) on the held-out
        pairs, `train_accuracy` over the last epoch, `pairs`.

    Raises:
        DataError: a missing column, or fewer than two pairs.
        TrainingError: the loss is not finite.
    """
    _check_columns(preferences)
    model = RewardModel.from_policy(policy, generator, config.max_tokens)
    chosen = model.encode(preferences["prompt"], preferences["chosen"])
    rejected = model.encode(preferences["prompt"], preferences["rejected"])
    order = torch.randperm(len(chosen), generator=generator).tolist()
    held = max(1, round(config.held_out * len(order)))
    held_rows, train_rows = order[:held], order[held:]
    train_accuracy = _fit(model, chosen, rejected, train_rows, config, generator, log)
    margin_of = [chosen[i] for i in held_rows], [rejected[i] for i in held_rows]
    better, worse = (model.score_rows(rows) for rows in margin_of)
    return model, {
        "accuracy": float((better > worse).float().mean()),
        "loss": float(bradley_terry_loss(better, worse)),
        "train_accuracy": train_accuracy,
        "pairs": float(len(order)),
    }


def _check_columns(preferences: Dataset) -> None:
    for column in ("prompt", "chosen", "rejected"):
        if column not in preferences.column_names:
            raise DataError(
                f"preferences need a column {column!r}; "
                f"their columns are {', '.join(preferences.column_names)}"
            )
    if len(preferences) < 2:
        raise DataError(f"a reward model needs at least two pairs, got {len(preferences)}")


def _fit(
    model: RewardModel,
    chosen: list[TokenRow],
    rejected: list[TokenRow],
    train: list[int],
    config: RewardModelConfig,
    generator: torch.Generator,
    log: Log | None,
) -> float:
    """Trains in place; returns the share of the last epoch's pairs that were ordered rightly."""

    def objective(batch: list[int]) -> tuple[Tensor, Tensor]:
        rows = [chosen[i] for i in batch] + [rejected[i] for i in batch]
        better, worse = model.raw_scores(rows).chunk(2)
        loss = bradley_terry_loss(better, worse, centering=config.centering)
        return loss, better > worse

    return fit(model.parameters(), objective, train, config, generator, log)
