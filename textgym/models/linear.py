"""Matrix products, by the library that is quickest at them on the processor at hand.

On CPUs PyTorch hands float32 products to MKL, which on some processors (AMD's) is slow at them;
oneDNN, which comes with PyTorch too, is level with it elsewhere. `benchmarks/speed` measures both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

MANY_FLOATS = 2**14
"""A product over fewer weights than this costs its call, whoever computes it."""


def has_onednn() -> bool:
    """Returns whether this build of PyTorch lets oneDNN multiply plain tensors."""
    operators: Any = getattr(torch.ops, "mkldnn", None)
    backend: Any = torch.backends.mkldnn
    return (
        backend.is_available()
        and hasattr(operators, "_linear_pointwise")
        and hasattr(operators, "_reorder_linear_weight")
    )


_ONEDNN = has_onednn()


@cache
def packs() -> tuple[torch.dtype, ...]:
    """Returns the types whose weights oneDNN packs on this processor.

    Without instructions for it (AVX-512, or AVX2's for bfloat16) it refuses bfloat16, which
    PyTorch's own products compute all the same.
    """
    asked: Any = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    short = asked is None or asked()
    return (torch.float32, torch.bfloat16) if short else (torch.float32,)


def _product(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns inputs [M, K] times a weight [N, K] (plain or packed), by oneDNN."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], None)
    return product


class _OneDNNLinear(torch.autograd.Function):
    """A linear layer of float32 on the CPU: [M, K] to [M, N]."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return _product(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        wanted = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()) if wanted[0] else None,
            gradient.t() @ inputs if wanted[1] else None,
            gradient.sum(0) if wanted[2] else None,
        )


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns inputs [M, K] times the transpose of weight [N, K], plus bias [N]; differentiable."""
    by_onednn = (
        _ONEDNN
        and inputs.dtype == torch.float32
        and inputs.device.type == "cpu"
        and weight.numel() >= MANY_FLOATS
        and len(inputs) > 0
    )
    if by_onednn:
        apply: Any = _OneDNNLinear.apply
        product: Tensor = apply(inputs, weight, bias)
        return product
    return functional.linear(inputs, weight, bias)


@dataclass
class Linear:
    """A linear layer of given weights, [N, K] and [N]."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Returns [M, N] in the weight's type: inputs [M, K] are cast to it."""
        return linear(inputs.to(self.weight.dtype), self.weight, self.bias)

    @property
    def dtype(self) -> torch.dtype:
        """What the product is computed in."""
        return self.weight.dtype

    def to(self, dtype: torch.dtype) -> Linear:
        """Returns the layer in another type; gradients flow back to this one's weights."""
        return Linear(self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype))

    @property
    def inputs(self) -> int:
        """K."""
        return self.weight.shape[1]

    def merged(self) -> Linear:
        """Returns the layer itself, which has no parts."""
        return self

    def packed(self, rows: int) -> Linear | PackedLinear:
        """Returns the layer for many products of about `rows` rows, without gradients."""
        weight = self.weight
        if not (_ONEDNN and weight.device.type == "cpu" and weight.numel() >= MANY_FLOATS):
            return self
        if weight.dtype not in packs():
            return self
        layout = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), rows)
        return PackedLinear(layout, weight.dtype, self.bias)


@dataclass
class AdaptedLinear:
    """A linear layer with a low-rank adapter: `W x + b + s B A x` (arXiv 2106.09685, eq. 3).

    Attributes:
        base: W and b.
        a: A [r, K].
        b: B [N, r].
        scale: s.
    """

    base: Linear
    a: Tensor
    b: Tensor
    scale: float

    def __call__(self, inputs: Tensor) -> Tensor:
        """Returns [M, N] in the base's type; where W is frozen nothing of its size is made."""
        inputs = inputs.to(self.dtype)
        a, b = self.a.to(self.dtype), self.b.to(self.dtype)
        return torch.add(self.base(inputs), linear(linear(inputs, a), b), alpha=self.scale)

    @property
    def dtype(self) -> torch.dtype:
        """What the products are computed in."""
        return self.base.dtype

    def to(self, dtype: torch.dtype) -> AdaptedLinear:
        """Returns the layer in another type; gradients flow back to this one's weights."""
        return AdaptedLinear(self.base.to(dtype), self.a, self.b, self.scale)

    @property
    def inputs(self) -> int:
        """K."""
        return self.base.inputs

    def merged(self) -> Linear:
        """Returns one layer that computes the same."""
        change = torch.mm(self.b, self.a).mul(self.scale).to(self.dtype)
        return Linear(self.base.weight + change, self.base.bias)

    def packed(self, rows: int) -> Linear | PackedLinear:
        """Returns the merged layer for many products of about `rows` rows, without gradients."""
        return self.merged().packed(rows)


@dataclass
class _SideBySide:
    """Linear layers of one input whose outputs lie side by side."""

    parts: Sequence[Linear | AdaptedLinear]

    @property
    def dtype(self) -> torch.dtype:
        """What the products are computed in."""
        return self.parts[0].dtype

    @property
    def inputs(self) -> int:
        """K."""
        return self.parts[0].inputs

    @cached_property
    def _whole(self) -> Linear:
        return stack([part.merged() for part in self.parts])

    def merged(self) -> Linear:
        """Returns one layer that computes the same; made once."""
        return self._whole

    def packed(self, rows: int) -> Linear | PackedLinear:
        """Returns that layer for many products of about `rows` rows, without gradients."""
        return self.merged().packed(rows)


class StackedLinear(_SideBySide):
    """Layers that are computed as one product.

    Their one matrix is made when it is first needed: cast before that, it is made once, in the type
    that is asked for.
    """

    def __call__(self, inputs: Tensor) -> Tensor:
        """Returns [M, the sum of the parts' N]."""
        return self.merged()(inputs)

    def to(self, dtype: torch.dtype) -> StackedLinear:
        """Returns the layers in another type; gradients flow back to these ones' weights."""
        return StackedLinear([part.to(dtype) for part in self.parts])


class SplitLinear(_SideBySide):
    """Layers that are computed each on its own.

    Making one matrix of them would copy weights that adapters leave as they are.
    """

    def __call__(self, inputs: Tensor) -> Tensor:
        """Returns [M, the sum of the parts' N]."""
        return torch.cat([part(inputs) for part in self.parts], dim=-1)

    def to(self, dtype: torch.dtype) -> SplitLinear:
        """Returns the layers in another type; gradients flow back to these ones' weights."""
        return SplitLinear([part.to(dtype) for part in self.parts])


def stack(layers: list[Linear]) -> Linear:
    """Returns several linear layers of the same input as one; all have biases, or none has."""
    if len(layers) == 1:
        return layers[0]
    biases = [layer.bias for layer in layers if layer.bias is not None]
    weight = torch.cat([layer.weight for layer in layers])
    return Linear(weight, torch.cat(biases) if biases else None)


@dataclass
class PackedLinear:
    """A linear layer whose weights lie as oneDNN reads them."""

    weight: Tensor
    dtype: torch.dtype
    bias: Tensor | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Returns [M, N]."""
        return _product(inputs.to(self.dtype), self.weight, self.bias)


Layer = Linear | AdaptedLinear | SplitLinear | StackedLinear
"""A layer as it is read from a model."""
