"""The last positions of rows that decode together: of each layer one array, so that a step writes all rows at once.

Writing a position into each row's own buffer would take two operations for each row and layer. So a storage lends
its end: while its row decodes in company, new positions stand in the row's lane, and everything before them stays
where it is. When the row leaves or rests, or a lane is full, the storage takes its lane's positions back into its
own buffers.

N rows, W positions of a lane, K key/value heads, D head width.

Knows nothing about models or requests.
"""

from __future__ import annotations

import mlx.core as mx

from runner.kernels.rows_attention import LANE, Lanes


class Lane:
    """A row's own lane in all layers. used: the positions that stand in it."""

    __slots__ = ("number", "used")

    def __init__(self, number: int) -> None:
        self.number = number
        self.used = 0

    @property
    def is_full(self) -> bool:
        return self.used == LANE

    @property
    def next_place(self) -> int:
        """Where the next position will stand."""
        return self.number * LANE + self.used


class LayerLanes:
    """The lanes of one layer, for `count` rows."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._lanes: Lanes | None = None
        self.mark = mx.array(0)  # what the last step found

    def ready(self, heads: int, kv_heads: int, width: int, value_width: int, dtype: mx.Dtype) -> Lanes:
        """The arrays, made when they are first wanted."""
        if self._lanes is None:
            rows = self._count * LANE
            self._lanes = Lanes(
                mx.zeros((rows, kv_heads, width), dtype),
                mx.zeros((rows, kv_heads, value_width), dtype),
                mx.zeros(self._count * heads, mx.int32),
            )
        return self._lanes

    @property
    def lanes(self) -> Lanes:
        assert self._lanes is not None
        return self._lanes

    def read(self, lane: Lane) -> tuple[mx.array, mx.array]:
        """The positions that stand in a lane, oldest first: keys and values [1,K,used,D]."""
        mx.eval(self.mark)
        first = lane.number * LANE
        keys, values, _ = self.lanes
        return tuple(  # type: ignore[return-value]  # two of them
            array[first : first + lane.used].transpose(1, 0, 2)[None] for array in (keys, values)
        )
