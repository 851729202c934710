"""Who has what: the heads or columns that are one process's, by their numbers.

Knows nothing about arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from runner.errors import UnsupportedModel


class Share(NamedTuple):
    """Of so many units in all these are ours."""

    total: int
    ours: Sequence[int]


def heads(total: int, rank: int, size: int) -> Share:
    """The same number for everybody. Raises UnsupportedModel."""
    if total % size:
        raise UnsupportedModel(
            f"--tensor-parallel {size}: the model has {total} heads, which {size} does not divide"
        )
    each = total // size
    return Share(total, range(rank * each, (rank + 1) * each))


def key_heads(total: int, served: int, rank: int, size: int) -> Share:
    """The heads of keys that our share of the `served` heads looks at, each for equally many neighbours. One is
    there twice where the others are divided in the midst of those that it serves.
    """
    each, neighbours = served // size, served // total
    together = math.gcd(each, neighbours)
    return Share(total, [first // neighbours for first in range(rank * each, (rank + 1) * each, together)])


def width(lengths: Sequence[int], rank: int, size: int) -> Share:
    """Of a width that is counted differently in different arrays, as in groups of a quantized one: nearly the same
    for everybody, and whole in each of them. Raises UnsupportedModel.
    """
    total = math.gcd(*lengths)
    if total < size:
        raise UnsupportedModel(
            f"--tensor-parallel {size}: the model has a width that can be divided in {total} parts at most"
        )
    return Share(total, range(rank * total // size, (rank + 1) * total // size))


def rows(total: int, rank: int, size: int) -> range:
    """Of a vocabulary: the last process has fewer, if need be."""
    each = -(-total // size)
    return range(min(rank * each, total), min((rank + 1) * each, total))
