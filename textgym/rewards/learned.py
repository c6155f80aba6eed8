"""Reward models learned from preferences: a language model's trunk with a scalar head.

The score is the head's mean over the completion's tokens. Reading the last token alone asks the
trunk to carry every slip of the text to its end, which a small one hardly learns; it falls for
style.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor

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
from textgym.models.training import adamw, optimiser_step, warmup_cosine
from textgym.models.trunk import states_before_responses
from textgym.models.value_head import ScalarHead
from textgym.rewards.batching import buckets, each_once
from textgym.types import Log

if TYPE_CHECKING:
    from datasets import Dataset

    from textgym.models.policy import Policy

HEAD = "reward_head.safetensors"
CONSTANTS = "reward.json"


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

    def raw_scores(self, rows: Sequence[TokenRow]) -> Tensor:
        """Returns the head's mean [B] over each row's completion, before normalisation."""
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
        row_of = scored.nonzero()[:, 0].to(hidden.device)
        per_token = self.head(hidden[scored[mask].to(hidden.device)])
        sums = hidden.new_zeros(len(rows)).index_add(0, row_of, per_token)
        return sums / row_of.bincount(minlength=len(rows))

    @torch.no_grad()
    def score_rows(self, rows: Sequence[TokenRow]) -> Tensor:
        """Returns the raw scores [B] of any number of rows; equal ones are scored once."""
        return torch.tensor(each_once(self._in_buckets, rows))

    def _in_buckets(self, rows: list[TokenRow]) -> Iterable[float]:
        lengths = [len(row.ids) for row in rows]
        # Prompts go by their length, and the rows of one stay together: it is read once for them.
        order = sorted(range(len(rows)), key=lambda i: (lengths[i] - rows[i].completion, rows[i]))
        scores = torch.zeros(len(rows))
        for bucket in buckets(order, lengths, self.bucket_tokens):
            scores[bucket] = self.raw_scores([rows[i] for i in bucket]).float().cpu()
        return map(float, scores)

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

    def save(self, out: str | Path) -> None:
        """Writes the trunk, head and tokenizer (safetensors and JSON) into a folder."""
        out = Path(out)
        with quiet():
            self.trunk.save_pretrained(out)
        self.tokenizer.save_pretrained(out)
        save_model(self.head, str(out / HEAD))
        constants = {"mean": self.mean, "std": self.std, "max_tokens": self.max_tokens}
        (out / CONSTANTS).write_text(json.dumps(constants, indent=2) + "\n")


def load_reward_model(path: str | Path) -> RewardModel:
    """Loads what `RewardModel.save` wrote. Raises: ModelError when the folder holds none."""
    from transformers import AutoModel

    path = Path(path)
    for needed in ("config.json", HEAD, CONSTANTS):
        if not (path / needed).is_file():
            raise ModelError(f"no reward model in {path}: it has no {needed}")
    trunk = load_pretrained(AutoModel, path, "reward model", dtype=torch.float32)
    constants = json.loads((path / CONSTANTS).read_text())
    head = ScalarHead(trunk.config.hidden_size)
    load_model(head, str(path / HEAD))
    model = RewardModel(trunk, head, load_tokenizer(path), constants["max_tokens"])
    model.mean, model.std = constants["mean"], constants["std"]
    return model


@dataclass(frozen=True)
class RewardModelConfig:
    """How a reward model is trained.

    Attributes:
        epochs: passes over the pairs; more than one or two overfits.
        batch_size: pairs per step.
        learning_rate: peak of AdamW's warm-up and cosine.
        weight_decay: AdamW's, on matrices.
        centering: weight of the squared sum of a pair's scores, which ties the origin.
        held_out: share of the pairs kept back to report accuracy on.
        max_tokens: most tokens that are read; None for the model's context.
    """

    epochs: int = 2
    batch_size: int = 32
    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    centering: float = 0.01
    held_out: float = 0.1
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ConfigError(
                f"epochs and batch_size must be >= 1, got {self.epochs} and {self.batch_size}"
            )
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate must be > 0, got {self.learning_rate}")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out must be in (0, 1), got {self.held_out}")


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
    correct = _fit(model, chosen, rejected, train_rows, config, generator, log)
    margin_of = [chosen[i] for i in held_rows], [rejected[i] for i in held_rows]
    better, worse = (model.score_rows(rows) for rows in margin_of)
    return model, {
        "accuracy": float((better > worse).float().mean()),
        "loss": float(bradley_terry_loss(better, worse)),
        "train_accuracy": correct / len(train_rows),
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
    """Trains in place; returns how many pairs of the last epoch were ordered rightly."""
    optimizer = adamw(
        [*model.trunk.parameters(), *model.head.parameters()],
        config.learning_rate,
        config.weight_decay,
    )
    steps = config.epochs * -(-len(train) // config.batch_size)
    step, correct = 0, 0.0
    for _ in range(config.epochs):
        correct = 0.0
        shuffled = [train[i] for i in torch.randperm(len(train), generator=generator).tolist()]
        for start in range(0, len(shuffled), config.batch_size):
            batch = shuffled[start : start + config.batch_size]
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * warmup_cosine(step / steps)
            rows = [chosen[i] for i in batch] + [rejected[i] for i in batch]
            better, worse = model.raw_scores(rows).chunk(2)
            loss = bradley_terry_loss(better, worse, centering=config.centering)
            optimiser_step(optimizer, loss, step)
            right = float((better > worse).sum())
            correct += right
            if log is not None:
                log(step, {"loss": loss.item(), "accuracy": right / len(batch)})
            step += 1
    return correct
