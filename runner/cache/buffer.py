"""A buffer of rows that are written once and read as one slice.

A slice assignment into an array that nobody else holds happens in place, so writing L rows moves no others.

B rows of a batch, H heads, R rows of the buffer, D width.

Knows nothing about positions: rows are counted from the buffer's beginning.
"""

from __future__ import annotations

import mlx.core as mx


class Buffer:
    """[B,H,R,D], empty at first; it takes its shape and type from what is written first."""

    def __init__(self) -> None:
        self._array: mx.array | None = None
        self.rows = 0  # R; an array's shape is slow to ask for, and every write of every layer asks

    @property
    def nbytes(self) -> int:
        return 0 if self._array is None else self._array.nbytes

    def resize(self, rows: int, like: mx.array, kept: slice = slice(0)) -> None:
        """Take room for `rows` rows of `like`'s kind, of which the first are the `kept` ones of now."""
        batch, heads, _, width = like.shape
        count = len(range(self.rows)[kept])
        room = mx.zeros((batch, heads, rows - count, width), like.dtype)
        if self._array is None or count == 0:
            self._array = room
        else:
            self._array = mx.concatenate([self._array[..., kept, :], room], axis=2)
        self.rows = rows

    def write(self, start: int, end: int, new: mx.array) -> None:
        """Rows [start, end) become `new` [B,H,end-start,D]."""
        assert self._array is not None
        self._array[..., start:end, :] = new

    def read(self, start: int, end: int) -> mx.array:
        """Rows [start, end), [B,H,end-start,D]; to be used in this forward and not kept, or a write would copy."""
        assert self._array is not None
        return self._array[..., start:end, :]

    @property
    def whole(self) -> mx.array:
        """All rows, [B,H,R,D]; the same holds for it."""
        assert self._array is not None
        return self._array

    def arrays(self) -> list[mx.array]:
        return [] if self._array is None else [self._array]
