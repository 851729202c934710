"""Who decodes together from step to step: rows join, rest and leave, and nobody else is moved.

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runner.cache.at_once import RowsAtOnce, Steps
from runner.cache.lanes import Lane, LayerLanes
from runner.cache.memory import Memory
from runner.cache.together import Together
from runner.kernels.rows_attention import AtOnce

EIGHT = 8


class Company:
    """The rows that decode together, from step to step, each under a number below `most`.

    Where all attention goes at once, a batch is filled up to one of a few sizes with rows that are nobody's, so
    that a GPU's libraries meet few shapes.
    """

    def __init__(self, most: int, at_once: AtOnce | None = None) -> None:
        """at_once: how attention goes at once; None: one by one."""
        self._most = most
        self._at_once = at_once
        self._lanes: dict[int, LayerLanes] = {}
        self._rows: Mapping[int, Memory] = {}
        self._together: Together | None = None

    def takes(self, rows: Mapping[int, Memory]) -> bool:
        """Whether these rows go together; one alone does where all its attention goes at once."""
        if len(rows) != 1 or self._at_once is None:
            return len(rows) > 1
        (memory,) = rows.values()
        return memory.attends_only(self._lanes_for(memory))

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
            if layer in self._lanes or storage.is_quantized:
                continue
            if self._at_once.fits(storage.own()):
                self._lanes[layer] = LayerLanes(self._most + 1)  # the last one is nobody's
        return self._lanes

    def _rows_at_once(
        self, memories: Sequence[Memory], layer: int, lanes: LayerLanes, steps: Steps
    ) -> RowsAtOnce:
        assert self._at_once is not None
        own = [memory.attention[layer].own() for memory in memories]
        own += [own[0]._replace(start=0, end=0)] * (steps.size - len(own))
        own = [row._replace(place=place) for row, place in zip(own, steps.places, strict=True)]
        attend = self._at_once.make(own, memories[0].attention[layer].window, self._most)
        return RowsAtOnce(attend, lanes, steps)


def sizes(most: int) -> list[int]:
    """The sizes of batches: 2, 4, 8 and its multiples, and `most`."""
    below = [size for size in (2, 4, *range(EIGHT, most, EIGHT)) if size < most]
    return [*below, most] if most > 1 else []


def filled_up(rows: int, most: int) -> int:
    """The size of a batch for so many rows."""
    return next(size for size in sizes(most) if size >= rows)
