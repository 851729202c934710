"""How many bytes storages will take, foretold from what they took for a few positions.

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

STEP = 256  # rows; capacities are multiples of it


class Need(NamedTuple):
    """Of one storage. row: bytes of a position. most: positions that it keeps at most, beside a chunk; None: all
    of them. fixed: bytes whatever the length.
    """

    row: int
    most: int | None = None
    fixed: int = 0

    def and_more(self, share: float) -> Need:
        """The same with so much more."""
        return Need(int(self.row * (1 + share)), self.most, int(self.fixed * (1 + share)))


def foretold(needs: Iterable[Need], positions: int, chunk: int) -> int:
    """Bytes of storages with room for so many positions, that are fed in chunks of a size."""
    return sum(need.fixed + need.row * _rows(need, positions, chunk) for need in needs)


def _rows(need: Need, positions: int, chunk: int) -> int:
    if need.most is not None:
        return min(positions, need.most) + chunk
    return in_steps(positions)


def in_steps(rows: int) -> int:
    """The capacity for so many rows."""
    return -(-rows // STEP) * STEP
