"""Storage for a recurrent layer: its state, and the earlier ones that a later request may go back to.

A state stands for all positions before it and cannot be taken apart, so `rewind` goes only to positions whose state
is held. Those are: 0, where there is none; `offset`; the position before the last forward, for a token that was
forwarded and then not wanted; and checkpoints. Each costs the memory of one more state and no time: arrays are
held, not copied. While its row decodes in company, a state may be a row of one that all of them have together.

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import mlx.core as mx

from runner.cache.need import Need
from runner.cache.points import BOUND
from runner.cache.saved import Saved, starts

State = tuple[mx.array, ...]
"""All that a recurrent layer remembers. Arrays do not change, so holding one is keeping it."""


class Held(NamedTuple):
    """A state, or that of one row among several in the same arrays, which are taken apart when somebody asks."""

    whole: State
    row: int | None = None

    @property
    def nbytes(self) -> int:
        """Of the row's own."""
        return sum(
            array.nbytes if self.row is None else array.nbytes // array.shape[0] for array in self.whole
        )

    def alone(self) -> Held:
        """In arrays of its own."""
        if self.row is None:
            return self
        # Contiguous, since a slice would hold on to the states of all rows.
        return Held(tuple(mx.contiguous(array[self.row : self.row + 1]) for array in self.whole))


class RecurrentCache:
    """A Storage of one state."""

    leeway = 0

    def __init__(self) -> None:
        self.offset = 0
        # Behind position `offset`; None at position 0, where nothing was read yet.
        self.held: Held | None = None
        self._before: tuple[int, Held | None] = (0, None)  # the position before the last forward
        self._checkpoints: dict[int, Held] = {}

    @property
    def state(self) -> State | None:
        return None if self.held is None else self.held.alone().whole

    @property
    def nbytes(self) -> int:
        return sum(held.nbytes for held in self._all_held().values())

    @property
    def kept_bytes(self) -> int:
        return sum(held.nbytes for held in self._checkpoints.values())

    def replace(self, state: State, length: int, row: int | None = None) -> None:
        """The state that the next `length` positions lead to. row: which one is this one's, if it is of several."""
        self._before = (self.offset, self.held)
        self.offset += length
        self.held = Held(state, row)

    def settle(self) -> list[mx.array]:
        """Let go of what other rows remember; what is to be computed for that."""
        offset, before = self._before
        shared = [held for held in (self.held, before) if held is not None and held.row is not None]
        if not shared:
            return []
        self.held = None if self.held is None else self.held.alone()
        self._before = offset, None if before is None else before.alone()
        return [*self.arrays(), *(() if self._before[1] is None else self._before[1].whole)]

    def rewind(self, to: int) -> bool:
        held = self._all_held()
        if to != 0 and to not in held:
            return False
        self.offset, self.held = to, held.get(to)
        self._before = (self.offset, self.held)
        self.keep([position for position in self._checkpoints if position <= to])
        return True

    def restorable(self, to: int) -> int:
        return max((position for position in self._all_held() if position <= to), default=0)

    def checkpoint(self) -> list[mx.array]:
        if self.held is None:
            return []
        alone = self.held.alone()
        self._checkpoints = {**self._checkpoints, self.offset: alone}
        return list(alone.whole)

    def keep(self, checkpoints: Iterable[int]) -> None:
        self._checkpoints = {
            position: self._checkpoints[position] for position in checkpoints if position in self._checkpoints
        }

    def reserve(self, total: int) -> None:
        """A state is as large for every total."""

    def arrays(self) -> list[mx.array]:
        return list(self.state or ())

    def need(self) -> Need:
        """The state now, the one before, and at the least number of checkpoints."""
        return Need(row=0, fixed=(2 + BOUND.least) * (0 if self.held is None else self.held.nbytes))

    def save(self) -> dict[str, mx.array]:
        return {
            f"state.{position}.{number}": array
            for position, held in self._all_held().items()
            for number, array in enumerate(held.alone().whole)
        }

    def restore(self, saved: Saved, to: int) -> None:
        self._checkpoints = {
            position: Held(tuple(_numbered(saved, position)))
            for position in sorted({*starts(saved, "state")})
            if position <= to
        }
        self.offset, self.held = to, self._checkpoints[to]
        self._before = (to, self.held)

    def _all_held(self) -> dict[int, Held]:
        """The states by position."""
        last = [self._before, (self.offset, self.held)]
        return self._checkpoints | {position: held for position, held in last if held is not None}


def _numbered(saved: Saved, position: int) -> Iterator[mx.array]:
    """The arrays of a state that was saved."""
    number = 0
    while (name := f"state.{position}.{number}") in saved:
        yield saved[name]
        number += 1
