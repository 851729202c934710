"""Storage for a recurrent layer: its state, and the few earlier ones that a later request may go back to.

A state stands for all positions before it and cannot be taken apart, so `rewind` goes only to positions whose state
is held. Those are: 0, where there is none; `offset`; the position before the last forward, for a token that was
forwarded and then not wanted; and the last two checkpoints. A session sets one where it begins, for a prompt that
is edited, and one near the end of its prompt, for a retry and for templates that write the end of a prompt anew.
Each costs the memory of one more state and no time: arrays are held, not copied.

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

import mlx.core as mx

CHECKPOINTS = 2

State = tuple[mx.array, ...]
"""All that a recurrent layer remembers. Arrays do not change, so holding one is keeping it."""


class RecurrentCache:
    """A Storage of one state."""

    checkpointed = True

    def __init__(self) -> None:
        self.offset = 0
        self._states: dict[int, State] = {}  # by position, that of `offset` included; none for 0
        self._checkpoints: list[int] = []  # oldest first

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for state in self._states.values() for array in state)

    @property
    def state(self) -> State | None:
        """The state behind position `offset`; None at position 0, where nothing was read yet."""
        return self._states.get(self.offset)

    def replace(self, state: State, length: int) -> None:
        """The state that the next `length` positions lead to."""
        before = self.offset
        self.offset += length
        self._states[self.offset] = state
        wanted = {before, self.offset, *self._checkpoints}
        self._states = {position: held for position, held in self._states.items() if position in wanted}

    def rewind(self, to: int) -> bool:
        if to != 0 and to not in self._states:
            return False
        self.offset = to
        self._states = {position: held for position, held in self._states.items() if position <= to}
        self._checkpoints = [position for position in self._checkpoints if position <= to]
        return True

    def restorable(self, to: int) -> int:
        return max((position for position in self._states if position <= to), default=0)

    def checkpoint(self) -> None:
        others = [position for position in self._checkpoints if position != self.offset]
        self._checkpoints = [*others, self.offset][-CHECKPOINTS:]

    def reserve(self, total: int) -> None:
        """A state is as large for every total."""

    def arrays(self) -> list[mx.array]:
        return list(self.state or ())
