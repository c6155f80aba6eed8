"""Log-probabilities of given tokens, without a second copy of their logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from textgym.models.compiled.layers import knows, selected_logprobs

PIECE = 2**18
"""Logits taken at once: what is computed of them stays in the cache."""


class _SelectedLogprobs(torch.autograd.Function):
    """Log-softmax at one token per row: [R, V] and [R] give [R] float32.

    The softmax is only made in the backward pass, where it is the gradient.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        rows = max(1, PIECE // logits.shape[-1])
        totals = torch.cat([piece.float().logsumexp(-1) for piece in torch.split(logits, rows)])
        ctx.save_for_backward(logits, ids, totals)
        return logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1).float() - totals

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, ids, totals = ctx.saved_tensors
        given = gradients[0].unsqueeze(-1)
        gradient = torch.empty_like(logits)
        rows = max(1, PIECE // logits.shape[-1])
        for start in range(0, len(logits), rows):
            piece = slice(start, start + rows)
            softmax = (logits[piece].float() - totals[piece, None]).exp_()
            gradient[piece] = softmax.mul_(-given[piece])
        gradient.scatter_add_(-1, ids.unsqueeze(-1), given.to(gradient.dtype))
        return gradient, None


def token_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """Returns the log-probability of each id, nats: logits [..., V] and ids [...] give [...]."""
    select: Any = selected_logprobs if knows(logits) else _SelectedLogprobs.apply
    flat: Tensor = select(logits.flatten(0, -2), ids.flatten())
    return flat.view(ids.shape)
