"""Attention over a flat batch in plain PyTorch: tokens are padded, mixed and made flat again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from textgym.models.branches import Branches, Prompts

PIECES = 4
"""Into so many parts of like length responses are cut."""


@dataclass
class Piece:
    """Responses of like length, so that attention over them spends little on padding.

    Attributes:
        prompt_of: [b] int64, each response's prompt.
        slots: [r] int64, where each of their tokens lies in [b * t].
        shape: (b, t).
    """

    prompt_of: Tensor
    slots: Tensor
    shape: tuple[int, int]


def cut(prompt_of: Tensor, lengths: Tensor) -> list[Piece]:
    """Cuts B responses into PIECES of equally many rows where their lengths differ.

    Args:
        prompt_of: [B] int64, each response's prompt.
        lengths: [B] int64, ascending.
    """
    rows = len(lengths)
    uneven = rows >= PIECES * PIECES and bool(lengths[0] < lengths[-1])
    found = []
    for kept, long in zip(
        *(x.tensor_split(PIECES if uneven else 1) for x in (prompt_of, lengths)), strict=True
    ):
        width = int(long[-1]) if len(long) else 0
        if width > 0:
            slots = (torch.arange(width, device=long.device) < long[:, None]).flatten().nonzero()
            found.append(Piece(kept, slots.squeeze(1), (len(kept), width)))
    return found


class PaddedAttention:
    """Prompts see themselves; responses see their prompt and themselves; nobody sees ahead.

    Args:
        branches: how the tokens lie.
        dtype: what attention is computed in.
    """

    def __init__(self, branches: Branches, dtype: torch.dtype) -> None:
        self._prompts = branches.prompts
        pieces = cut(branches.prompt_of, branches.lengths)
        self._sizes = [len(branches.prompts.ids), *(len(piece.slots) for piece in pieces)]
        self._pieces = [(piece, _mask(piece, branches.prompts, dtype)) for piece in pieces]

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Returns [M, heads * width] of queries [M, heads, width] and [M, kv_heads, width]s."""
        groups = queries.shape[1] // keys.shape[1]
        # One split: the gradient of a slice would be as large as what it is cut from.
        of_prompts, *of_pieces = zip(
            *(torch.split(x, self._sizes) for x in (queries, keys, values)), strict=True
        )
        slots, shape = self._prompts.slots, self._prompts.shape
        heard = [pad(x, slots, shape) for x in of_prompts[1:]]
        mixed = [attend_causally(of_prompts[0], heard[0], heard[1], slots, shape)]
        for (piece, mask), (asked, *own) in zip(self._pieces, of_pieces, strict=True):
            slots, shape = piece.slots, piece.shape
            told = [
                torch.cat([x.index_select(0, piece.prompt_of), pad(y, slots, shape)], dim=2)
                for x, y in zip(heard, own, strict=True)
            ]
            keys, values = (repeat(x, groups) for x in told)
            of_piece = functional.scaled_dot_product_attention(
                pad(asked, slots, shape), keys, values, attn_mask=mask
            )
            mixed.append(flatten(of_piece, slots))
        return torch.cat(mixed)


def _mask(piece: Piece, prompts: Prompts, dtype: torch.dtype) -> Tensor:
    """Returns [b, 1, t, P + t] to add to attention scores: 0 or -inf."""
    (rows, own), device = piece.shape, piece.slots.device
    lengths = prompts.lengths[piece.prompt_of]
    seen = torch.arange(prompts.shape[1], device=device) < lengths[:, None, None]
    earlier = torch.ones((own, own), dtype=torch.bool, device=device).tril()
    visible = torch.cat([seen.expand(rows, own, -1), earlier.expand(rows, -1, -1)], dim=2)
    mask = torch.zeros(visible.shape, dtype=dtype, device=device)
    return mask.masked_fill_(~visible, -torch.inf).unsqueeze(1)


def attend_causally(
    queries: Tensor, keys: Tensor, values: Tensor, slots: Tensor, shape: tuple[int, int]
) -> Tensor:
    """Returns [m, heads * width]: every row sees itself and not ahead; padding is on the right.

    Args:
        queries: [m, heads, width].
        keys: [rows, kv_heads, columns, width], padded.
        values: likewise.
        slots: [m] int64, where each token lies in [rows * columns].
        shape: (rows, columns).
    """
    groups = queries.shape[1] // keys.shape[1]
    mixed = functional.scaled_dot_product_attention(
        pad(queries, slots, shape), repeat(keys, groups), repeat(values, groups), is_causal=True
    )
    return flatten(mixed, slots)


def pad(tokens: Tensor, slots: Tensor, shape: tuple[int, int]) -> Tensor:
    """Returns [rows, heads, columns, width] of tokens [m, heads, width]; zeros where none is."""
    if len(slots) < shape[0] * shape[1]:
        room = tokens.new_zeros((shape[0] * shape[1], *tokens.shape[1:]))
        tokens = room.index_copy(0, slots, tokens)
    return tokens.view(*shape, *tokens.shape[1:]).transpose(1, 2)


def flatten(mixed: Tensor, slots: Tensor) -> Tensor:
    """Returns [m, heads * width] of [rows, heads, columns, width]."""
    tokens = mixed.transpose(1, 2).flatten(2).flatten(0, 1)
    return tokens if len(slots) == len(tokens) else tokens.index_select(0, slots)


def repeat(heads: Tensor, groups: int) -> Tensor:
    """Repeats keys or values for the queries that share them."""
    return heads if groups == 1 else heads.repeat_interleave(groups, dim=1)
