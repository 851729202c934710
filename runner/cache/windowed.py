"""Plain storage for a layer whose attention reaches back only `window` positions.

A query at position i sees the keys j with i - window < j <= i. Every position is kept, so any rewind is exact; what
is out of every query's reach is not handed out, so attention costs no more than the window. A decoding step then
needs no mask at all, and a chunk that fits into the first window only the causal one.

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

import mlx.core as mx

from runner.cache.base import Mask
from runner.cache.kv import KVCache


class WindowedKVCache(KVCache):
    """A LayerCache that shows the last min(offset, window - 1 + L) positions to the L queries that came last."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def update(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        length = keys.shape[2]
        all_keys, all_values = super().update(keys, values)
        hidden = self.offset - self._reach(length, self.offset)
        if hidden == 0:
            return all_keys, all_values
        return all_keys[..., hidden:, :], all_values[..., hidden:, :]  # [B,H,S,D]

    def mask(self, length: int) -> Mask:
        end = self.offset + length
        if length == 1 or end <= self.window:
            return super().mask(length)
        kept = self._reach(length, end)
        queries = mx.arange(kept - length, kept)[:, None]  # [L,1], counted from the oldest position shown
        keys = mx.arange(kept)[None]  # [1,S]
        return (keys <= queries) & (keys > queries - self.window)  # [L,S]

    def _reach(self, length: int, end: int) -> int:
        """How many positions before `end` the last `length` queries can see, all together."""
        return min(end, self.window - 1 + length)
