"""Decoding token by token on a CPU: `textgym.models.decoding` with one call a step.

A step of a small model is some twenty products and as many passes between them. In Python the calls
cost more than the work; here all of a step is one call of `decoding.cpp`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_float, c_int64, c_void_p
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from textgym.models.branches import PromptAttention, lay_out_prompts
from textgym.models.compiled.library import TYPES, Step, pointer
from textgym.models.compiled.products import (
    KERNELS,
    RELEASE,
    Product,
    exported,
    in_output_blocks,
    multiplies,
    plain,
    rounded,
    whole,
)
from textgym.models.decoder import Block, Decoder, Norm, gelu_tanh, logits, run
from textgym.models.heads import Rotation
from textgym.models.linear import Layer, PackedLinear

COLUMNS = 32
"""Keys, or values, of one row and head that lie together, as in `attend.h`."""
WIDEST = 256
"""Most coordinates of a head."""
LANES = 16
"""Values lie in whole vectors of so many."""
CACHED = 2**24
"""Bytes of weights that stay in the cache from one step to the next, about."""
ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    functional.silu,
    functional.relu,
    functional.gelu,
    gelu_tanh,
)
"""Those that `decoding.cpp` knows, in its order."""


class _Norm(ctypes.Structure):
    _fields_ = (("weight", c_void_p), ("bias", c_void_p), ("epsilon", c_float))


class _Attention(ctypes.Structure):
    """What attention reads beside its input, in all layers of a step."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "heads", "kv_heads", "width", "rotary")),
        *((name, c_void_p) for name in ("cosines", "sines")),
        ("epsilon", c_float),
        *((name, c_void_p) for name in ("slots", "prompts", "prompt_lengths")),
        *((name, c_int64) for name in ("prompt_blocks", "length")),
    )


class _Memory(ctypes.Structure):
    """And in one layer."""

    _fields_ = tuple((name, c_void_p) for name in ("query_norm", "key_norm", "prompts", "chunks"))


class _Layer(ctypes.Structure):
    _fields_ = (
        ("attention_norm", _Norm),
        ("qkv", Product),
        ("memory", _Memory),
        ("output", Product),
        ("mlp_norm", _Norm),
        ("up", Product),
        ("down", Product),
    )


class _Decoder(ctypes.Structure):
    """Weights, what attention reads, and room to work in: see `decoding.cpp`."""

    _fields_ = (
        *((name, c_int64) for name in ("width", "layer_count", "parallel", "gated")),
        *((name, c_int64) for name in ("activation", "cached")),
        ("layers", ctypes.POINTER(_Layer)),
        ("norm", _Norm),
        ("head", Product),
        *((name, c_void_p) for name in ("kernel", "release")),
        ("attention", _Attention),
        *((name, c_int64) for name in ("most_inputs", "most_outputs")),
        *((name, c_void_p) for name in ("hidden", "inputs", "wide", "more", "seconds")),
    )


_STEP = Step("step", ctypes.POINTER(_Decoder), c_void_p)


def fits(decoder: Decoder) -> bool:
    """Returns whether the compiled step knows this decoder, and is there."""
    if decoder.head is None:
        return False
    dtype = decoder.blocks[0].qkv.dtype
    return (
        decoder.embedding.device.type == "cpu"
        and decoder.embedding.dtype == torch.float32
        and dtype in TYPES
        and decoder.head_dim <= WIDEST
        and decoder.activation in ACTIVATIONS
        and _in_pairs(decoder)
        and multiplies(dtype)
    )


def _in_pairs(decoder: Decoder) -> bool:
    """Returns whether the inputs of every product come in pairs, as bfloat16 wants them."""
    first = decoder.blocks[0]
    products = (first.qkv, first.output, first.up, first.down)
    return not any(isinstance(x, PackedLinear) or x.inputs % 2 for x in products)


