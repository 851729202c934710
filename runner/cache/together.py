"""Several rows' memories as one, for a forward that all of them take part in, each with one position.

What a layer computes for itself (products, norms, experts) it computes for all rows at once, and reads its weights
once. What it remembers stays where it is: no row's keys are moved or padded, whoever joins or leaves. Attention has
two ways:

    one by one   each row's storage writes and attends for its row
    at once      where there is a kernel for it: new positions stand in lanes (`lanes.py`), and one operation
                 attends for all rows

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import mlx.core as mx

from runner.cache.base import Attending, KeyValues
from runner.cache.lanes import Lane, LayerLanes
from runner.cache.latent import LatentCache
from runner.cache.memory import Memory
from runner.cache.recurrent import RecurrentCache, State
from runner.cache.span import Span
from runner.kernels.attention import Mask
from runner.kernels.rows_attention import LANE, AtOnce, Query, RowsAttention

EIGHT = 8

Storage = TypeVar("Storage")
Rows = TypeVar("Rows")


class Company:
    """The rows that decode together, from step to step, each under a number below `most`.

    Where all attention goes at once, a batch is filled up to one of a few sizes with rows that are nobody's: every
    size that was not there before costs a GPU's libraries milliseconds, in every layer.
    """

    def __init__(self, most: int, at_once: AtOnce | None = None) -> None:
        """at_once: how attention goes at once; None: one by one."""
        self._most = most
        self._at_once = at_once
        self._lanes: dict[int, LayerLanes] = {}
        self._rows: Mapping[int, Memory] = {}
        self._together: Together | None = None

    def of(self, rows: Mapping[int, Memory]) -> Together:
        """The memories of these rows as one. Who was there the last time and is not now settles."""
        if self._together is None or not self._together.goes_on(rows):
            self._settle(rows)
            self._together, self._rows = self._joined(rows), rows
        return self._together

    def part(self) -> None:
        """The next step has no company. Who was there the last time settles: if it fails, the lanes are gone."""
        self._settle({})
        self._rows, self._together = {}, None

    def dissolve(self) -> None:
        """A step failed: the lanes may hold what was never computed, and the rows are gone."""
        self._lanes, self._rows, self._together = {}, {}, None

    def _settle(self, rows: Mapping[int, Memory]) -> None:
        """Whoever was there the last time and is not among these rows; everybody when a lane is full, since each
        change costs all layers and rows a look.
        """
        full = any(memory.lane is not None and memory.lane.is_full for memory in rows.values())
        for number, memory in self._rows.items():
            if full or rows.get(number) is not memory:
                memory.settle()

    def _joined(self, rows: Mapping[int, Memory]) -> Together:
        memories = list(rows.values())
        lanes = self._lanes_for(memories[0])
        for number, memory in rows.items():
            if memory.lane is None and lanes:
                memory.lend(Lane(number), lanes)
        fills = memories[0].holds_only(lanes)
        size = filled_up(len(rows), self._most) if fills and len(rows) > 1 else len(rows)
        steps = Steps([memory.lane for memory in memories if memory.lane is not None], size, self._most)
        at_once = {layer: self._rows_at_once(memories, layer, lanes[layer], steps) for layer in lanes}
        return Together(rows, at_once, steps, size)

    def _lanes_for(self, memory: Memory) -> dict[int, LayerLanes]:
        """Those of the layers whose attention can go at once."""
        if self._at_once is None:
            return {}
        for layer, storage in memory.attention.items():
            if layer not in self._lanes and self._at_once.fits(storage.own()):
                self._lanes[layer] = LayerLanes(self._most + 1)  # the last one is nobody's
        return self._lanes

    def _rows_at_once(
        self, memories: Sequence[Memory], layer: int, lanes: LayerLanes, steps: Steps
    ) -> RowsAtOnce:
        assert self._at_once is not None
        own = [memory.attention[layer].own() for memory in memories]
        own += [own[0]._replace(start=0, end=0)] * (steps.size - len(own))
        attend = self._at_once.make(own, memories[0].attention[layer].window, self._most)
        return RowsAtOnce(attend, lanes, steps)


class Together:
    """The memories of several rows, in the order of the batch. Slots go on owning each."""

    def __init__(
        self, rows: Mapping[int, Memory], at_once: Mapping[int, Attending], steps: Steps, size: int
    ) -> None:
        """at_once: the layers whose rows attend at once. steps: of their lanes. size: of the batch, in which these
        rows come first.
        """
        memories = list(rows.values())
        one_by_one: dict[int, Attending] = {
            layer: RowsOneByOne([memory.attention[layer] for memory in memories])
            for layer in memories[0].attention
            if layer not in at_once
        }
        self.attention = one_by_one | dict(at_once)
        self.latent = _by_layer([memory.latent for memory in memories], LatentRows)
        self.recurrent = _by_layer([memory.recurrent for memory in memories], RecurrentRows)
        self.borrowed = None  # mlx-lm's models go row by row
        self._rows = list(rows.items())
        self._lanes = [memory.lane for memory in memories]
        self._steps = steps
        self.size = size

    def goes_on(self, rows: Mapping[int, Memory]) -> bool:
        """Whether the next step can have these rows: the same in the same order, with room in their lanes."""
        return list(rows.items()) == self._rows and all(
            memory.lane is lane and not (lane is not None and lane.is_full)
            for (_, memory), lane in zip(self._rows, self._lanes, strict=True)
        )

    def span(self) -> Span:
        """The next position of each row."""
        nobodys = [Span(0, 1)] * (self.size - len(self._rows))
        span = Span.together([*(Span(memory.offset, 1) for _, memory in self._rows), *nobodys])
        self._steps.advance(span)
        return span


class Steps:
    """Where the position of the present step stands in the lanes of some rows; all layers ask."""

    def __init__(self, lanes: Sequence[Lane], size: int, nobodys: int) -> None:
        """size: of the batch, which may be more than the rows have. nobodys: the lane that those write into."""
        self._lanes = lanes
        self.size = size
        self._more = [nobodys * LANE] * (size - len(lanes))
        self.places = mx.array(0)  # [B] int32
        self.longest = 0  # positions of the longest row, the new one included

    def advance(self, span: Span) -> None:
        if not self._lanes:
            return
        for lane in self._lanes:
            lane.used += 1
        self.places = mx.array([*(lane.place for lane in self._lanes), *self._more], mx.int32)
        self.longest = span.offset + 1


class RowsAtOnce:
    """The storages of one layer: Attending, in one operation."""

    def __init__(self, attend: RowsAttention, lanes: LayerLanes, steps: Steps) -> None:
        self._attend = attend
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
        self._lanes.write(self._steps.places, keys, values)
        return self.look(queries, span, scale=scale, sinks=sinks)

    def look(self, queries: mx.array, span: Span, *, scale: float, sinks: mx.array | None = None) -> mx.array:
        query = Query(queries, self._steps.places, scale, sinks, self._steps.longest)
        return self._attend(query, self._lanes.lanes)


def sizes(most: int) -> list[int]:
    """The sizes of batches: 2, 4, 8 and its multiples, and `most`."""
    below = [size for size in (2, 4, *range(EIGHT, most, EIGHT)) if size < most]
    return [*below, most] if most > 1 else []


def filled_up(rows: int, most: int) -> int:
    """The size of a batch for so many rows."""
    return next(size for size in sizes(most) if size >= rows)


class RowsOneByOne:
    """The storages of one layer: Attending, one by one."""

    def __init__(self, rows: Sequence[KeyValues]) -> None:
        self._rows = rows

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
        parts = zip(self._rows, span.rows, _apart(queries), _apart(keys), _apart(values), strict=True)
        return mx.concatenate(
            [storage.attend(q, k, v, row, scale=scale, sinks=sinks) for storage, row, q, k, v in parts]
        )

    def look(self, queries: mx.array, span: Span, *, scale: float, sinks: mx.array | None = None) -> mx.array:
        parts = zip(self._rows, span.rows, _apart(queries), strict=True)
        return mx.concatenate([storage.look(q, row, scale=scale, sinks=sinks) for storage, row, q in parts])


class LatentRows:
    """The storages of one layer of latent attention."""

    def __init__(self, rows: Sequence[LatentCache]) -> None:
        self._rows = rows

    @property
    def offset(self) -> int:
        """The largest of the rows'."""
        return max(row.offset for row in self._rows)

    def write(self, new: mx.array) -> None:
        for storage, part in zip(self._rows, _apart(new), strict=True):
            storage.write(part)

    def look(self, queries: mx.array, span: Span, *, scale: float) -> mx.array:
        parts = zip(self._rows, span.rows, _apart(queries), strict=True)
        return mx.concatenate([storage.look(q, row, scale=scale) for storage, row, q in parts])

    def kept(self) -> mx.array:
        raise NotImplementedError("rows of different lengths are no array; a layer absorbs one position")

    def mask(self, span: Span) -> Mask:
        raise NotImplementedError("see `kept`")


class RecurrentRows:
    """The storages of one recurrent layer: their states become one, and are taken apart again."""

    def __init__(self, rows: Sequence[RecurrentCache]) -> None:
        self._rows = rows

    @property
    def state(self) -> State:
        """Every row has one: its prompt was fed."""
        states = [row.state or () for row in self._rows]
        return tuple(mx.concatenate(list(parts)) for parts in zip(*states, strict=True))

    def replace(self, state: State, length: int) -> None:
        for number, storage in enumerate(self._rows):
            # Contiguous, since a slice would hold on to the states of all rows.
            storage.replace(tuple(mx.contiguous(part[number : number + 1]) for part in state), length)


def _by_layer(
    rows: Sequence[Mapping[int, Storage]], make: Callable[[Sequence[Storage]], Rows]
) -> dict[int, Rows]:
    return {layer: make([row[layer] for row in rows]) for layer in rows[0]}


def _apart(batch: mx.array) -> list[mx.array]:
    """[B,...] as B times [1,...]."""
    return [batch[number : number + 1] for number in range(batch.shape[0])]
