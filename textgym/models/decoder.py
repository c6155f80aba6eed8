"""A decoder-only transformer as weights and functions, whatever family it comes from.

`transformers` prepares every call for much that a small model never needs, splits products that
can be one, and gives padding the same work as text. Here the weights of a layer are read into a few
large matrices, and a batch is a flat list of tokens; which of them see each other is the business
of an `Attend`, so that scoring, training and sampling run the same code over the same weights.

On a CPU the steps between the products are compiled (`textgym.models.compiled`); where they cannot
be, the plain ones below run, which say what is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from textgym.models.compiled import layers as compiled
from textgym.models.compiled.library import TYPES
from textgym.models.heads import Heads, Rotation
from textgym.models.linear import Layer, PackedLinear


def gelu_tanh(inner: Tensor) -> Tensor:
    """Returns GELU by its approximation with a hyperbolic tangent (arXiv 1606.08415)."""
    return functional.gelu(inner, approximate="tanh")


@dataclass
class Norm:
    """Root-mean-square norm (arXiv 1910.07467), or layer norm (arXiv 1607.06450) with a bias."""

    weight: Tensor
    epsilon: float
    bias: Tensor | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """Returns the normalised [..., D]."""
        if self.bias is None:
            return functional.rms_norm(hidden, self.weight.shape, self.weight, self.epsilon)
        shape = self.weight.shape
        return functional.layer_norm(hidden, shape, self.weight, self.bias, self.epsilon)


@dataclass
class Block:
    """One layer.

    Attributes:
        attention_norm: before attention.
        qkv: queries, keys and values in one product, D to (heads + 2 kv_heads) * head_dim.
        output: heads * head_dim to D.
        mlp_norm: before the feed-forward layers.
        up: D to the inner width; to twice it, gate first, where the decoder is gated.
        down: the inner width to D.
        query_norm, key_norm: over each head's width (Qwen3).
    """

    attention_norm: Norm
    qkv: Layer | PackedLinear
    output: Layer | PackedLinear
    mlp_norm: Norm
    up: Layer | PackedLinear
    down: Layer | PackedLinear
    query_norm: Norm | None = None
    key_norm: Norm | None = None

    def map(self, change: Callable[[Layer], Layer | PackedLinear]) -> Block:
        """Returns the block with its four products changed."""
        products = (self.qkv, self.output, self.up, self.down)
        qkv, output, up, down = (x if isinstance(x, PackedLinear) else change(x) for x in products)
        return replace(self, qkv=qkv, output=output, up=up, down=down)


@dataclass
class Decoder:
    """The weights of a decoder-only transformer.

    Attributes:
        embedding: [V, D] token vectors.
        blocks: the layers.
        norm: after the last.
        head: hidden states to logits; None for a trunk.
        heads, kv_heads, head_dim: of attention; `heads` queries share `kv_heads` keys
            (arXiv 2305.13245).
        activation: of the feed-forward layers.
        gated: whether half of `up` gates the other (arXiv 2002.05202).
        parallel: whether attention and feed-forward both read the layer's input.
        places: [C, D] learned position vectors, or None.
        mixing: what attention is computed in.
        padding: the token whose vector is not trained, or None.
        frequencies: [r / 2] of rotary positions (RoPE, arXiv 2104.09864) on the first r
            coordinates of a head, or None.
    """

    embedding: Tensor
    blocks: list[Block]
    norm: Norm
    head: Layer | PackedLinear | None
    heads: int
    kv_heads: int
    head_dim: int
    activation: Callable[[Tensor], Tensor]
    gated: bool
    mixing: torch.dtype
    padding: int | None = None
    parallel: bool = False
    places: Tensor | None = None
    frequencies: Tensor | None = None

    def to(self, dtype: torch.dtype) -> Decoder:
        """Returns the decoder with its products in another type.

        Embeddings, norms and the sums between layers stay as they are, as under autocast. On the
        CPU so does attention, which is small there and slower in less than float32.
        """
        mixing = self.embedding.dtype if self.embedding.device.type == "cpu" else dtype
        return replace(self._map(lambda layer: layer.to(dtype)), mixing=mixing)

    def packed(self, rows: int) -> Decoder:
        """Returns the decoder for many passes over about `rows` tokens, without gradients."""
        return self._map(lambda layer: layer.packed(rows))

    def _map(self, change: Callable[[Layer], Layer | PackedLinear]) -> Decoder:
        head = self.head
        if head is not None and not isinstance(head, PackedLinear):
            head = change(head)
        return replace(self, blocks=[block.map(change) for block in self.blocks], head=head)


class Attend(Protocol):
    """Mixes the tokens of a flat batch: says which sees which."""

    def __call__(self, layer: int, heads: Heads) -> Tensor:
        """Returns [M, heads * width], each token's mixture of the values it sees."""


