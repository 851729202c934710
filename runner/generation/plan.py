"""What one step does, as plain data: which slots are fed which tokens, and whose logits are wanted.

A plan says all that changes memory, so whoever has the same weights and carries out the same plans holds the same
keys and values.

Knows nothing about arrays: standard library only.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple


class Checkpoint(Enum):
    """Whether the position before what is fed is one to come back to. PASSING: if need be, as the end of a chunk;
    LIKELY: as the beginning or the end of a turn.
    """

    NONE = auto()
    PASSING = auto()
    LIKELY = auto()


class Begin(NamedTuple):
    """A request takes up a slot: it keeps the first `matched` positions and may need `total` in all."""

    matched: int
    total: int


class RowPlan(NamedTuple):
    """What is fed to one slot in this step.

    ids: token ids, never empty; None for the token drawn for this slot last, which may still be on the device.
    logits: whether those behind the last position are wanted. begin: on the first row of a request. room: positions
    for which the slot's storages take room from now on; None: as before.
    """

    slot: int
    ids: tuple[int, ...] | None
    logits: bool
    begin: Begin | None = None
    checkpoint: Checkpoint = Checkpoint.NONE
    room: int | None = None


class StepPlan(NamedTuple):
    """The rows of one step, each of another slot."""

    rows: tuple[RowPlan, ...]
