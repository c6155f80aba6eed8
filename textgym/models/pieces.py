"""Large batches scored some rows at a time, so that what is held at once stays within bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from textgym.types import Rollout

CHUNK_FLOATS = 2**25
"""Outputs held at once where no gradient is needed: 128 MiB of float32."""
CHUNK_TOKENS = 2**13
"""Tokens read at once where no gradient is needed: the activations of far more leave the cache."""
TRAIN_BYTES = 2**30
"""Activations kept for a backward pass, about; beyond, they are computed again piece by piece."""


def in_pieces(
    score: Callable[[Rollout, Tensor], Tensor], rollout: Rollout, config: Any, outputs: int
) -> Tensor:
    """Returns [B, T], a model's score of every row.

    Differentiable where gradients are enabled. A batch whose activations would take more than
    TRAIN_BYTES is then cut into pieces that are computed again in the backward pass, which
    accumulates their gradients (arXiv 1604.06174): memory for one piece, a third more time, the
    same numbers.

    Args:
        score: [R, T] of the rows whose indices [R] it is given.
        rollout: of B >= 1 rows.
        config: the model's, of `transformers`.
        outputs: numbers that the score makes of a response token's last state, such as V logits.
    """
    if not torch.is_grad_enabled():
        return torch.cat([score(rollout, rows) for rows in chunks(rollout, outputs)])
    pieces = torch.split(torch.arange(len(rollout)), train_rows(rollout, config, outputs))
    if len(pieces) == 1:
        return score(rollout, pieces[0])
    return torch.cat([checkpoint(score, rollout, rows, use_reentrant=False) for rows in pieces])


def chunks(rollout: Rollout, outputs: int) -> list[Tensor]:
    """Returns row indices in pieces that stay within CHUNK_FLOATS outputs and CHUNK_TOKENS."""
    responses = rollout.response_ids.shape[1]
    tokens = rollout.prompt_ids.shape[1] // rollout.samples_per_prompt + responses
    rows = min(CHUNK_FLOATS // max(1, responses * outputs), CHUNK_TOKENS // max(1, tokens))
    return list(torch.split(torch.arange(len(rollout)), max(1, rows)))


def train_rows(rollout: Rollout, config: Any, outputs: int) -> int:
    """Returns how many rows' activations stay within TRAIN_BYTES, roughly."""
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    of_token = config.num_hidden_layers * (10 * config.hidden_size + 4 * inner)
    floats: int = of_token * rollout.prompt_ids.shape[1]
    floats += rollout.response_ids.shape[1] * (of_token + 2 * outputs)
    return max(1, TRAIN_BYTES // (4 * max(1, floats)))
