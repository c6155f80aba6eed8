"""Decoding token by token on a CPU: `textgym.models.decoding` with a few calls a layer."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int64, c_void_p

import torch
from torch import Tensor
from torch.nn import functional

from textgym.models.branches import PromptAttention, lay_out_prompts
from textgym.models.compiled.layers import add_norm
from textgym.models.compiled.library import TYPES, Step, library, pointer
from textgym.models.decoder import Block, Decoder, Norm, feed_forward, logits, run

COLUMNS = 32
"""Keys, or values, of one row and head that lie together, as in `decoding.cpp`."""
WIDEST = 256
"""Most coordinates of a head."""
LANES = 16
"""Values lie in whole vectors of so many."""


class Attention(ctypes.Structure):
    """What attention reads beside its input: one layer of one step, see `decoding.cpp`."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "heads", "kv_heads", "width", "rotary")),
        *((name, c_void_p) for name in ("cosines", "sines", "query_norm", "key_norm")),
        ("epsilon", c_float),
        *((name, c_void_p) for name in ("order", "slots", "prompts", "prompt_lengths")),
        ("prompt_columns", c_void_p),
        *((name, c_int64) for name in ("prompt_count", "prompt_blocks")),
        ("chunks", c_void_p),
        *((name, c_int64) for name in ("slot_count", "length")),
    )


_ATTEND = Step("attend", ctypes.POINTER(Attention), c_void_p, c_void_p)
_DRAW = Step("draw", c_int64, c_int64, *[c_void_p] * 4)


def fits(decoder: Decoder) -> bool:
    """Returns whether the compiled steps know this decoder, and are there."""
    return (
        decoder.embedding.device.type == "cpu"
        and decoder.embedding.dtype == torch.float32
        and decoder.blocks[0].qkv.dtype in TYPES
        and decoder.head_dim <= WIDEST
        and decoder.head is not None
        and library() is not None
    )


