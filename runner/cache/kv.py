"""Plain storage: every key and value is kept, in one buffer each that is reserved ahead.

A slice assignment into a buffer that nobody else holds happens in place, so a step writes L rows and moves no
others. When the room is used up the buffer grows by half, which copies what is there, once.

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

import mlx.core as mx

from runner.cache.base import Mask

STEP = 256  # rows; capacities are multiples of it


class KVCache:
    """A LayerCache over two buffers [B,H,capacity,D] of which rows [0, offset) are alive."""

    checkpointed = False

    def __init__(self) -> None:
        self.offset = 0
        self._wanted = 0
        self._keys: mx.array | None = None
        self._values: mx.array | None = None

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in self.arrays())

    @property
    def capacity(self) -> int:
        return 0 if self._keys is None else self._keys.shape[2]

    def update(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        start, end = self.offset, self.offset + keys.shape[2]
        if self._keys is None or self._values is None or end > self.capacity:
            rows = self._room_for(end)
            self._keys = _grown(self._keys, start, rows, keys)
            self._values = _grown(self._values, start, rows, values)
        self._keys[..., start:end, :] = keys
        self._values[..., start:end, :] = values
        self.offset = end
        return self._keys[..., :end, :], self._values[..., :end, :]

    def mask(self, length: int) -> Mask:
        # "causal" aligns the last query with the last key, so it is right behind a prefix too.
        return "causal" if length > 1 else None

    def rewind(self, to: int) -> bool:
        if not 0 <= to <= self.offset:
            return False
        self.offset = to
        return True

    def restorable(self, to: int) -> int:
        return min(to, self.offset)

    def checkpoint(self) -> None:
        """Every position is one."""

    def reserve(self, total: int) -> None:
        self._wanted = total

    def arrays(self) -> list[mx.array]:
        return [a for a in (self._keys, self._values) if a is not None]

    def _room_for(self, end: int) -> int:
        rows = max(end, self._wanted, self.capacity + self.capacity // 2)
        return -(-rows // STEP) * STEP


def _grown(old: mx.array | None, used: int, rows: int, like: mx.array) -> mx.array:
    """A buffer of `rows` rows whose first `used` are those of `old`."""
    batch, heads, _, width = like.shape
    if old is None or used == 0:
        return mx.zeros((batch, heads, rows, width), like.dtype)
    room = mx.zeros((batch, heads, rows - used, width), like.dtype)
    return mx.concatenate([old[..., :used, :], room], axis=2)
