"""Attention of several rows in one operation: new positions stand in lanes (`lanes.py`), and a kernel attends for
all rows.

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from runner.cache.lanes import Lane, LayerLanes
from runner.cache.span import Span
from runner.kernels.rows_attention import LANE, Heads, Joint, Query, RowsAttention


class Steps:
    """How far some rows are in their lanes; all layers ask.

    What differs from step to step is a number, not an array: a GPU would have to fetch one from the host.
    """

    def __init__(self, lanes: Sequence[Lane], size: int, nobodys: int) -> None:
        """size: of the batch, which may be more than the rows have. nobodys: the lane that those write into."""
        self._lanes = lanes
        self.size = size
        # Of each row of the batch, where in the lanes its next position stands.
        self.places = [lane.next_place for lane in lanes] + [nobodys * LANE] * (size - len(lanes))
        self.step = -1  # how many there were before the present one
        self.longest = 0  # positions of the longest row, the new one included

    def advance(self, span: Span) -> None:
        for lane in self._lanes:
            lane.used += 1
        self.step += 1
        self.longest = span.offset + 1


class RowsAtOnce:
    """The storages of one layer: Attending, in one operation."""

    def __init__(self, attention: RowsAttention, lanes: LayerLanes, steps: Steps) -> None:
        self._attention = attention
        self._lanes = lanes
        self._steps = steps

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
        heads, widths = queries.shape[1], (keys.shape[-1], values.shape[-1])
        lanes = self._lanes.ready(heads, keys.shape[1], *widths, keys.dtype)
        query = Query(queries, self._steps.step, scale, sinks, self._steps.longest, (keys, values))
        return self._marked(self._attention.attend(query, lanes))

    def attend_joint(self, joined: mx.array, heads: Heads, *, scale: float) -> mx.array:
        """The same where queries, keys and values come joined, neither normed nor turned: [B,1,(H+2K)*D], or
        (2H+2K)*D with gates -> [B,1,H*D].
        """
        width = joined.shape[-1] // heads.joined
        lanes = self._lanes.ready(heads.heads, heads.kv_heads, width, width, joined.dtype)
        joint = Joint(joined, heads, self._steps.step, scale, self._steps.longest)
        return self._marked(self._attention.attend_joint(joint, lanes))

    def look(self, queries: mx.array, span: Span, *, scale: float, sinks: mx.array | None = None) -> mx.array:
        query = Query(queries, self._steps.step, scale, sinks, self._steps.longest)
        return self._attention.attend(query, self._lanes.lanes)

    def _marked(self, found: mx.array) -> mx.array:
        self._lanes.mark = found
        return found
