"""Plain storage: every key and value is kept, in one buffer each that is reserved ahead. Whether that is as it was
computed or quantized is the affair of its `Keeping`.

When the room is used up the buffers grow by half, which copies what is there, once. While the row decodes in
company, its last positions stand in a lane (`lanes.py`).

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

from collections.abc import Iterable

import mlx.core as mx

from runner.cache.buffer import Buffer
from runner.cache.keeping import AsComputed, Keeping, Quantized
from runner.cache.lanes import Lane, LayerLanes
from runner.cache.need import Need, in_steps
from runner.cache.saved import Saved, blocks, cut
from runner.cache.span import Span
from runner.kernels.attention import Mask
from runner.kernels.quantized_rows import is_quantized
from runner.kernels.rows_attention import Own


class KVCache:
    """KeyValues over two buffers of which rows [0, held) are alive."""

    window: int | None = None  # how far back a query sees, itself included; None: to the beginning

    def __init__(self) -> None:
        self._held = 0  # positions that do not stand in a lane
        self._wanted = 0
        self._start = 0  # the position in row 0
        self._keys, self._values = Buffer(), Buffer()
        self._keeping: Keeping = AsComputed()
        self._lane: Lane | None = None
        self._lanes: LayerLanes | None = None

    @property
    def offset(self) -> int:
        return self._held if self._lane is None else self._held + self._lane.used

    @property
    def nbytes(self) -> int:
        return self._keys.nbytes + self._values.nbytes

    @property
    def kept_bytes(self) -> int:
        return 0

    @property
    def leeway(self) -> int | None:
        return None

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
        self._write(*self._keeping.kept(keys, values), span.length)
        return self.look(queries, span, scale=scale, sinks=sinks)

    def look(self, queries: mx.array, span: Span, *, scale: float, sinks: mx.array | None = None) -> mx.array:
        first, end = self._shown(span.length)
        return self._keeping.attention(
            queries,
            self._keys.read(first, end),
            self._values.read(first, end),
            scale=scale,
            mask=self._mask(span, end - first),
            sinks=sinks,
        )

    def quantize(self, bits: int) -> None:
        self._keeping = Quantized(bits)

    @property
    def is_quantized(self) -> bool:
        return any(map(is_quantized, self.arrays()))

    def own(self) -> Own:
        return Own(self._keys.whole, self._values.whole, self._start, self._held)

    def lend(self, lane: Lane, lanes: LayerLanes) -> None:
        self._lane, self._lanes = lane, lanes

    def settle(self) -> None:
        lane, lanes = self._lane, self._lanes
        self._lane = self._lanes = None
        if lane is not None and lanes is not None and lane.used:
            self._write(*lanes.read(lane), lane.used)

    def rewind(self, to: int) -> bool:
        if not 0 <= to <= self._held:
            return False
        self._held = to
        return True

    def restorable(self, to: int) -> int:
        return min(to, self._held)

    def checkpoint(self) -> list[mx.array]:
        """Every position is one."""
        return []

    def keep(self, checkpoints: Iterable[int]) -> None:
        """All of them are kept."""

    def reserve(self, total: int) -> None:
        self._wanted = total

    def arrays(self) -> list[mx.array]:
        return self._keys.arrays() + self._values.arrays()

    def need(self) -> Need:
        return Need(row=self.nbytes // max(1, self.capacity))

    def save(self) -> dict[str, mx.array]:
        used = self._held - self._start
        if not used:
            return {}
        keys, values = self._keys.read(0, used), self._values.read(0, used)
        return cut("keys", keys, self._start) | cut("values", values, self._start)

    def restore(self, saved: Saved, to: int) -> None:
        self._wanted = max(self._wanted, to)
        for start, (keys, values) in blocks(saved, ("keys", "values"), to):
            if start != self._held:
                raise ValueError(f"keys begin at {start}, expected {self._held}")
            self._write(keys, values, keys.shape[2])

    def _write(self, keys: mx.array, values: mx.array, length: int) -> None:
        start, end = self._held, self._held + length
        if end > self._keys.rows:
            rows = roomy(end, self._wanted, self._keys.rows)
            self._keys.resize(rows, keys, slice(start))
            self._values.resize(rows, values, slice(start))
        self._keys.write(start, end, keys)
        self._values.write(start, end, values)
        self._held = end

    def _shown(self, length: int) -> tuple[int, int]:
        """The rows that the last `length` queries see together: [first, end)."""
        return 0, self._held

    def _mask(self, span: Span, shown: int) -> Mask:
        # "causal" aligns the last query with the last key, so it is right behind a prefix too.
        return "causal" if span.length > 1 else None


def roomy(needed: int, wanted: int, capacity: int) -> int:
    """How many rows to make room for: what was announced; where that is too little, half more than there are."""
    return in_steps(wanted if wanted >= needed else max(needed, capacity + capacity // 2))
