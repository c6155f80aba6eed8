"""Queries, keys and values of a flat batch, and their turning by position."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from textgym.models.compiled.layers import knows, split_heads


@dataclass
class Rotation:
    """Rotary positions (RoPE, arXiv 2104.09864) of M tokens.

    Coordinate i of a head is paired with i + r / 2; those from r on are left alone.

    Attributes:
        cosines: [M, r / 2] float32, of each position's angles.
        sines: [M, r / 2] float32.
    """

    cosines: Tensor
    sines: Tensor

    @classmethod
    def of(cls, positions: Tensor, frequencies: Tensor) -> Rotation:
        """Returns tables [..., r / 2] for positions [...], of [r / 2] angles a place."""
        angles = positions.unsqueeze(-1).float() * frequencies.float()
        return cls(angles.cos(), angles.sin())

    def turn(self, heads: Tensor) -> Tensor:
        """Returns heads [M, n, width], turned, in their own type."""
        cosines, sines = self._whole
        width = cosines.shape[-1]
        turned = heads[..., :width]
        # A coordinate's partner is half a turn of the row away.
        turned = torch.addcmul(turned * cosines, turned.roll(width // 2, dims=-1), sines)
        if width < heads.shape[-1]:
            turned = torch.cat([turned, heads[..., width:]], dim=-1)
        return turned.to(heads.dtype)

    @cached_property
    def _whole(self) -> tuple[Tensor, Tensor]:
        """[M, 1, r] both, the first half of the sines negated."""
        cosines, sines = self.cosines, self.sines
        both = torch.cat([cosines, cosines], -1), torch.cat([-sines, sines], -1)
        return both[0].unsqueeze(1), both[1].unsqueeze(1)


@dataclass
class Heads:
    """Queries, keys and values of M tokens, as their product leaves them.

    Attributes:
        together: [M, heads + 2 kv_heads, width]: queries, then keys, then values.
        kv_heads: keys, and values, of a token; heads / kv_heads queries share each.
        dtype: what attention is computed in.
        rotation: by which queries and keys are still to be turned; None for not at all.
    """

    together: Tensor
    kv_heads: int
    dtype: torch.dtype
    rotation: Rotation | None = None

    @property
    def heads(self) -> int:
        """Queries of a token."""
        return self.together.shape[1] - 2 * self.kv_heads

    @property
    def width(self) -> int:
        """Coordinates of a head."""
        return self.together.shape[2]

    @property
    def tables(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Cosines and sines of the rotation, or neither."""
        if self.rotation is None:
            return None, None
        return self.rotation.cosines, self.rotation.sines

    def split(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries [M, heads, width], keys and values [M, kv_heads, width], in `dtype`."""
        trained = torch.is_grad_enabled() and self.together.requires_grad
        if self.dtype == torch.float32 and not trained and knows(self.together):
            return split_heads(self.together, self.kv_heads, *self.tables)
        together = self.together.to(self.dtype)
        sizes = [self.heads + self.kv_heads, self.kv_heads]
        turned, values = torch.split(together, sizes, dim=1)
        if self.rotation is not None:
            turned = self.rotation.turn(turned)
        queries, keys = torch.split(turned, [self.heads, self.kv_heads], dim=1)
        return queries, keys, values
