"""The optimiser step that everything trains with, and supervised fine-tuning on completions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from textgym.errors import DataError, TrainingError
from textgym.models.tokenize import completion_token_ids, encode_prompts, pad
from textgym.types import Log

if TYPE_CHECKING:
    from datasets import Dataset

    from textgym.models.policy import Policy


def adamw(
    parameters: Iterable[torch.nn.Parameter],
    lr: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.95),
) -> torch.optim.AdamW:
    """Returns AdamW that decays matrices and leaves gains and biases alone."""
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=True)


def optimiser_step(
    optimizer: torch.optim.Optimizer, loss: Tensor, step: int, max_grad_norm: float = 1.0
) -> float:
    """Backpropagates, clips the gradient's global norm and steps.

    Args:
        optimizer: holds the parameters to train.
        loss: a scalar with a gradient.
        step: named in the error.
        max_grad_norm: the norm the gradient is clipped to.

    Returns:
        The gradient norm before clipping.

    Raises:
        TrainingError: the loss or the gradient norm is not finite; no parameter is changed.
    """
    value = loss.item()
    if not math.isfinite(value):
        raise TrainingError(step, f"loss is {value}")
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm).item()
    if not math.isfinite(norm):
        raise TrainingError(step, f"gradient norm is {norm}")
    optimizer.step()
    return norm


def warmup_cosine(done: float, warmup: float = 0.02, floor: float = 0.1) -> float:
    """Returns the learning rate's factor: linear warm-up, then a cosine down to `floor`.

    Args:
        done: share of training that is done, in [0, 1].
        warmup: share of training spent on warm-up.
        floor: the factor at the end.
    """
    if done < warmup:
        return (done + 1e-3) / (warmup + 1e-3)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def train_on_completions(
    policy: Policy,
    rows: Dataset,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    max_prompt_tokens: int,
    generator: torch.Generator,
    log: Log,
    weight_decay: float = 0.0,
) -> None:
    """Fine-tunes a policy on demonstrations: cross-entropy of completion tokens and EOS only.

    Every epoch goes through the rows in a new random order. A completion that does not fit the
    policy's window is cut, without an EOS.

    Args:
        policy: trained in place.
        rows: demonstrations with columns `prompt` and `completion`.
        steps: optimiser steps.
        batch_size: demonstrations per step.
        lr: peak learning rate of AdamW, warmed up and decayed on a cosine.
        max_prompt_tokens: the window kept for the prompt.
        generator: orders the rows.
        log: receives `loss` (nats per token) and `grad_norm` at every step.
        weight_decay: AdamW's.

    Raises:
        DataError: no rows, or a column is missing.
        PromptTooLongError: a prompt over the limit.
        TrainingError: the loss or the gradient is not finite.
    """
    for column in ("prompt", "completion"):
        if column not in rows.column_names:
            raise DataError(
                f"demonstrations need a column {column!r}; got {', '.join(rows.column_names)}"
            )
    if len(rows) == 0:
        raise DataError("no demonstrations to train on")
    optimizer = adamw(policy.model.parameters(), lr, weight_decay)
    order: list[int] = []
    for step in range(steps):
        while len(order) < batch_size:
            order += torch.randperm(len(rows), generator=generator).tolist()
        batch, order = rows[order[:batch_size]], order[batch_size:]
        prompt_ids, prompt_mask = encode_prompts(
            policy.tokenizer, batch["prompt"], max_prompt_tokens
        )
        room = policy.max_length - prompt_ids.shape[1]
        tokens = [ids[:room] for ids in completion_token_ids(policy.tokenizer, batch["completion"])]
        ids, mask = pad(tokens, policy.pad_token_id, side="right")
        logprobs = policy.token_logprobs(prompt_ids, prompt_mask, ids, mask)
        loss = -logprobs.sum() / mask.sum()
        for group in optimizer.param_groups:
            group["lr"] = lr * warmup_cosine(step / steps)
        norm = optimiser_step(optimizer, loss, step)
        log(step, {"loss": loss.item(), "grad_norm": norm})
