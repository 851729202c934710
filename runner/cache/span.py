"""A span: the positions of one forward.

A row is one sequence. Every row is fed the same number of new positions, behind however many it has already. Layers
hand the span on; rotary positions ask where it starts, storages how long it is. What many layers need and only the
span decides, such as a mask, is made once and kept here.

    B rows        L new positions of each row

Knows nothing about tokens, layers or storages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import mlx.core as mx

Kept = TypeVar("Kept")


class Span:
    """Positions [offset, offset + length) of one row, or of each of several `rows`, whose offsets differ."""

    def __init__(self, offset: int, length: int, rows: Sequence[Span] = ()) -> None:
        """rows: the spans of several rows, each as long as this one, and `offset` the largest of theirs."""
        self.offset = offset
        self.length = length
        self._rows = rows
        self._window_masks: dict[tuple[int, int], mx.array] = {}
        self._kept: dict[object, Any] = {}

    @classmethod
    def together(cls, rows: Sequence[Span]) -> Span:
        """One span of several rows of the same length."""
        return cls(max(row.offset for row in rows), rows[0].length, rows)

    @classmethod
    def scattered(cls, offsets: Sequence[int]) -> Span:
        """One position of each of several rows."""
        span = cls(max(offsets), 1)
        span.starts = mx.array(list(offsets), mx.int32)
        return span

    @property
    def rows(self) -> Sequence[Span]:
        """Of each row; this one, if there is one row. (Kept, it would be a circle that holds arrays.)"""
        return self._rows or (self,)

    @cached_property
    def starts(self) -> mx.array:
        """`offset` as an int32 scalar, or those of the rows [B]: as an array made once a forward it saves each
        rotation making its own.
        """
        offsets = [row.offset for row in self.rows]
        return mx.array(offsets[0] if len(offsets) == 1 else offsets, mx.int32)

    def once(self, key: object, make: Callable[[], Kept]) -> Kept:
        """What `make` makes, made at the first call with this key."""
        kept: Kept | None = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = make()
        return kept

    def window_mask(self, window: int, shown: int) -> mx.array:
        """Which of the last `shown` positions each query sees, [L,shown]: itself and the window - 1 before it."""
        known = self._window_masks.get((window, shown))
        if known is None:
            queries = mx.arange(shown - self.length, shown)[
                :, None
            ]  # [L,1], counted from the oldest position shown
            keys = mx.arange(shown)[None]  # [1,S]
            known = (keys <= queries) & (keys > queries - window)
            self._window_masks[window, shown] = known
        return known
