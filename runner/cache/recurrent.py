"""Storage for a recurrent layer: its state, and the earlier ones that a later request may go back to.

A state stands for all positions before it and cannot be taken apart, so `rewind` goes only to positions whose state
is held. Those are: 0, where there is none; `offset`; the position before the last forward, for a token that was
forwarded and then not wanted; and checkpoints. Each costs the memory of one more state and no time: arrays are
held, not copied.

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import mlx.core as mx

from runner.cache.need import Need
from runner.cache.points import BOUND
from runner.cache.saved import Saved, starts

State = tuple[mx.array, ...]
"""All that a recurrent layer remembers. Arrays do not change, so holding one is keeping it."""


class RecurrentCache:
    """A Storage of one state."""

    leeway = 0

    def __init__(self) -> None:
        self.offset = 0
        self.state: State | None = (
            None  # behind position `offset`; None at position 0, where nothing was read yet
        )
        self._before: tuple[int, State | None] = (0, None)  # the position before the last forward
        self._checkpoints: dict[int, State] = {}

    @property
    def nbytes(self) -> int:
        return sum(map(_nbytes, self._held().values()))

    @property
    def kept_bytes(self) -> int:
        return sum(map(_nbytes, self._checkpoints.values()))

    def replace(self, state: State, length: int) -> None:
        """The state that the next `length` positions lead to."""
        self._before = (self.offset, self.state)
        self.offset += length
        self.state = state

    def rewind(self, to: int) -> bool:
        held = self._held()
        if to != 0 and to not in held:
            return False
        self.offset, self.state = to, held.get(to)
        self._before = (self.offset, self.state)
        self.keep([position for position in self._checkpoints if position <= to])
        return True

    def restorable(self, to: int) -> int:
        return max((position for position in self._held() if position <= to), default=0)

    def checkpoint(self) -> list[mx.array]:
        if self.state is not None:
            self._checkpoints = {**self._checkpoints, self.offset: self.state}
        return self.arrays()

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
        return Need(row=0, fixed=(2 + BOUND.least) * _nbytes(self.state or ()))

    def save(self) -> dict[str, mx.array]:
        return {
            f"state.{position}.{number}": array
            for position, state in self._held().items()
            for number, array in enumerate(state)
        }

    def restore(self, saved: Saved, to: int) -> None:
        self._checkpoints = {
            position: tuple(_numbered(saved, position))
            for position in sorted({*starts(saved, "state")})
            if position <= to
        }
        self.offset, self.state = to, self._checkpoints[to]
        self._before = (to, self.state)

    def _held(self) -> dict[int, State]:
        """The states by position."""
        last = [self._before, (self.offset, self.state)]
        return self._checkpoints | {position: state for position, state in last if state is not None}


def _nbytes(state: State) -> int:
    return sum(array.nbytes for array in state)


def _numbered(saved: Saved, position: int) -> Iterator[mx.array]:
    """The arrays of a state that was saved."""
    number = 0
    while (name := f"state.{position}.{number}") in saved:
        yield saved[name]
        number += 1