class CompiledDecoding:
    """N * K samples in the making, as `textgym.models.decoding.Decoding`; without gradients.

    Keys and values lie in blocks of COLUMNS, a row's own in chunks that are added as it grows, a
    prompt's once for all its samples; both in the type of the products. Rows that have ended are
    left out without a copy: the others keep their slots.

    Args:
        decoder: the weights; see `fits`.
        prompt_ids: [N, P] int64, padded on either side.
        prompt_mask: [N, P] bool.
        samples: K, samples per prompt; rows are prompt-major.
        limit: most tokens of a sample.

    Attributes:
        logits: [B, V] of each row's next token.
    """

    def __init__(
        self, decoder: Decoder, prompt_ids: Tensor, prompt_mask: Tensor, samples: int, limit: int
    ) -> None:
        rows = samples * len(prompt_ids)
        # Packing pays from the second pass on, and is made for so many rows.
        decoder = decoder.packed(rows) if limit > 1 else decoder
        prompts = lay_out_prompts(prompt_ids, prompt_mask)
        reading = PromptAttention(prompts)
        hidden = run(decoder, prompts.ids, prompts.positions, reading, prompts.ends)
        self.logits = logits(decoder, hidden).repeat_interleave(samples, dim=0)
        self._decoder = decoder
        self._dtype = decoder.blocks[0].qkv.dtype
        self._prompts = [_in_blocks(*(x.to(self._dtype) for x in pair)) for pair in reading.kept]
        self._prompt_lengths = prompts.lengths
        self._prompt_of = torch.arange(len(prompt_ids)).repeat_interleave(samples)
        self._slots = torch.arange(rows)
        self._slot_count = rows
        self._chunks: list[Tensor] = []
        self._steps = 0
        self._arrange()

    def step(self, tokens: Tensor) -> None:
        """Reads each row's next token, [B] int64, and sets `logits` for the one after it."""
        decoder, last = self._decoder, self._decoder.norm
        if self._steps % COLUMNS == 0:
            self._add_chunk()
        positions = self._lengths + self._steps
        self._steps += 1
        hidden = functional.embedding(tokens, decoder.embedding)
        if decoder.places is not None:
            hidden = hidden + functional.embedding(positions, decoder.places)
        if decoder.frequencies is not None:
            angles = positions.unsqueeze(-1) * decoder.frequencies
            cosines, sines = angles.cos(), angles.sin()
            for layer in self._layers:
                layer.cosines, layer.sines = cosines.data_ptr(), sines.data_ptr()
        more = None
        for block, layer in zip(decoder.blocks, self._layers, strict=True):
            layer.length = self._steps
            hidden, more = self._block(block, layer, hidden, more)
        assert decoder.head is not None
        self.logits = decoder.head(self._add_norm(hidden, more, last)[1])

    def keep(self, rows: Tensor) -> None:
        """Goes on with the given rows only, [B'] int64, in ascending order."""
        self._slots = self._slots[rows]
        self._prompt_of = self._prompt_of[rows]
        self._arrange()

    def _block(
        self, block: Block, layer: Attention, hidden: Tensor, more: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Returns the sum of the layers before, and what this one adds to it."""
        decoder = self._decoder
        hidden, normed = self._add_norm(hidden, more, block.attention_norm)
        qkv = block.qkv(normed)
        mixed = qkv.new_empty((len(qkv), decoder.heads * decoder.head_dim))
        _ATTEND(self._dtype, ctypes.byref(layer), pointer(qkv), pointer(mixed))
        attended = block.output(mixed)
        if decoder.parallel:
            _, normed = self._add_norm(hidden, None, block.mlp_norm)
            return hidden + attended, feed_forward(decoder, block, normed)
        hidden, normed = self._add_norm(hidden, attended, block.mlp_norm)
        return hidden, feed_forward(decoder, block, normed)

    def _add_norm(self, hidden: Tensor, more: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor]:
        return add_norm(hidden, more, norm.weight, norm.bias, norm.epsilon, self._dtype)

    def _arrange(self) -> None:
        """Lays out what a step needs to know of its rows."""
        heads = self._decoder.kv_heads
        prompt_heads = self._prompt_of[:, None] * heads + torch.arange(heads)
        # Samples of a prompt read its keys and values one after the other, head by head.
        self._order = prompt_heads.flatten().argsort(stable=True).int()
        self._lengths = self._prompt_lengths[self._prompt_of]
        self._layers = [self._attention(index) for index in range(len(self._decoder.blocks))]
        self._point_to_chunks()

    def _attention(self, index: int) -> Attention:
        decoder, block, prompts = self._decoder, self._decoder.blocks[index], self._prompts[index]
        query_norm, key_norm = block.query_norm, block.key_norm
        return Attention(
            rows=len(self._slots),
            heads=decoder.heads,
            kv_heads=decoder.kv_heads,
            width=decoder.head_dim,
            rotary=0 if decoder.frequencies is None else 2 * len(decoder.frequencies),
            query_norm=None if query_norm is None else pointer(query_norm.weight),
            key_norm=None if key_norm is None else pointer(key_norm.weight),
            epsilon=0 if query_norm is None else query_norm.epsilon,
            order=pointer(self._order),
            slots=pointer(self._slots),
            prompts=pointer(self._prompt_of),
            prompt_lengths=pointer(self._prompt_lengths),
            prompt_columns=pointer(prompts),
            prompt_count=prompts.shape[1],
            prompt_blocks=prompts.shape[3],
            slot_count=self._slot_count,
        )

    def _add_chunk(self) -> None:
        """Makes room for COLUMNS more tokens of every slot."""
        decoder = self._decoder
        shape = (len(decoder.blocks), 2, self._slot_count, decoder.kv_heads)
        width = decoder.head_dim + -decoder.head_dim % LANES
        self._chunks.append(torch.empty((*shape, COLUMNS * width), dtype=self._dtype))
        self._point_to_chunks()

    def _point_to_chunks(self) -> None:
        """Tells every layer where its columns are."""
        layers = range(len(self._layers))
        pointers = [[chunk[layer].data_ptr() for chunk in self._chunks] for layer in layers]
        self._pointers = torch.tensor(pointers)
        for layer, of_layer in zip(self._layers, self._pointers, strict=True):
            layer.chunks = pointer(of_layer)


def _in_blocks(keys: Tensor, values: Tensor) -> Tensor:
    """Returns [2, N, kv_heads, blocks, COLUMNS * width] of two [N, kv_heads, P, width]."""
    room = (0, -keys.shape[3] % LANES, 0, -keys.shape[2] % COLUMNS)
    blocks = keys.shape[2] + -keys.shape[2] % COLUMNS
    keys, values = (functional.pad(x, room) for x in (keys, values))
    keys = keys.reshape(*keys.shape[:2], blocks // COLUMNS, COLUMNS, -1).transpose(3, 4)
    return torch.stack([keys.flatten(3), values.reshape(*keys.shape[:3], -1)])


def draw(logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draws one token per row of softmax(logits), by inverse CDF.

    Args:
        logits: [B, V] float32 or bfloat16.
        uniforms: [B] float64 in [0, 1).

    Returns:
        Tokens [B] int64, never one of weight 0, and their log-probabilities [B] float32.
    """
    logits, uniforms = logits.contiguous(), uniforms.contiguous()
    tokens = torch.empty(len(logits), dtype=torch.int64)
    logprobs = torch.empty(len(logits))
    _DRAW(logits.dtype, *logits.shape, *map(pointer, (logits, uniforms, tokens, logprobs)))
    return tokens, logprobs
