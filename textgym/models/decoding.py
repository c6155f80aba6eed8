"""Decoding token by token over a `Decoder`: keys and values are kept, a prompt's only once.

The K samples of a prompt attend to one copy of its keys and values (as in Hydragen, arXiv
2402.05099): they are read from memory once for all of them, in one product.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from textgym.models.branches import PromptAttention, lay_out_prompts
from textgym.models.decoder import Decoder, logits, run
from textgym.models.heads import Heads

ROOM = 64
"""Columns that are made free at a time, at least; then half of those in use."""
WORTH_SHARING = 2**25
"""Bytes of prompts, counted for every sample: so many leave the cache between two steps."""


class Decoding:
    """N * K samples in the making; rows that have ended can be left out.

    Args:
        decoder: the weights.
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
        self._limit = limit
        prompts = lay_out_prompts(prompt_ids, prompt_mask)
        reading = PromptAttention(prompts)
        hidden = run(decoder, prompts.ids, prompts.positions, reading, prompts.ends)
        self.logits = logits(decoder, hidden).repeat_interleave(samples, dim=0)
        self._lengths = prompts.lengths.repeat_interleave(samples)
        self._steps = 0
        rows = len(self._lengths)
        # Packing pays from the second pass on, and is made for so many rows.
        self._decoder = decoder.packed(rows) if limit > 1 else decoder
        self._shared: _SharedPrompts | None = None
        room = min(limit, ROOM)
        bytes_read = 2 * len(reading.kept) * samples * reading.kept[0][0].nbytes
        if samples > 1 and bytes_read >= WORTH_SHARING:
            self._shared = _SharedPrompts(reading.kept, prompts.lengths, samples)
            self._own = _Columns.empty(reading.kept, rows, room)
        else:
            self._own = _Columns.of_prompts(reading.kept, prompts.lengths, samples, room)

    def step(self, tokens: Tensor) -> None:
        """Reads each row's next token, [B] int64, and sets `logits` for the one after it."""
        self._own.make_room(self._limit - self._steps)
        hidden = run(self._decoder, tokens, self._lengths + self._steps, self._attend)
        self._own.length += 1
        self._steps += 1
        self.logits = logits(self._decoder, hidden)

    def keep(self, rows: Tensor) -> None:
        """Goes on with the given rows only, [B'] int64, in ascending order."""
        self._lengths = self._lengths[rows]
        self._own.select(rows)
        if self._shared is not None:
            self._shared.select(rows)

    def _attend(self, layer: int, heads: Heads) -> Tensor:
        """Attends to a row's own columns, and to its prompt's where those lie apart."""
        queries, keys, values = heads.split()
        asked = queries.view(*keys.shape[:2], -1, keys.shape[2])
        self._own.add(layer, keys, values)
        scores = self._own.scores(layer, asked)
        if self._shared is None:
            return self._own.mix(layer, scores.softmax(-1)).flatten(1)
        of_prompt = self._shared.scores(layer, asked)
        weights = torch.cat([of_prompt, scores], dim=-1).softmax(-1)
        of_prompt, own = weights.tensor_split([of_prompt.shape[-1]], dim=-1)
        return (self._shared.mix(layer, of_prompt) + self._own.mix(layer, own)).flatten(1)


