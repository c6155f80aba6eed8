"""Prompts and their responses as one flat batch without padding, each distinct prompt read once.

Scoring and training spend nothing on padding, nor on reading a prompt again for every sample: K
responses are branches of one prompt. The states of a prompt's tokens do not depend on what follows,
so this is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from textgym.models.attention import PaddedAttention, attend_causally, pad
from textgym.models.compiled.attention import Layout, attends, branch_attention, lay_out
from textgym.models.decoder import Decoder, run
from textgym.models.heads import Heads


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
class Branches:
    """N distinct prompts and B responses to them; M tokens in all, the prompts' first.

    Attributes:
        prompts: the distinct prompts.
        prompt_of: [B] int64, each response's prompt; the responses are in order of length.
        lengths: [B] int64, their tokens that are read, ascending.
        ids: [M] int64.
        positions: [M] int64, places within prompt and response together.
        before: [R] int64, where the state before each response token is, row by row, among the
            states of the prompts' last tokens and of the responses'.
        read: [R'] int64, where the state of each response token that is read is, likewise.
    """

    prompts: Prompts
    prompt_of: Tensor
    lengths: Tensor
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
        prompt_of=prompt_of[order],
        lengths=lengths,
        ids=torch.cat([prompts.ids, response_ids[rows, columns]]),
        positions=torch.cat([prompts.positions, prompts.lengths[prompt_of[rows]] + columns]),
        before=torch.cat([prompt_of[:, None], index], dim=1)[:, :-1][response_mask],
        read=index[:, : heard.shape[1]][heard],
    )


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

    def __call__(self, layer: int, heads: Heads) -> Tensor:
        """Returns [m, heads * width]."""
        queries, keys, values = heads.split()
        slots, shape = self._prompts.slots, self._prompts.shape
        told = pad(keys, slots, shape), pad(values, slots, shape)
        self.kept.append(told)
        if attends(heads):
            return branch_attention(heads, self._layout)
        return attend_causally(queries, *told, slots, shape)

    @cached_property
    def _layout(self) -> Layout:
        nothing = self._prompts.lengths[:0]
        return lay_out(self._prompts.lengths, nothing, nothing)


class _BranchAttention:
    """Prompts see themselves; responses see their prompt and themselves; nobody sees ahead."""

    def __init__(self, branches: Branches, dtype: torch.dtype) -> None:
        self._branches = branches
        self._dtype = dtype

    def __call__(self, layer: int, heads: Heads) -> Tensor:
        """Returns [M, heads * width]."""
        if attends(heads):
            return branch_attention(heads, self._layout)
        return self._padded(*heads.split())

    @cached_property
    def _layout(self) -> Layout:
        branches = self._branches
        return lay_out(branches.prompts.lengths, branches.prompt_of, branches.lengths)

    @cached_property
    def _padded(self) -> PaddedAttention:
        return PaddedAttention(self._branches, self._dtype)


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
