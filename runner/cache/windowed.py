"""Plain storage for a layer whose attention reaches back only `window` positions.

A query at position i sees the keys j with i - window < j <= i. Every position is kept, so any rewind is exact; what
is out of every query's reach is not looked at, so attention costs no more than the window. A decoding step then
needs no mask at all, and a chunk that fits into the first window only the causal one.

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

from runner.cache.kv import KVCache
from runner.cache.span import Span
from runner.kernels.attention import Mask


class WindowedKVCache(KVCache):
    """KeyValues that show the last min(offset, window - 1 + L) positions to the L queries that came last."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window: int = window

    def _shown(self, length: int) -> tuple[int, int]:
        return self._held - self._reach(length), self._held

    def _mask(self, span: Span, shown: int) -> Mask:
        if span.length == 1 or self._held <= self.window:
            return super()._mask(span, shown)
        return span.window_mask(self.window, shown)

    def _reach(self, length: int) -> int:
        """How many of the positions written the last `length` queries can see, all together."""
        return min(self._held, self.window - 1 + length)
