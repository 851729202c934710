"""Tokens that were drawn and not read yet: what the next step may feed, and what the host reads.

Knows nothing about samplers or requests.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx


class Tokens:
    """Tokens [B] uint32 that were drawn together; not evaluated yet. See `kernels/choosing.py`.

    array: what the next step may feed, in the vocabulary whatever the logits were. told: what the host reads.
    """

    def __init__(self, array: mx.array, told: Sequence[mx.array]) -> None:
        self.array = array
        self.told = told
        self._size = array.size
        self._numbers: list[int] = []

    def __len__(self) -> int:
        return self._size

    @property
    def is_read(self) -> bool:
        """Whether nobody need wait for the device any more."""
        return bool(self._numbers)

    def numbers(self) -> list[int]:
        """What was told, BROKEN where a row's logits were no numbers; waits for the device."""
        if not self._numbers:
            self._numbers = [number for array in self.told for number in _ints(array)][: self._size]
        return self._numbers


def _ints(array: mx.array) -> list[int]:
    return array.tolist()  # type: ignore[return-value]  # typed as object
