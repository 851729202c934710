"""mlx-lm's caches, all layers of one model, as one storage of ours.

Some of theirs have no offset, so positions are counted here. Of the kinds whose insides we know, what a rewind
does is exact; any other goes back to its beginning only.

    KVCache          goes back to anywhere
    RotatingKVCache  to anywhere, until it is full: then rows are overwritten
    ArraysCache      a recurrent state: to where it was noted, before the last forward and at the last checkpoints
    CacheList        as its parts do

What is noted are arrays by reference: each note costs the memory of one more state and no time.

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from runner.cache.recurrent import CHECKPOINTS

States = list[list[mx.array | None]]
"""Of each ArraysCache what it holds."""


class BorrowedCaches:
    """A Storage; what a model of theirs is called with is `native`."""

    def __init__(self, make: Callable[[], list[Any]], kinds: Any) -> None:
        """make: a fresh list, as a model of theirs wants it. kinds: the module that has mlx-lm's classes."""
        self._make = make
        self._kinds = kinds
        self._begin()

    def _begin(self) -> None:
        self.native = self._make()
        self.offset = 0
        leaves = list(_leaves(self.native, self._kinds))
        self._recurrent = [leaf for leaf in leaves if type(leaf) is self._kinds.ArraysCache]
        self._others = [leaf for leaf in leaves if type(leaf) is not self._kinds.ArraysCache]
        self._noted: dict[int, States] = {}
        self._before = 0  # the last forward
        self._checkpoints: list[int] = []  # oldest first

    @property
    def nbytes(self) -> int:
        noted = [a for states in self._noted.values() for state in states for a in state if a is not None]
        return sum(array.nbytes for array in (*self.arrays(), *noted))

    @property
    def checkpointed(self) -> bool:
        return bool(self._recurrent)

    def expect(self, length: int) -> None:
        """A forward over the next `length` positions follows."""
        self._before = self.offset
        self._note()
        self.offset += length

    def checkpoint(self) -> None:
        others = [position for position in self._checkpoints if position != self.offset]
        self._checkpoints = [*others, self.offset][-CHECKPOINTS:]
        self._note()

    def rewind(self, to: int) -> bool:
        if not 0 <= to <= self.offset or self.restorable(to) != to:
            return False
        if to == 0 < self.offset:
            self._begin()
        elif to < self.offset:
            for leaf, state in zip(self._recurrent, self._noted.get(to, []), strict=True):
                leaf.cache = _copied(state)
            for leaf in self._others:
                leaf.trim(self.offset - to)
            self.offset = to
            self._noted = {position: states for position, states in self._noted.items() if position <= to}
            self._checkpoints = [position for position in self._checkpoints if position <= to]
        return True

    def restorable(self, to: int) -> int:
        to = min(to, self.offset)
        if to == self.offset:
            return to
        if not all(map(self._is_exact, self._others)):
            return 0
        return (
            max((position for position in self._noted if position <= to), default=0)
            if self._recurrent
            else to
        )

    def reserve(self, total: int) -> None:
        """Theirs grow by themselves."""

    def arrays(self) -> list[mx.array]:
        flat: Any = tree_flatten([cache.state for cache in self.native])
        return [leaf for _, leaf in flat if isinstance(leaf, mx.array)]

    def _note(self) -> None:
        """The states of now, beside those that are wanted still."""
        if not self._recurrent or self.offset == 0:
            return
        wanted = {self._before, *self._checkpoints}
        self._noted = {position: states for position, states in self._noted.items() if position in wanted}
        if self.offset not in self._noted:
            self._noted[self.offset] = [_copied(leaf.cache) for leaf in self._recurrent]

    def _is_exact(self, leaf: Any) -> bool:
        """Whether it can be trimmed: it has a row for each position, or is of a layer that never writes."""
        if type(leaf) not in (self._kinds.KVCache, self._kinds.RotatingKVCache):
            return False
        return bool(leaf.empty() or (leaf.offset == self.offset and leaf.is_trimmable()))


def _copied(state: Sequence[mx.array | None]) -> list[mx.array | None]:
    """Arrays that share their data with these and do not follow when those are written to in place."""
    return [copy.copy(array) for array in state]


def _leaves(caches: Sequence[Any], kinds: Any) -> Iterator[Any]:
    for cache in caches:
        if type(cache) is kinds.CacheList:
            yield from _leaves(cache.caches, kinds)
        else:
            yield cache