class _Columns:
    """Each row's own keys and values: one tensor [layers, 2, B, kv_heads, room, width].

    Attributes:
        length: columns in use.
    """

    def __init__(self, held: Tensor, length: int, blank: Tensor | None) -> None:
        self._held = held
        self._no_bias = held.new_zeros((1, 1, 1))
        self._blank = blank  # [B, length at first], 0 or -inf: columns that are no tokens
        self.length = length

    @classmethod
    def empty(cls, like: list[tuple[Tensor, Tensor]], batch: int, room: int) -> _Columns:
        """Returns free columns of the same shape as the prompts'."""
        keys, _ = like[0]
        shape = (len(like), 2, batch, keys.shape[1], room, keys.shape[3])
        return cls(keys.new_empty(shape), 0, None)

    @classmethod
    def of_prompts(
        cls, kept: list[tuple[Tensor, Tensor]], lengths: Tensor, samples: int, room: int
    ) -> _Columns:
        """Returns columns that begin with each row's prompt, padded on the right."""
        width = kept[0][0].shape[2]
        held = cls.empty(kept, len(lengths) * samples, width + room)._held
        for layer, pair in enumerate(kept):
            for half, prompts in enumerate(pair):
                held[layer, half, ..., :width, :] = prompts.repeat_interleave(samples, dim=0)
        lengths = lengths.repeat_interleave(samples)
        blank = None
        if bool((lengths < width).any()):
            outside = torch.arange(width, device=held.device) >= lengths[:, None]
            blank = torch.zeros(outside.shape, dtype=held.dtype, device=held.device)
            blank = blank.masked_fill_(outside, -torch.inf)
        return cls(held, width, blank)

    def make_room(self, most: int) -> None:
        """Sees to it that a column is free; `most` will ever be needed."""
        room = self._held.shape[4]
        if self.length == room:
            more = min(most, max(ROOM, room // 2))
            self._held = functional.pad(self._held, (0, 0, 0, more))

    def add(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Writes a column of [B, kv_heads, width]; `length` moves on after the last layer."""
        self._held[layer, 0, :, :, self.length] = keys
        self._held[layer, 1, :, :, self.length] = values

    def scores(self, layer: int, asked: Tensor) -> Tensor:
        """Returns [B, kv_heads, groups, columns] of queries [B, kv_heads, groups, width]."""
        keys = self._held[layer, 0, :, :, : self.length + 1].flatten(0, 1)
        bias = self._no_bias
        if self._blank is not None:
            more = self.length + 1 - self._blank.shape[1]
            shape = (len(asked), asked.shape[1], 1, self.length + 1)
            blank = functional.pad(self._blank, (0, more))[:, None, None]
            bias = blank.expand(shape).flatten(0, 1)
        scale = asked.shape[-1] ** -0.5
        product = torch.baddbmm(bias, asked.flatten(0, 1), keys.transpose(1, 2), alpha=scale)
        return product.view(*asked.shape[:3], -1)

    def mix(self, layer: int, weights: Tensor) -> Tensor:
        """Returns [B, kv_heads, groups, width] of weights [B, kv_heads, groups, columns]."""
        values = self._held[layer, 1, :, :, : self.length + 1].flatten(0, 1)
        return torch.bmm(weights.flatten(0, 1), values).view(*weights.shape[:3], -1)

    def select(self, rows: Tensor) -> None:
        """Keeps the given rows."""
        self._held = self._held.index_select(2, rows)
        self._blank = None if self._blank is None else self._blank[rows]


class _SharedPrompts:
    """Keys and values of N prompts, for their samples' queries together.

    A prompt's samples are laid on a grid of N by K' slots, K' the most samples that a prompt has
    left.
    """

    def __init__(self, kept: list[tuple[Tensor, Tensor]], lengths: Tensor, samples: int) -> None:
        count, self._kv_heads, width, _ = kept[0][0].shape
        self._keys = [keys.flatten(0, 1).contiguous() for keys, _ in kept]
        self._values = [values.flatten(0, 1).contiguous() for _, values in kept]
        outside = torch.arange(width, device=lengths.device) >= lengths[:, None]
        blank = torch.zeros(outside.shape, dtype=kept[0][0].dtype, device=lengths.device)
        blank = blank.masked_fill_(outside, -torch.inf)[:, None, None]
        self._blank = blank.expand(-1, self._kv_heads, -1, -1).flatten(0, 1)
        self._prompt_of = torch.arange(count, device=lengths.device).repeat_interleave(samples)
        self._grid = count, samples
        self._slots: Tensor | None = None

    def select(self, rows: Tensor) -> None:
        """Keeps the given rows, in ascending order, and the prompts that they have."""
        left, self._prompt_of = torch.unique(self._prompt_of[rows], return_inverse=True)
        if len(left) < self._grid[0]:
            heads = torch.arange(self._kv_heads, device=left.device)
            kept = (left[:, None] * self._kv_heads + heads).flatten()
            self._keys = [keys[kept] for keys in self._keys]
            self._values = [values[kept] for values in self._values]
            self._blank = self._blank[kept]
        counts = self._prompt_of.bincount()
        self._grid = len(left), int(counts.max())
        rank = (
            torch.arange(len(rows), device=left.device)
            - (counts.cumsum(0) - counts)[self._prompt_of]
        )
        full = len(rows) == self._grid[0] * self._grid[1]
        self._slots = None if full else self._prompt_of * self._grid[1] + rank

    def scores(self, layer: int, asked: Tensor) -> Tensor:
        """Returns [B, kv_heads, groups, P] of queries [B, kv_heads, groups, width]."""
        keys, scale = self._keys[layer].transpose(1, 2), asked.shape[-1] ** -0.5
        product = torch.baddbmm(self._blank, self._spread(asked), keys, alpha=scale)
        return self._collect(product, asked.shape[2])

    def mix(self, layer: int, weights: Tensor) -> Tensor:
        """Returns [B, kv_heads, groups, width] of weights [B, kv_heads, groups, P]."""
        product = torch.bmm(self._spread(weights), self._values[layer])
        return self._collect(product, weights.shape[2])

    def _spread(self, rows: Tensor) -> Tensor:
        """Returns [N * kv_heads, K' * groups, ...] of [B, kv_heads, groups, ...]."""
        if self._slots is not None:
            room = rows.new_zeros((self._grid[0] * self._grid[1], *rows.shape[1:]))
            rows = room.index_copy(0, self._slots, rows)
        return rows.view(*self._grid, *rows.shape[1:]).transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def _collect(self, grid: Tensor, groups: int) -> Tensor:
        """Returns [B, kv_heads, groups, ...] of [N * kv_heads, K' * groups, ...]."""
        apart = grid.view(-1, self._kv_heads, self._grid[1], groups, grid.shape[-1])
        rows = apart.transpose(1, 2).flatten(0, 1)
        return rows if self._slots is None else rows.index_select(0, self._slots)
