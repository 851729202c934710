"""Plain storage: every key and value is kept, in one buffer each that is reserved ahead.

When the room is used up the buffers grow by half, which copies what is there, once.

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

import mlx.core as mx

from runner.cache.base import Mask
from runner.cache.buffer import Buffer
from runner.cache.span import Span

STEP = 256  # rows; capacities are multiples of it


class KVCache:
    """KeyValues over two buffers of which rows [0, offset) are alive."""

    checkpointed = False

    def __init__(self) -> None:
        self.offset = 0
        self._wanted = 0
        self._keys, self._values = Buffer(), Buffer()

    @property
    def nbytes(self) -> int:
        return self._keys.nbytes + self._values.nbytes

    @property
    def capacity(self) -> int:
        """Positions for which there is room."""
        return self._keys.rows

    def attend(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        span: Span,
        *,
        scale: float,
        sinks: mx.array | None = None,
    ) -> mx.array:
        self._write(keys, values, span.length)
        return self.look(queries, span, scale=scale, sinks=sinks)

    def look(self, queries: mx.array, span: Span, *, scale: float, sinks: mx.array | None = None) -> mx.array:
        first, end = self._shown(span.length)
        return mx.fast.scaled_dot_product_attention(
            queries,
            self._keys.read(first, end),
            self._values.read(first, end),
            scale=scale,
            mask=self._mask(span, end - first),
            sinks=sinks,
        )

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
        return self._keys.arrays() + self._values.arrays()

    def _write(self, keys: mx.array, values: mx.array, length: int) -> None:
        start, end = self.offset, self.offset + length
        if end > self._keys.rows:
            rows = roomy(end, self._wanted, self._keys.rows)
            self._keys.resize(rows, keys, slice(start))
            self._values.resize(rows, values, slice(start))
        self._keys.write(start, end, keys)
        self._values.write(start, end, values)
        self.offset = end

    def _shown(self, length: int) -> tuple[int, int]:
        """The rows that the last `length` queries see together: [first, end)."""
        return 0, self.offset

    def _mask(self, span: Span, shown: int) -> Mask:
        # "causal" aligns the last query with the last key, so it is right behind a prefix too.
        return "causal" if span.length > 1 else None


def roomy(needed: int, wanted: int, capacity: int) -> int:
    """How many rows to make room for: what is needed or was announced, at least half more than there are."""
    rows = max(needed, wanted, capacity + capacity // 2)
    return -(-rows // STEP) * STEP