class CompiledDecoding:
    """N * K samples in the making, as `textgym.models.decoding.Decoding`; without gradients.

    Keys and values lie in blocks of COLUMNS, a row's own in chunks that are added as it grows, a
    prompt's once for all its samples; both in the type of the products, whose sums are float32.
    Rows that have ended are left out without a copy: the others keep their slots.

    Args:
        decoder: the weights; see `fits`.
        prompt_ids: [N, P] int64, padded on either side.
        prompt_mask: [N, P] bool.
        samples: K, samples per prompt; rows are prompt-major.
        limit: most tokens of a sample, for which room is only made as they come.

    Attributes:
        logits: [B, V] of each row's next token.
        seconds: [3] float64, to which steps add what products, attention and the rest took; None
            where nobody asks.
    """

    seconds: ClassVar[Tensor | None] = None

    def __init__(
        self, decoder: Decoder, prompt_ids: Tensor, prompt_mask: Tensor, samples: int, limit: int
    ) -> None:
        prompts = lay_out_prompts(prompt_ids, prompt_mask)
        reading = PromptAttention(prompts)
        hidden = run(decoder, prompts.ids, prompts.positions, reading, prompts.ends)
        self.logits = logits(decoder, hidden).repeat_interleave(samples, dim=0)
        self._decoder = decoder
        self._dtype = decoder.blocks[0].qkv.dtype
        self._prompts = [_in_blocks(*(x.to(self._dtype) for x in pair)) for pair in reading.kept]
        self._prompt_lengths = prompts.lengths
        self._prompt_of = torch.arange(len(prompt_ids)).repeat_interleave(samples)
        self._slots = torch.arange(samples * len(prompt_ids))
        self._slot_count = len(self._slots)
        self._chunks: list[Tensor] = []
        self._steps = 0
        self._laid_out: _Decoder | None = None

    def step(self, tokens: Tensor) -> None:
        """Reads each row's next token, [B] int64, and sets `logits` for the one after it."""
        decoder = self._decoder
        if self._laid_out is None:  # a sample of one token never gets here
            self._laid_out = self._lay_out()
            self._arrange()
        if self._steps % COLUMNS == 0:
            self._add_chunk()
        laid_out, attention = self._laid_out, self._laid_out.attention
        hidden = functional.embedding(tokens, decoder.embedding)
        if decoder.places is not None:
            hidden = hidden + functional.embedding(self._lengths + self._steps, decoder.places)
        laid_out.hidden = pointer(hidden)
        if decoder.frequencies is not None:
            turn = self._steps % COLUMNS
            attention.cosines, attention.sines = (pointer(table[turn]) for table in self._turns)
        self._steps += 1
        attention.length = self._steps
        head = laid_out.head
        found = torch.empty((rounded(len(tokens)), head.stride))
        _STEP(self._dtype, ctypes.byref(laid_out), pointer(found))
        self.logits = found[: len(tokens), : head.outputs]

    def keep(self, rows: Tensor) -> None:
        """Goes on with the given rows only, [B'] int64, in ascending order."""
        self._slots = self._slots[rows]
        self._prompt_of = self._prompt_of[rows]
        if self._laid_out is not None:
            self._arrange()
            self._turn()

    def _arrange(self) -> None:
        """Lays out what a step needs to know of its rows."""
        assert self._laid_out is not None
        self._lengths = self._prompt_lengths[self._prompt_of]
        attention = self._laid_out.attention
        attention.rows = len(self._slots)
        attention.slots, attention.prompts = pointer(self._slots), pointer(self._prompt_of)

    def _turn(self) -> None:
        """Makes the tables of the angles that the next steps turn queries and keys by.

        They are [COLUMNS, B, r / 2], for the steps of a chunk: the calls of one cost as much.
        """
        if self._decoder.frequencies is not None:
            first = self._steps - self._steps % COLUMNS
            places = torch.arange(first, first + COLUMNS).unsqueeze(1) + self._lengths
            rotation = Rotation.of(places, self._decoder.frequencies)
            self._turns = rotation.cosines, rotation.sines

    def _lay_out(self) -> _Decoder:
        """Returns all that does not change from step to step."""
        decoder, prompts = self._decoder, self._prompts[0]
        self._held: list[Tensor] = []  # what is only pointed to below
        layers = [self._layer(*pair) for pair in zip(decoder.blocks, self._prompts, strict=True)]
        self._layers = (_Layer * len(layers))(*layers)
        first, rows = layers[0], rounded(self._slot_count)
        most_inputs = max(x.inputs for x in (first.qkv, first.output, first.up, first.down))
        most_outputs = max(x.stride for x in (first.qkv, first.output, first.up, first.down))
        assert decoder.head is not None
        head = self._product(decoder.head)
        query_norm = decoder.blocks[0].query_norm
        return _Decoder(
            width=decoder.embedding.shape[1],
            layer_count=len(layers),
            parallel=decoder.parallel,
            gated=decoder.gated,
            activation=ACTIVATIONS.index(decoder.activation),
            cached=sum(tensor.nbytes for tensor in self._held) <= CACHED,
            layers=self._layers,
            norm=self._norm(decoder.norm),
            head=head,
            kernel=exported(KERNELS[self._dtype]),
            release=exported(RELEASE),
            attention=_Attention(
                heads=decoder.heads,
                kv_heads=decoder.kv_heads,
                width=decoder.head_dim,
                rotary=0 if decoder.frequencies is None else 2 * len(decoder.frequencies),
                epsilon=0 if query_norm is None else query_norm.epsilon,
                prompt_lengths=self._hold(self._prompt_lengths),
                prompt_blocks=prompts.shape[2],
            ),
            most_inputs=most_inputs,
            most_outputs=most_outputs,
            inputs=self._hold(torch.zeros((rows, most_inputs), dtype=self._dtype)),
            wide=self._hold(torch.zeros((rows, most_outputs))),
            more=self._hold(torch.zeros((rows, most_outputs))),
            seconds=pointer(self.seconds),
        )

    def _layer(self, block: Block, prompts: Tensor) -> _Layer:
        query_norm, key_norm = (
            None if norm is None else self._hold(norm.weight)
            for norm in (block.query_norm, block.key_norm)
        )
        return _Layer(
            attention_norm=self._norm(block.attention_norm),
            qkv=self._product(block.qkv),
            memory=_Memory(query_norm=query_norm, key_norm=key_norm, prompts=pointer(prompts)),
            output=self._product(block.output),
            mlp_norm=self._norm(block.mlp_norm),
            up=self._product(block.up),
            down=self._product(block.down),
        )

    def _norm(self, norm: Norm) -> _Norm:
        bias = None if norm.bias is None else self._hold(norm.bias)
        return _Norm(weight=self._hold(norm.weight), bias=bias, epsilon=norm.epsilon)

    def _product(self, layer: Layer | PackedLinear) -> Product:
        linear = plain(layer)
        outputs, inputs = linear.weight.shape
        block, weight, bias = in_output_blocks(linear)
        return Product(
            inputs=inputs,
            outputs=outputs,
            block=block,
            weight=self._hold(weight),
            bias=None if bias is None else self._hold(bias),
        )

    def _hold(self, tensor: Tensor) -> int | None:
        """Returns where a tensor's numbers lie, which are kept as long as this is."""
        self._held.append(tensor.detach().contiguous())
        return pointer(self._held[-1])

    def _add_chunk(self) -> None:
        """Makes room for COLUMNS more tokens of every slot."""
        decoder = self._decoder
        shape = (len(decoder.blocks), self._slot_count, decoder.kv_heads, 2)
        width = whole(decoder.head_dim, LANES)
        self._chunks.append(torch.empty((*shape, COLUMNS * width), dtype=self._dtype))
        layers = range(len(decoder.blocks))
        pointers = [[chunk[layer].data_ptr() for chunk in self._chunks] for layer in layers]
        self._pointers = torch.tensor(pointers)
        for layer, of_layer in zip(self._layers, self._pointers, strict=True):
            layer.memory.chunks = pointer(of_layer)
        self._turn()


def _in_blocks(keys: Tensor, values: Tensor) -> Tensor:
    """Returns [N, kv_heads, blocks, 2, COLUMNS * width] of two [N, kv_heads, P, width].

    Keys lie coordinate by coordinate, values one by one, as `attend.h` reads them.
    """
    room = (0, -keys.shape[3] % LANES, 0, -keys.shape[2] % COLUMNS)
    padded = (functional.pad(x, room) for x in (keys, values))
    keys, values = (x.view(*x.shape[:2], -1, COLUMNS, x.shape[3]) for x in padded)
    tables = [_rows_in_pairs(x).flatten(3) for x in (keys.transpose(3, 4), values)]
    return torch.stack(tables, dim=3)


def _rows_in_pairs(table: Tensor) -> Tensor:
    """Returns a table [..., rows, columns], of bfloat16 with two rows beside each other."""
    if table.dtype == torch.float32:
        return table
    *others, rows, columns = table.shape
    return table.reshape(*others, rows // 2, 2, columns).transpose(-2, -1)
