"""Left-padded contexts that grow by one token per step, without moving what they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Observation = dict[str, Any]
"""Arrays `input_ids` int64 and `attention_mask` int8 (1 on tokens, 0 on padding)."""


class ContextWindow:
    """B contexts of C tokens, all ending in the same column of a buffer twice as wide.

    A step writes one column and moves the window right by one, so that its cost does not grow with
    C; once every C steps the window moves back to the left edge. Observations are copies.

    Args:
        rows: B.
        length: C, tokens.
        pad_id: the token to the left of each context.
    """

    def __init__(self, rows: int, length: int, pad_id: int) -> None:
        self._length = length
        self._pad_id = pad_id
        self._ids = np.full((rows, 2 * length), pad_id, dtype=np.int64)
        # Right of the window the mask is always 1: whatever is pushed there is a token.
        self._mask = np.ones((rows, 2 * length), dtype=np.int8)
        self._mask[:, :length] = 0
        self._end = length

    def place(self, row: int, ids: NDArray[np.int64]) -> None:
        """Makes `ids` ([n] with n <= C) the whole content of a row."""
        start, middle, end = self._end - self._length, self._end - len(ids), self._end
        self._ids[row, start:middle] = self._pad_id
        self._ids[row, middle:end] = ids
        self._mask[row, start:middle] = 0
        self._mask[row, middle:end] = 1

    def push(self, tokens: NDArray[np.int64] | int) -> None:
        """Appends one token to every row ([B] int64, or one int for all)."""
        if self._end == 2 * self._length:
            self._ids[:, : self._length] = self._ids[:, self._length :]
            self._mask[:, : self._length] = self._mask[:, self._length :]
            self._mask[:, self._length :] = 1
            self._end = self._length
        self._ids[:, self._end] = tokens
        self._end += 1

    def last(self, row: int, count: int) -> NDArray[np.int64]:
        """Returns a copy of the last `count` tokens of a row."""
        return self._ids[row, self._end - count : self._end].copy()

    def row(self, row: int) -> Observation:
        """Returns a copy of one row: arrays of shape [C]."""
        start, end = self._end - self._length, self._end
        return {
            "input_ids": self._ids[row, start:end].copy(),
            "attention_mask": self._mask[row, start:end].copy(),
        }

    def rows(self) -> Observation:
        """Returns a copy of every row: arrays of shape [B, C]."""
        start, end = self._end - self._length, self._end
        return {
            "input_ids": self._ids[:, start:end].copy(),
            "attention_mask": self._mask[:, start:end].copy(),
        }
