"""oneDNN's matrix products, as compiled code calls them within a thread.

PyTorch exports oneDNN's kernel (`at::native::cpublas::brgemm`), which is compiled for the processor
at hand, AMX included. A product by way of PyTorch starts and waits for all threads, looks up its
layout and makes a tensor; within a step of decoding all that costs as much as the product.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from textgym.models.compiled.library import Step, library
from textgym.models.linear import Layer, Linear, PackedLinear

KERNELS = {
    torch.float32: "_ZN2at6native7cpublas6brgemmEllllllbPKfS3_Pfb",
    torch.bfloat16: "_ZN2at6native7cpublas6brgemmEllllllbPKN3c108BFloat16ES5_Pfb",
}
"""The kernel's names in PyTorch's library, by the type of what is multiplied."""
RELEASE = "_ZN2at6native7cpublas14brgemm_releaseEb"
"""That of what gives back the processor's tiles."""
WIDE_BLOCK, NARROW_BLOCK, MANY_OUTPUTS = 64, 32, 512
"""Outputs of a product that are one thread's: fewer where there are few, so that all have some."""
FEW_ROWS = 4
"""From so many rows on their number is rounded up to a multiple; a kernel is compiled for each."""

_MULTIPLIES = Step("multiplies", c_void_p, c_void_p, c_void_p)


class Product(ctypes.Structure):
    """A linear layer, see `decoding.cpp`."""

    _fields_ = (
        *((name, c_int64) for name in ("inputs", "outputs", "block")),
        *((name, c_void_p) for name in ("weight", "bias")),
    )

    @property
    def stride(self) -> int:
        """Numbers from one row of outputs to the next."""
        return whole(self.outputs, self.block)


def multiplies(dtype: torch.dtype) -> bool:
    """Returns whether oneDNN's kernel is there and multiplies on this processor: it is tried."""
    kernel, release = exported(KERNELS[dtype]), exported(RELEASE)
    if library() is None or kernel is None or release is None:
        return False
    found = c_int64(0)
    _MULTIPLIES(dtype, kernel, release, ctypes.addressof(found))
    return bool(found.value)


@cache
def exported(name: str) -> int | None:
    """Returns where PyTorch's library has a function, or None where it has none of that name."""
    folder = Path(torch.__file__).parent / "lib"
    for path in (folder / "libtorch_cpu.so", folder / "libtorch_cpu.dylib"):
        if path.exists():
            function = getattr(ctypes.CDLL(str(path)), name, None)
            return None if function is None else ctypes.cast(function, c_void_p).value
    return None


def plain(layer: Layer | PackedLinear) -> Linear:
    """Returns one layer of plain weights that computes the same."""
    assert not isinstance(layer, PackedLinear), "oneDNN's own layout cannot be read"
    return layer.merged()


def in_output_blocks(layer: Linear) -> tuple[int, Tensor, Tensor | None]:
    """Returns the size of a layer's blocks of outputs, its weight and its bias in them.

    The weight is [blocks, K, block], zeros beyond N; of bfloat16 [blocks, K / 2, block] words, each
    of two inputs. The bias is float32 [blocks * block].
    """
    outputs, _ = layer.weight.shape
    block = WIDE_BLOCK if outputs >= MANY_OUTPUTS else NARROW_BLOCK
    beyond = -outputs % block
    weight = functional.pad(layer.weight, (0, 0, 0, beyond)) if beyond else layer.weight
    words = weight.contiguous().view(torch.int32)
    words = words.view(-1, block, words.shape[1]).transpose(1, 2).contiguous()
    bias = None if layer.bias is None else functional.pad(layer.bias.float(), (0, beyond))
    return block, words, bias


def whole(count: int, block: int) -> int:
    """Returns the next multiple of a block's size.

    >>> whole(64, 32), whole(65, 32)
    (64, 96)
    """
    return count + -count % block


def rounded(rows: int) -> int:
    """Returns how many rows are multiplied for so many, as in `decoding.cpp`."""
    return rows if rows < FEW_ROWS else whole(rows, FEW_ROWS)
