"""Hidden states of responses under a headless model: for values, rewards and embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from textgym.models import hugging_face
from textgym.models.branches import branch, states_before, states_of
from textgym.models.decoder import Decoder
from textgym.models.families import read


def states_before_responses(
    trunk: Any,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    response_ids: Tensor,
    response_mask: Tensor,
    precision: torch.dtype,
) -> Tensor:
    """Returns [R, D]: the state before each of the R real response tokens, row by row.

    Differentiable. Nothing at or after a token enters the state before it.

    Args:
        trunk: a `transformers` model without its head.
        prompt_ids: [B, P] int64, padded.
        prompt_mask: [B, P] bool.
        response_ids: [B, T] int64, right-padded.
        response_mask: [B, T] bool; R is how many it holds.
        precision: of matrix products, where the weights are read directly.
    """
    batch = _on_device(trunk, prompt_ids, prompt_mask, response_ids, response_mask)
    decoder = read(trunk)
    if decoder is not None:
        return states_before(_in(decoder, precision), branch(*batch))
    ids, mask = hugging_face.response_inputs(*batch)
    hidden = hugging_face.hidden_states(trunk, ids, mask)
    return hidden[:, -response_ids.shape[1] :][batch[3]]


def states_of_responses(
    trunk: Any,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    response_ids: Tensor,
    response_mask: Tensor,
    precision: torch.dtype,
) -> Tensor:
    """Returns [R, D]: the state of each of the R real response tokens, row by row.

    Differentiable. The arguments are those of `states_before_responses`.
    """
    batch = _on_device(trunk, prompt_ids, prompt_mask, response_ids, response_mask)
    decoder = read(trunk)
    if decoder is not None:
        return states_of(_in(decoder, precision), branch(*batch, whole=True))
    ids, mask = (torch.cat(pair, dim=1) for pair in (batch[::2], batch[1::2]))
    hidden = hugging_face.hidden_states(trunk, ids, mask)
    return hidden[:, -response_ids.shape[1] :][batch[3]]


def _in(decoder: Decoder, precision: torch.dtype) -> Decoder:
    return decoder if precision == decoder.embedding.dtype else decoder.to(precision)


def _on_device(trunk: Any, *batch: Tensor) -> list[Tensor]:
    device = next(trunk.parameters()).device
    return [x.to(device) for x in batch]
