"""Prompts and their responses as one flat batch without padding, each distinct prompt read once.

Scoring and training spend nothing on padding, nor on reading a prompt again for every sample: K
responses are branches of one prompt. The states of a prompt's tokens do not depend on what follows,
so this is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from textgym.models.decoder import Decoder, run

PIECES = 4
"""Into so many parts of like length responses are cut for attention."""


@dataclass
class Prompts:
    """N prompts without padding, one after the other; m tokens in all.

    Attributes:
        ids: [m] int64.
        positions: [m] int64, places within the prompt.
        slots: [m] int64, where each token lies in [N * P], padded on the right.
        shape: (N, P).
        lengths: [N] int64, tokens.
        ends: [N] int64, where each prompt's last token is in `ids`.
    """

    ids: Tensor
    positions: Tensor
    slots: Tensor
    shape: tuple[int, int]
    lengths: Tensor
    ends: Tensor


def lay_out_prompts(ids: Tensor, mask: Tensor) -> Prompts:
    """Lays prompts out, each of at least one token.

    Args:
        ids: [N, P] int64, padded on either side.
        mask: [N, P] bool.
    """
    lengths = mask.sum(1)
    rows, columns = mask.nonzero(as_tuple=True)
    places = (mask.long().cumsum(1) - 1)[rows, columns]
    width = int(lengths.max()) if len(lengths) else 0
    return Prompts(
        ids=ids[rows, columns],
        positions=places,
        slots=rows * width + places,
        shape=(len(ids), width),
        lengths=lengths,
        ends=lengths.cumsum(0) - 1,
    )


@dataclass
class Piece:
    """Responses of like length, so that attention over them spends little on padding.

    Attributes:
        prompt_of: [b] int64, each response's prompt.
        tokens: where their tokens are among the responses' tokens.
        slots: [r] int64, where each of those lies in [b * t].
        shape: (b, t).
    """

    prompt_of: Tensor
    tokens: slice
    slots: Tensor
    shape: tuple[int, int]


@dataclass
class Branches:
    """N distinct prompts and B responses to them; M tokens in all, the prompts' first.

    Attributes:
        prompts: the distinct prompts.
        pieces: the responses, shortest first.
        ids: [M] int64.
        positions: [M] int64, places within prompt and response together.
        before: [R] int64, where the state before each response token is, row by row, among the
            states of the prompts' last tokens and of the responses'.
        read: [R'] int64, where the state of each response token that is read is, likewise.
    """

    prompts: Prompts
    pieces: list[Piece]
    ids: Tensor
    positions: Tensor
    before: Tensor
    read: Tensor


def branch(
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    response_ids: Tensor,
    response_mask: Tensor,
    *,
    whole: bool = False,
) -> Branches:
    """Lays prompts and responses out.

    Args:
        prompt_ids: [B, P] int64, padded on either side; at least one token a row.
        prompt_mask: [B, P] bool.
        response_ids: [B, T] int64, right-padded.
        response_mask: [B, T] bool.
        whole: read the responses to their end; else their last token is predicted, never read.
    """
    distinct, prompt_of = distinct_rows(prompt_ids, prompt_mask)
    prompts = lay_out_prompts(distinct, distinct >= 0)
    heard = response_mask if whole else response_mask[:, 1:]
    lengths, order = heard.sum(1).sort(stable=True)
    ranks, columns = heard[order].nonzero(as_tuple=True)
    rows = order[ranks]
    index = torch.zeros_like(response_ids)
    index[rows, columns] = torch.arange(len(rows), device=index.device) + len(distinct)
    return Branches(
        prompts=prompts,
        pieces=_pieces(prompt_of[order], lengths, ranks, columns),
        ids=torch.cat([prompts.ids, response_ids[rows, columns]]),
        positions=torch.cat([prompts.positions, prompts.lengths[prompt_of[rows]] + columns]),
        before=torch.cat([prompt_of[:, None], index], dim=1)[:, :-1][response_mask],
        read=index[:, : heard.shape[1]][heard],
    )


def _pieces(prompt_of: Tensor, lengths: Tensor, ranks: Tensor, columns: Tensor) -> list[Piece]:
    """Cuts responses, sorted by length, into PIECES of equally many rows where they differ."""
    rows = len(lengths)
    uneven = rows >= PIECES * PIECES and bool(lengths[0] < lengths[-1])
    ends = lengths.cumsum(0)
    found = []
    for part in torch.arange(rows).tensor_split(PIECES if uneven else 1):
        first, last = int(part[0]), int(part[-1])
        tokens = slice(int(ends[first] - lengths[first]), int(ends[last]))
        if tokens.start == tokens.stop:
            continue
        width = int(lengths[last])
        slots = (ranks[tokens] - first) * width + columns[tokens]
        kept = prompt_of[first : last + 1]
        found.append(Piece(kept, tokens, slots, (len(kept), width)))
    return found


def distinct_rows(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the distinct rows of padded tokens, in order of appearance, and each row's index.

    Args:
        ids: [B, P] int64; what the padding holds does not matter.
        mask: [B, P] bool.

    Returns:
        [N, P] int64 with -1 for padding, and [B] int64.
    """
    marked = ids.masked_fill(~mask, -1)
    found, index = torch.unique(marked, dim=0, return_inverse=True)
    first = torch.full((len(found),), len(ids), device=ids.device)
    first = first.scatter_reduce(0, index, torch.arange(len(ids), device=ids.device), "amin")
    order = first.argsort()
    return found[order], order.argsort()[index]


class PromptAttention:
    """Every prompt sees itself, no token sees ahead. Right padding is out of every token's sight.

    Attributes:
        kept: each layer's keys and values [N, kv_heads, P, width].
    """

    def __init__(self, prompts: Prompts) -> None:
        self._prompts = prompts
        self.kept: list[tuple[Tensor, Tensor]] = []

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Returns [m, heads * width]."""
        slots, shape = self._prompts.slots, self._prompts.shape
        groups = queries.shape[1] // keys.shape[1]
        told = _padded(keys, slots, shape), _padded(values, slots, shape)
        self.kept.append(told)
        mixed = functional.scaled_dot_product_attention(
            _padded(queries, slots, shape),
            _repeated(told[0], groups),
            _repeated(told[1], groups),
            is_causal=True,
        )
        return _flat(mixed, slots)


class _BranchAttention:
    """Prompts see themselves; responses see their prompt and themselves; nobody sees ahead."""

    def __init__(self, branches: Branches, dtype: torch.dtype) -> None:
        self._prompts = PromptAttention(branches.prompts)
        self._sizes = [len(branches.prompts.ids), *(len(p.slots) for p in branches.pieces)]
        self._pieces = [(piece, _mask(piece, branches.prompts, dtype)) for piece in branches.pieces]

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Returns [M, heads * width]."""
        groups = queries.shape[1] // keys.shape[1]
        # One split: the gradient of a slice would be as large as what it is cut from.
        of_prompts, *of_pieces = zip(
            *(torch.split(x, self._sizes) for x in (queries, keys, values)), strict=True
        )
        mixed = [self._prompts(layer, *of_prompts)]
        for (piece, mask), (asked, *own) in zip(self._pieces, of_pieces, strict=True):
            told = [
                torch.cat(
                    [
                        kept.index_select(0, piece.prompt_of),
                        _padded(tokens, piece.slots, piece.shape),
                    ],
                    dim=2,
                )
                for kept, tokens in zip(self._prompts.kept[-1], own, strict=True)
            ]
            of_piece = functional.scaled_dot_product_attention(
                _padded(asked, piece.slots, piece.shape),
                _repeated(told[0], groups),
                _repeated(told[1], groups),
                attn_mask=mask,
            )
            mixed.append(_flat(of_piece, piece.slots))
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


def _padded(tokens: Tensor, slots: Tensor, shape: tuple[int, int]) -> Tensor:
    """Returns [rows, heads, columns, width] of tokens [m, heads, width]; zeros where none is."""
    if len(slots) < shape[0] * shape[1]:
        room = tokens.new_zeros((shape[0] * shape[1], *tokens.shape[1:]))
        tokens = room.index_copy(0, slots, tokens)
    return tokens.view(*shape, *tokens.shape[1:]).transpose(1, 2)


def _flat(mixed: Tensor, slots: Tensor) -> Tensor:
    """Returns [m, heads * width] of [rows, heads, columns, width]."""
    tokens = mixed.transpose(1, 2).flatten(2).flatten(0, 1)
    return tokens if len(slots) == len(tokens) else tokens.index_select(0, slots)


def _repeated(heads: Tensor, groups: int) -> Tensor:
    """Repeats keys or values for the queries that share them."""
    return heads if groups == 1 else heads.repeat_interleave(groups, dim=1)


def states_before(decoder: Decoder, branches: Branches) -> Tensor:
    """Returns [R, D]: the state before each of the R response tokens, row by row."""
    return _states(decoder, branches).index_select(0, branches.before)


def states_of(decoder: Decoder, branches: Branches) -> Tensor:
    """Returns [R', D]: the state of each response token that is read, row by row."""
    return _states(decoder, branches).index_select(0, branches.read)


def _states(decoder: Decoder, branches: Branches) -> Tensor:
    """Returns [N + R', D]: last hidden states of the prompts' last tokens, then the responses'."""
    attend = _BranchAttention(branches, decoder.mixing)
    heard = torch.arange(len(branches.prompts.ids), len(branches.ids), device=branches.ids.device)
    wanted = torch.cat([branches.prompts.ends, heard])
    return run(decoder, branches.ids, branches.positions, attend, wanted)