def run(
    decoder: Decoder,
    ids: Tensor,
    positions: Tensor,
    attend: Attend,
    wanted: Tensor | None = None,
) -> Tensor:
    """Returns the last hidden states, after the final norm.

    Args:
        decoder: the weights.
        ids: [M] int64, the tokens of all rows one after the other.
        positions: [M] int64, each token's place in its own row.
        attend: which tokens see each other.
        wanted: [M'] int64, which tokens' states are needed; all by default. The last layer computes
            no other.

    Returns:
        [M', D], the states of the wanted tokens.
    """
    hidden = functional.embedding(ids, decoder.embedding, decoder.padding)
    if decoder.places is not None:
        hidden = hidden + functional.embedding(positions, decoder.places)
    turned = decoder.frequencies
    rotation = None if turned is None else Rotation.of(positions, turned)
    more = None  # what the layer before adds, which is added where it is read
    for index, block in enumerate(decoder.blocks):
        hidden, normed = _add_norm(hidden, more, block.attention_norm, block.qkv.dtype)
        mixed = attend(index, _heads(decoder, block, normed, rotation))
        if wanted is not None and index + 1 == len(decoder.blocks):
            # (the backward pass of indexing by brackets takes several times as long)
            hidden, mixed = hidden.index_select(0, wanted), mixed.index_select(0, wanted)
        attended = block.output(mixed)
        if decoder.parallel:
            _, normed = _add_norm(hidden, None, block.mlp_norm, block.up.dtype)
            hidden = hidden + attended
        else:
            hidden, normed = _add_norm(hidden, attended, block.mlp_norm, block.up.dtype)
        more = feed_forward(decoder, block, normed)
    return _add_norm(hidden, more, decoder.norm, hidden.dtype)[1]


def logits(decoder: Decoder, hidden: Tensor) -> Tensor:
    """Returns [M, V] of hidden states [M, D]."""
    assert decoder.head is not None, "a trunk has no logits"
    return decoder.head(hidden)


def _add_norm(
    hidden: Tensor, more: Tensor | None, norm: Norm, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Returns hidden + more, and the norm of the sum in `dtype`."""
    known = hidden.dtype == norm.weight.dtype == torch.float32 and dtype in TYPES
    if known and compiled.knows(hidden):
        return compiled.add_norm(hidden, more, norm.weight, norm.bias, norm.epsilon, dtype)
    total = hidden if more is None else hidden + more
    return total, norm(total).to(dtype)


def _heads(decoder: Decoder, block: Block, normed: Tensor, rotation: Rotation | None) -> Heads:
    """Returns what attention mixes of a layer's normed input [M, D]."""
    heads, kv_heads, width = decoder.heads, decoder.kv_heads, decoder.head_dim
    together = block.qkv(normed).view(len(normed), heads + 2 * kv_heads, width)
    if block.query_norm is not None and block.key_norm is not None:
        parts = torch.split(together.to(decoder.mixing), [heads, kv_heads, kv_heads], dim=1)
        queries, keys = block.query_norm(parts[0]), block.key_norm(parts[1])
        together = torch.cat([queries, keys, parts[2]], dim=1)
    return Heads(together, kv_heads, decoder.mixing, rotation)


def feed_forward(decoder: Decoder, block: Block, normed: Tensor) -> Tensor:
    """Returns [M, D] of a layer's normed input [M, D]."""
    inner = block.up(normed)
    if decoder.gated and decoder.activation is functional.silu and compiled.knows(inner):
        return block.down(compiled.swiglu(inner))
    if decoder.gated:
        gate, up = inner.chunk(2, dim=-1)
        return block.down(decoder.activation(gate) * up)
    return block.down(decoder.activation(inner))
