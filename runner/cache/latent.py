"""Storage for latent attention: one vector a position, which stands for the keys and the values of all heads.

Z+R is the width of a row: the latent and the rotated key that all heads share.

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

from collections.abc import Iterable

import mlx.core as mx

from runner.cache.buffer import Buffer
from runner.cache.kv import roomy
from runner.cache.need import Need
from runner.cache.saved import Saved, blocks, cut
from runner.cache.span import Span
from runner.kernels import choice
from runner.kernels.attention import Mask


class LatentCache:
    """A Storage over one buffer of which rows [0, offset) are alive.

    A layer writes its span first; then it asks for what is kept, in one of two ways.
    """

    leeway = None
    kept_bytes = 0

    def __init__(self) -> None:
        self.offset = 0
        self._wanted = 0
        self._rows = Buffer()
        self._attention = choice.attention()

    @property
    def nbytes(self) -> int:
        return self._rows.nbytes

    def write(self, new: mx.array) -> None:
        """Remember the span's rows [B,1,L,Z+R]."""
        start, end = self.offset, self.offset + new.shape[2]
        if end > self._rows.rows:
            self._rows.resize(roomy(end, self._wanted, self._rows.rows), new, slice(start))
        self._rows.write(start, end, new)
        self.offset = end

    def look(self, queries: mx.array, span: Span, *, scale: float) -> mx.array:
        """What queries [B,H,L,Z+R] find where a row is key and value at once, [B,H,L,Z+R]. A decoding step may give
        its heads as positions, [B,1,H,Z+R], since each of them sees all rows.
        """
        rows = self.kept()
        return self._attention(queries, rows, rows, scale=scale, mask=self.mask(span))

    def kept(self) -> mx.array:
        """All rows [B,1,S,Z+R], oldest first."""
        return self._rows.read(0, self.offset)

    def mask(self, span: Span) -> Mask:
        """Which rows each query of the span sees."""
        return "causal" if span.length > 1 else None

    def rewind(self, to: int) -> bool:
        if not 0 <= to <= self.offset:
            return False
        self.offset = to
        return True

    def restorable(self, to: int) -> int:
        return min(to, self.offset)

    def checkpoint(self) -> list[mx.array]:
        """Every position is one."""
        return []

    def keep(self, checkpoints: Iterable[int]) -> None:
        """All of them are kept."""

    def reserve(self, total: int) -> None:
        self._wanted = total

    def arrays(self) -> list[mx.array]:
        return self._rows.arrays()

    def need(self) -> Need:
        return Need(row=self.nbytes // max(1, self._rows.rows))

    def save(self) -> dict[str, mx.array]:
        return cut("rows", self.kept(), 0) if self.offset else {}

    def restore(self, saved: Saved, to: int) -> None:
        self._wanted = max(self._wanted, to)
        for start, (rows,) in blocks(saved, ("rows",), to):
            if start != self.offset:
                raise ValueError(f"rows begin at {start}, expected {self.offset}")
            self.write(rows)
