"""The draw of tokens, compiled: `draw` of `textgym.models.sampling` where nothing is truncated."""

from __future__ import annotations

from ctypes import c_int64, c_void_p

import torch
from torch import Tensor

from textgym.models.compiled.library import Step, pointer

_DRAW = Step("draw", c_int64, c_int64, c_int64, *[c_void_p] * 4)


def draw(logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draws one token per row of softmax(logits), by inverse CDF.

    Args:
        logits: [B, V] float32 or bfloat16.
        uniforms: [B] float64 in [0, 1).

    Returns:
        Tokens [B] int64, never one of weight 0, and their log-probabilities [B] float32.
    """
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    uniforms = uniforms.contiguous()
    tokens = torch.empty(len(logits), dtype=torch.int64)
    logprobs = torch.empty(len(logits))
    sizes = (*logits.shape, logits.stride(0))
    _DRAW(logits.dtype, *sizes, *map(pointer, (logits, uniforms, tokens, logprobs)))
    return tokens, logprobs
