"""Attention over a flat batch of prompts and their responses, compiled, with gradients."""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from textgym.models.compiled.layers import HeadLayout, head_layout, knows
from textgym.models.compiled.library import Step, pointer
from textgym.models.heads import Heads


class FlatAttention(ctypes.Structure):
    """What both passes read, see `attention.cpp`."""

    _fields_ = (
        ("heads", HeadLayout),
        ("family_count", c_int64),
        *((name, c_void_p) for name in ("sequences", "families")),
    )


_FORWARD = Step("branch_attention", ctypes.POINTER(FlatAttention), *[c_void_p] * 3)
_BACKWARD = Step("branch_attention_gradient", ctypes.POINTER(FlatAttention), *[c_void_p] * 5)


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


def attends(heads: Heads) -> bool:
    """Returns whether `branch_attention` knows such heads, and is there."""
    return heads.dtype == torch.float32 and knows(heads.together)


def branch_attention(heads: Heads, layout: Layout) -> Tensor:
    """Mixes values: each token sees its whole prompt, and its own sequence up to itself.

    Differentiable (once). Scores are softmax(q k / sqrt(width)), never kept: the backward pass
    makes them again (FlashAttention, arXiv 2205.14135). All is computed in float32, from what the
    product of queries, keys and values left to what the next product reads. The numbers do not
    depend on the number of threads, which share the prompts and their key heads.

    Args:
        heads: of M tokens, see `attends`.
        layout: where the sequences lie; all M tokens are theirs.

    Returns:
        [M, heads * width], in the type of the heads.
    """
    tokens = len(heads.together)
    assert tokens == layout.tokens, f"{tokens} tokens, laid out for {layout.tokens}"
    apply: Any = _BranchAttention.apply
    mixed: Tensor = apply(heads.together.contiguous(), *heads.tables, heads.kv_heads, layout)
    return mixed


class _BranchAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        together: Tensor,
        cosines: Tensor | None,
        sines: Tensor | None,
        kv_heads: int,
        layout: Layout,
    ) -> Tensor:
        tokens, count, width = together.shape
        heads = count - 2 * kv_heads
        out = together.new_empty((tokens, heads * width))
        lse = together.new_empty((tokens, heads), dtype=torch.float32)
        structure = _structure(together, cosines, sines, kv_heads, layout)
        tensors = (together, out, lse)
        _FORWARD(together.dtype, ctypes.byref(structure), *map(pointer, tensors))
        ctx.save_for_backward(together, cosines, sines, out, lse)
        ctx.kv_heads, ctx.layout = kv_heads, layout
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        together, cosines, sines, out, lse = ctx.saved_tensors
        gradient = torch.empty_like(together)
        structure = _structure(together, cosines, sines, ctx.kv_heads, ctx.layout)
        tensors = (together, out, lse, slopes[0].contiguous(), gradient)
        _BACKWARD(together.dtype, ctypes.byref(structure), *map(pointer, tensors))
        return gradient, None, None, None, None


def _structure(
    together: Tensor,
    cosines: Tensor | None,
    sines: Tensor | None,
    kv_heads: int,
    layout: Layout,
) -> FlatAttention:
    return FlatAttention(
        heads=head_layout(together, kv_heads, cosines, sines),
        family_count=len(layout.families) - 1,
        sequences=pointer(layout.sequences),
        families=pointer(layout.families),
    )
