"""Attention over a flat batch of prompts and their responses, compiled, with gradients."""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from textgym.models.compiled.library import Step, library, pointer

LANES = 16
"""Gradients of keys and values lie in whole vectors of so many."""


class FlatAttention(ctypes.Structure):
    """What both passes read, see `attention.cpp`."""

    _fields_ = (
        *((name, c_int64) for name in ("heads", "kv_heads", "width")),
        *((name, c_int64) for name in ("query_stride", "key_stride", "value_stride")),
        *((name, c_void_p) for name in ("queries", "keys", "values")),
        *((name, c_int64) for name in ("sequence_count", "family_count")),
        *((name, c_void_p) for name in ("sequences", "families")),
    )


_FORWARD = Step("branch_attention", ctypes.POINTER(FlatAttention), *[c_void_p] * 2)
_BACKWARD = Step("branch_attention_gradient", ctypes.POINTER(FlatAttention), *[c_void_p] * 6)


@dataclass
class Layout:
    """Where N prompts and B responses lie in a flat batch of M tokens.

    Attributes:
        sequences: [N + B, 4] int64: a sequence's first token, the end of its tokens, and the same
            of the prompt it continues, which is empty for a prompt itself; each prompt stands
            before its responses, and those before the next prompt. Its tokens lie before theirs.
        families: [N + 1] int64, where each prompt stands in `sequences`, and their end.
        tokens: M.
    """

    sequences: Tensor
    families: Tensor
    tokens: int


def lay_out(prompt_lengths: Tensor, prompt_of: Tensor, lengths: Tensor) -> Layout:
    """Lays out the tokens of N prompts, one after the other, and then those of B responses.

    Args:
        prompt_lengths: [N] int64, tokens.
        prompt_of: [B] int64, each response's prompt.
        lengths: [B] int64, tokens; none is allowed.
    """
    together = torch.cat([prompt_lengths, lengths])
    ends = together.cumsum(0)
    prompts, nothing = torch.arange(len(prompt_lengths)), torch.zeros_like(prompt_lengths)
    own = torch.stack([ends - together, ends], dim=1)
    continued = torch.cat([torch.stack([nothing, nothing], dim=1), own[prompt_of]])
    family = torch.cat([prompts, prompt_of])
    counts = torch.bincount(family, minlength=len(prompts))
    return Layout(
        sequences=torch.cat([own, continued], dim=1)[family.argsort(stable=True)],
        families=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        tokens=int(together.sum()),
    )


def attends(queries: Tensor) -> bool:
    """Returns whether `branch_attention` knows such queries, and is there."""
    known = queries.device.type == "cpu" and queries.dtype == torch.float32
    return known and library() is not None


def branch_attention(queries: Tensor, keys: Tensor, values: Tensor, layout: Layout) -> Tensor:
    """Mixes values: each token sees its whole prompt, and its own sequence up to itself.

    Differentiable (once). Scores are softmax(q k / sqrt(width)), never kept: the backward pass
    makes them again (FlashAttention, arXiv 2205.14135). The numbers do not depend on the number of
    threads.

    Args:
        queries: [M, heads, width] float32.
        keys: [M, kv_heads, width] float32, each shared by heads / kv_heads queries.
        values: [M, kv_heads, width] float32.
        layout: where the sequences lie; all M tokens are theirs.

    Returns:
        [M, heads * width].
    """
    tokens = len(queries)
    assert tokens == layout.tokens, f"{tokens} tokens, laid out for {layout.tokens}"
    apply: Any = _BranchAttention.apply
    mixed: Tensor = apply(queries, keys, values, layout)
    return mixed


class _BranchAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, layout: Layout) -> Tensor:
        queries, keys, values = map(_readable, (queries, keys, values))
        out = queries.new_empty((len(queries), queries.shape[1] * queries.shape[2]))
        lse = queries.new_empty(queries.shape[:2])
        _FORWARD(
            queries.dtype,
            ctypes.byref(_structure(queries, keys, values, layout)),
            *map(pointer, (out, lse)),
        )
        ctx.save_for_backward(queries, keys, values, out, lse)
        ctx.layout = layout
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, out, lse = ctx.saved_tensors
        slope, width = slopes[0].contiguous(), queries.shape[2]
        room = (*keys.shape[:2], width + -width % LANES)
        of_queries = queries.new_empty(queries.shape)
        of_keys, of_values = keys.new_empty(room), values.new_empty(room)
        _BACKWARD(
            queries.dtype,
            ctypes.byref(_structure(queries, keys, values, ctx.layout)),
            *map(pointer, (out, lse, slope, of_queries, of_keys, of_values)),
        )
        return of_queries, of_keys[..., :width], of_values[..., :width], None


def _readable(heads: Tensor) -> Tensor:
    """Returns [M, heads, width] with each token's numbers together, as they mostly are."""
    return heads if heads.stride()[1:] == (heads.shape[2], 1) else heads.contiguous()


def _structure(queries: Tensor, keys: Tensor, values: Tensor, layout: Layout) -> FlatAttention:
    return FlatAttention(
        heads=queries.shape[1],
        kv_heads=keys.shape[1],
        width=queries.shape[2],
        query_stride=queries.stride(0),
        key_stride=keys.stride(0),
        value_stride=values.stride(0),
        queries=pointer(queries),
        keys=pointer(keys),
        values=pointer(values),
        sequence_count=len(layout.sequences),
        family_count=len(layout.families) - 1,
        sequences=pointer(layout.sequences),
        families=pointer(layout.families),
    )
