"""What lies between matrix products, compiled and differentiable.

Nothing is kept for a backward pass unless there may be one. The plain twins are in
`textgym.models.decoder` and `textgym.models.likelihood`.
"""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from textgym.models.compiled.library import TYPES, Step, library, pointer


class HeadLayout(ctypes.Structure):
    """How heads lie and turn, see `heads.h`."""

    _fields_ = (
        *((name, c_int64) for name in ("heads", "kv_heads", "width", "rotary")),
        *((name, c_void_p) for name in ("cosines", "sines")),
    )


_SIZES = (c_int64, c_int64)
_ADD_NORM = Step("add_norm", *_SIZES, *[c_void_p] * 5, c_float, c_void_p)
_ADD_NORM_BACKWARD = Step("add_norm_backward", *_SIZES, c_int64, c_float, *[c_void_p] * 8)
_SWIGLU = Step("swiglu", *_SIZES, *[c_void_p] * 2)
_SWIGLU_BACKWARD = Step("swiglu_backward", *_SIZES, *[c_void_p] * 3)
_SPLIT_HEADS = Step("split_heads", c_int64, ctypes.POINTER(HeadLayout), *[c_void_p] * 4)
_SELECTED_LOGPROBS = Step("selected_logprobs", *_SIZES, *[c_void_p] * 5)
_SELECTED_LOGPROBS_BACKWARD = Step("selected_logprobs_backward", *_SIZES, *[c_void_p] * 6)


def knows(numbers: Tensor) -> bool:
    """Returns whether the compiled steps are there, for such numbers where they lie."""
    return numbers.device.type == "cpu" and numbers.dtype in TYPES and library() is not None


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if x is None else x.contiguous() for x in tensors]


def _will_be_trained(*tensors: Tensor | None) -> bool:
    """Returns whether a backward pass may come."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def add_norm(
    hidden: Tensor,
    more: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    epsilon: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Returns hidden + more, and the norm of the sum (`textgym.models.decoder.Norm`).

    Args:
        hidden: [M, D] float32, the sum of the layers so far.
        more: [M, D], what a layer adds; None for nothing. In one pass where it is in `dtype`.
        weight: [D] float32.
        bias: [D] float32 of a layer norm; None for a root-mean-square norm.
        epsilon: of the norm.
        dtype: of the second result; the first is float32.
    """
    if more is not None and more.dtype != dtype:
        hidden, more = hidden + more, None
    tensors: Any = _contiguous(hidden, more, weight, bias)
    found: Any = _AddNorm.apply if _will_be_trained(*tensors) else _add_norm
    total, normed = found(*tensors, epsilon, dtype)
    return total, normed


