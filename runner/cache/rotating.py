"""Bounded storage for a layer whose attention reaches back only `window` positions.

Rows hold the positions [start, offset), oldest first, in buffers of about two windows. When they are full, the rows
that are still needed move to the front of new ones, so a step copies a few rows on average and what attention sees
is one slice in order, as in `windowed.py`, whose masks are right here too. (A ring of exactly one window would save
the other half, but every chunk would have to be put in order first, and no rewind could ever be exact.)

A query at position i needs [i - window + 1, i], so after `rewind(to)` the last window - 1 positions before `to`
count; the answer is False if one of them is gone. What moves is more than attention needs, by half a window: so far
back from the furthest position ever written, and often further, a rewind is always possible.

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

import mlx.core as mx

from runner.cache.windowed import WindowedKVCache


class RotatingKVCache(WindowedKVCache):
    """A WindowedKVCache that forgets; its capacity is at most 2 * window + the longest chunk."""

    def __init__(self, window: int) -> None:
        super().__init__(window)
        # Rows kept beyond the window, and rows to write before the next move.
        self._spare = max(1, window // 2)

    def rewind(self, to: int) -> bool:
        if not 0 <= to <= self._held or self.restorable(to) != to:
            return False
        self._start = min(self._start, to)  # where nothing is needed, nothing needs to be left
        self._held = to
        return True

    def restorable(self, to: int) -> int:
        to = min(to, self._held)
        needed = min(to, self.window - 1)
        # If what `to` needs is gone, so is what any position before it needs; only 0 needs nothing.
        return 0 if needed and to - needed < self._start else to

    def reserve(self, total: int) -> None:
        """The room is the same for every total."""

    def _write(self, keys: mx.array, values: mx.array, length: int) -> None:
        if self._used + length > self._keys.rows:
            self._move(length, keys, values)
        start, end = self._used, self._used + length
        self._keys.write(start, end, keys)
        self._values.write(start, end, values)
        self._held += length

    def _move(self, length: int, keys: mx.array, values: mx.array) -> None:
        """Take new buffers that begin with the rows that are still needed and have room for `length` more."""
        used = self._used
        kept = min(used, self.window - 1 + self._spare)
        rows = kept + length + self._spare
        self._keys.resize(rows, keys, slice(used - kept, used))
        self._values.resize(rows, values, slice(used - kept, used))
        self._start = self._held - kept

    def _shown(self, length: int) -> tuple[int, int]:
        return self._used - self._reach(length), self._used

    @property
    def _used(self) -> int:
        return self._held - self._start
