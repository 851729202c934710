"""Points: the positions of a sequence that a memory has checkpoints of. There may be few, so which?

A later prompt that differs from some position on goes back to the last point before that, and feeds the rest again.
If that point is gone, it feeds what lies between it and the point before, too. So the point that is nearest to the
one before it goes first, of equals the oldest, which thins them out evenly as the sequence grows. Points that the
present request marked stay longest: where it began, where its last turn begins, and its prompt's end.

Knows nothing about arrays, tokens or requests.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple


class Bound(NamedTuple):
    """How much checkpoints may hold.

    share: of the bytes of everything else that a memory holds. least: points that it has in any case, 1 or more.
    apart: a point that is not marked is so many positions behind the one before it; a nearer one would save little.
    """

    share: float = 0.5
    least: int = 2
    apart: int = 256


BOUND = Bound()


class Points:
    """Positions in ascending order, each with whether the present request marked it."""

    def __init__(self, bound: Bound = BOUND) -> None:
        self.bound = bound
        self._marked: dict[int, bool] = {}

    @property
    def positions(self) -> Collection[int]:
        return self._marked.keys()

    def set(self, positions: Collection[int]) -> None:
        """The memory was restored with these, in ascending order."""
        self._marked = dict.fromkeys(positions, False)

    def add(self, position: int, *, marked: bool) -> bool:
        """Whether the last position, which this one is, becomes a point or is one."""
        last = max(self._marked, default=0)
        if position == 0 or (not marked and position - last < self.bound.apart):
            return False
        self._marked[position] = marked or self._marked.get(position, False)
        return True

    def cut(self, to: int) -> None:
        """A new request begins at `to`: what lies behind is gone, and no mark counts any more."""
        self._marked = {position: False for position in self._marked if position <= to}

    def are_too_many(self, kept: int, total: int) -> bool:
        """kept: bytes that checkpoints hold. total: of all that a memory holds."""
        return len(self._marked) > self.bound.least and kept > self.bound.share * (total - kept)

    def drop(self) -> None:
        """Forget the one that is needed least; never the last one, which is as near as a chunk is long."""
        positions = [*self._marked]
        steps = zip([0, *positions], positions[:-1], strict=False)
        needs = [(self._marked[position], position - before, position) for before, position in steps]
        del self._marked[min(needs)[-1]]