def _add_norm(
    hidden: Tensor,
    more: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    epsilon: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    total = hidden if more is None else torch.empty_like(hidden)
    normed = torch.empty_like(hidden, dtype=dtype)
    read = (hidden, more, weight, bias, total)
    _ADD_NORM(dtype, *hidden.shape, *map(pointer, read), epsilon, pointer(normed))
    return total, normed


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        more: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        epsilon: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        total, normed = _add_norm(hidden, more, weight, bias, epsilon, dtype)
        ctx.save_for_backward(total, weight)
        ctx.set_materialize_grads(False)
        ctx.centred, ctx.epsilon, ctx.dtype = bias is not None, epsilon, dtype
        return total, normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        total, weight = ctx.saved_tensors
        d_total, d_normed = _contiguous(*gradients)
        if d_normed is None:
            d_normed = torch.zeros_like(total, dtype=ctx.dtype)
        wanted = ctx.needs_input_grad
        d_hidden = torch.empty_like(total)
        # Where both are float32 they are the same.
        rounded = wanted[1] and ctx.dtype != total.dtype
        d_more = torch.empty_like(d_normed) if rounded else None
        d_weight = torch.empty_like(weight) if wanted[2] or wanted[3] else None
        d_bias = torch.empty_like(weight) if wanted[3] else None
        tensors = (total, weight, d_total, d_normed, d_hidden, d_more, d_weight, d_bias)
        sizes = (*total.shape, ctx.centred, ctx.epsilon)
        _ADD_NORM_BACKWARD(ctx.dtype, *sizes, *map(pointer, tensors))
        if wanted[1] and not rounded:
            d_more = d_hidden
        return d_hidden, d_more, d_weight, d_bias, None, None


def swiglu(both: Tensor) -> Tensor:
    """Returns silu(gate) * up, [M, I] of [M, 2 I], gate first (arXiv 2002.05202)."""
    both = both.contiguous()
    found: Any = _Swiglu.apply if _will_be_trained(both) else _swiglu
    out: Tensor = found(both)
    return out


def _swiglu(both: Tensor) -> Tensor:
    rows, width = both.shape
    out = both.new_empty((rows, width // 2))
    _SWIGLU(both.dtype, *out.shape, pointer(both), pointer(out))
    return out


class _Swiglu(torch.autograd.Function):
    """Keeps nothing but its input: the gate is opened again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        return _swiglu(both)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors
        d_out, d_both = gradients[0].contiguous(), torch.empty_like(both)
        tensors = (both, d_out, d_both)
        _SWIGLU_BACKWARD(both.dtype, *d_out.shape, *map(pointer, tensors))
        return d_both


def split_heads(
    together: Tensor, kv_heads: int, cosines: Tensor | None, sines: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns queries, keys and values, the first two turned; without gradients.

    Args:
        together: [M, heads + 2 kv_heads, width], see `textgym.models.heads`.
        kv_heads: of the keys, and of the values.
        cosines: [M, r / 2] float32, of the rotation; None for no turning.
        sines: [M, r / 2] float32, likewise.

    Returns:
        [M, heads, width] and two [M, kv_heads, width], all float32 and contiguous.
    """
    together = together.contiguous()
    rows, count, width = together.shape
    heads = count - 2 * kv_heads
    queries, keys, values = (
        together.new_empty((rows, count, width), dtype=torch.float32)
        for count in (heads, kv_heads, kv_heads)
    )
    layout = head_layout(together, kv_heads, cosines, sines)
    tensors = (together, queries, keys, values)
    _SPLIT_HEADS(together.dtype, rows, ctypes.byref(layout), *map(pointer, tensors))
    return queries, keys, values


def head_layout(
    together: Tensor, kv_heads: int, cosines: Tensor | None, sines: Tensor | None
) -> HeadLayout:
    """Returns how heads [M, heads + 2 kv_heads, width] lie; its tables are only pointed to."""
    _, count, width = together.shape
    assert all(x is None or x.is_contiguous() for x in (cosines, sines)), "tables of angles apart"
    rotary = 0 if cosines is None else 2 * cosines.shape[1]
    heads = count - 2 * kv_heads
    return HeadLayout(heads, kv_heads, width, rotary, pointer(cosines), pointer(sines))


def selected_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """Returns the log-softmax at one token per row: [R, V] and [R] int64 give [R] float32, nats.

    Raises:
        ValueError: not R ids, or one that is not one of V.
    """
    count, vocabulary = logits.shape
    if ids.shape != (count,) or bool(((ids < 0) | (ids >= vocabulary)).any()):
        raise ValueError(f"expected {count} ids from 0 to {vocabulary - 1}, got {ids.tolist()}")
    apply: Any = _SelectedLogprobs.apply
    logprobs: Tensor = apply(logits.contiguous(), ids.long().contiguous())
    return logprobs


class _SelectedLogprobs(torch.autograd.Function):
    """The softmax is only made in the backward pass, where it is the gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        logprobs, highest, totals = (
            logits.new_empty(len(logits), dtype=torch.float32) for _ in range(3)
        )
        tensors = (logits, ids, logprobs, highest, totals)
        _SELECTED_LOGPROBS(logits.dtype, *logits.shape, *map(pointer, tensors))
        ctx.save_for_backward(logits, ids, highest, totals)
        return logprobs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, *others = ctx.saved_tensors
        d_logits = torch.empty_like(logits)
        tensors = (logits, *others, gradients[0].contiguous(), d_logits)
        _SELECTED_LOGPROBS_BACKWARD(logits.dtype, *logits.shape, *map(pointer, tensors))
        return d_logits, None
