"""mlx-lm's caches, all layers of one model, as one storage of ours.

Some of theirs have no offset, so positions are counted here. Of the kinds whose insides we know, what a rewind
does is exact; any other goes back to its beginning only.

    KVCache          goes back to anywhere
    RotatingKVCache  to anywhere, until it is full: then rows are overwritten, and it goes back to checkpoints
    ArraysCache      a recurrent state: to where it was noted, before the last forward and at checkpoints
    CacheList        as its parts do

What is noted are arrays by reference: each note costs the memory of one more state, or window, and no time.

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
from mlx.utils import tree_flatten

from runner.cache.need import Need
from runner.cache.points import BOUND
from runner.cache.saved import Saved

Arrays = list[mx.array | None]


class Ring(NamedTuple):
    """What a RotatingKVCache holds: keys and values, how many positions there were, and where the next one goes."""

    arrays: Arrays
    offset: int
    place: int


class Note(NamedTuple):
    """states: of each ArraysCache what it holds. rings: of each RotatingKVCache; None: those were not noted."""

    states: list[Arrays]
    rings: list[Ring] | None

    def arrays(self) -> list[mx.array]:
        of_all = [*self.states, *(ring.arrays for ring in self.rings or ())]
        return [array for arrays in of_all for array in arrays if array is not None]


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
        self._rotating = [leaf for leaf in leaves if type(leaf) is self._kinds.RotatingKVCache]
        self._others = [
            leaf
            for leaf in leaves
            if type(leaf) not in (self._kinds.ArraysCache, self._kinds.RotatingKVCache)
        ]
        self._notes: dict[int, Note] = {}
        self._before = 0  # the last forward
        self._checkpoints: frozenset[int] = frozenset()

    @property
    def nbytes(self) -> int:
        noted = [array for note in self._notes.values() for array in note.arrays()]
        return sum(array.nbytes for array in (*self.arrays(), *noted))

    @property
    def kept_bytes(self) -> int:
        notes = [note for at, note in self._notes.items() if at in self._checkpoints]
        return sum(array.nbytes for note in notes for array in note.arrays())

    @property
    def leeway(self) -> int | None:
        return 0 if self._recurrent or self._rotating else None

    def expect(self, length: int) -> None:
        """A forward over the next `length` positions follows."""
        self._before = self.offset
        if self._recurrent and self.offset not in self._notes:
            self._note(with_rings=False)  # which would be copied by each step, if they were held
        self._tidy()
        self.offset += length

    def checkpoint(self) -> list[mx.array]:
        self._checkpoints |= {self.offset}
        if self._recurrent or self._rotating:
            self._note(with_rings=True)
        return [] if self.offset not in self._notes else self._notes[self.offset].arrays()

    def keep(self, checkpoints: Iterable[int]) -> None:
        self._checkpoints &= frozenset(checkpoints)
        self._tidy()

    def rewind(self, to: int) -> bool:
        if not 0 <= to <= self.offset or self.restorable(to) != to:
            return False
        if to == 0 < self.offset:
            self._begin()
        elif to < self.offset:
            self._go_back(to)
        return True

    def restorable(self, to: int) -> int:
        to = min(to, self.offset)
        if to == self.offset:
            return to
        if not all(map(self._is_exact, self._others)):
            return 0
        trims = all(map(self._is_exact, self._rotating))
        if trims and not self._recurrent:
            return to
        return max((at for at, note in self._notes.items() if at <= to and (trims or note.rings)), default=0)

    def reserve(self, total: int) -> None:
        """Theirs grow by themselves."""

    def arrays(self) -> list[mx.array]:
        flat: Any = tree_flatten([cache.state for cache in self.native])
        return [leaf for _, leaf in flat if isinstance(leaf, mx.array)]

    def need(self) -> Need:
        """As if every position were kept, beside the states now, before, and at the least number of checkpoints."""
        states = sum(array.nbytes for leaf in self._recurrent for array in leaf.cache if array is not None)
        others = sum(array.nbytes for array in self.arrays()) - states
        return Need(row=-(-others // max(1, self.offset)), fixed=(2 + BOUND.least) * states)

    def save(self) -> None:
        """What another library keeps in its caches, and how, may be another thing in its next version."""

    def restore(self, saved: Saved, to: int) -> None:
        raise ValueError("such caches are never saved")

    def _go_back(self, to: int) -> None:
        note = self._notes.get(to, Note([], None))
        for leaf, state in zip(self._recurrent, note.states, strict=True):
            leaf.cache = _copied(state)
        trimmed = self._others if note.rings else [*self._others, *self._rotating]
        for leaf in trimmed:
            leaf.trim(self.offset - to)
        for leaf, ring in zip(self._rotating if note.rings else (), note.rings or (), strict=True):
            leaf.keys, leaf.values = _copied(ring.arrays)
            leaf.offset, leaf._idx = ring.offset, ring.place
        self.offset = self._before = to
        self._notes = {at: note for at, note in self._notes.items() if at <= to}
        self._checkpoints = frozenset(at for at in self._checkpoints if at <= to)

    def _note(self, *, with_rings: bool) -> None:
        """The states of now."""
        if self.offset == 0:
            return
        states = [_copied(leaf.cache) for leaf in self._recurrent]
        rings = [
            Ring(_copied([leaf.keys, leaf.values]), leaf.offset, leaf._idx)
            for leaf in (self._rotating if with_rings else ())
        ]
        self._notes[self.offset] = Note(states, rings or None)

    def _tidy(self) -> None:
        """Notes that nobody wants any more go."""
        wanted = {self._before, self.offset, *self._checkpoints}
        self._notes = {at: note for at, note in self._notes.items() if at in wanted}

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
