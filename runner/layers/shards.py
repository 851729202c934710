"""What a layer says about itself for those who divide it among processes: which of its weights are counted in
what, and on which side.

A layer that can be divided has `shards`, which says so, and `keep`, which is told what is left of it here. One
whose output is then a part of a sum says `is_summed`. Everything else of a model is whole in every process.

Knows nothing about processes, tokens or requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable


class Unit(Enum):
    """HEADS: those of queries or, in linear attention, of values. KEY_HEADS: those of keys, each of which serves
    several neighbours of the others. WIDTH: numbers between two projections, divided wherever it fits.
    """

    HEADS = auto()
    KEY_HEADS = auto()
    WIDTH = auto()


class Side(Enum):
    """OUTPUTS: rows of a matrix, and its bias. INPUTS: columns of a matrix; its bias is added once. FIRST: the
    first dimension of what is no matrix.
    """

    OUTPUTS = auto()
    INPUTS = auto()
    FIRST = auto()


class Cut(NamedTuple):
    """How one layer or parameter is divided. parts: the lengths and units of several things that stand behind each
    other there, each of which is divided for itself; () for one, of that unit. by_key_heads: all parts are there
    again and again, for each head of keys and those that it serves; lengths are those of one head's.
    """

    side: Side
    unit: Unit
    parts: tuple[tuple[int, Unit], ...] = ()
    by_key_heads: bool = False


class Shards(NamedTuple):
    """The names of layers or parameters -> how they are divided; the heads that there are. key_heads: 0 if there
    is no such thing.
    """

    cuts: Mapping[str, Cut]
    heads: int = 0
    key_heads: int = 0


@runtime_checkable
class Divisible(Protocol):
    is_summed: ClassVar[bool]

    def shards(self) -> Shards:
        """How it is divided."""

    def keep(self, heads: int, key_heads: int) -> None:
        """From now on it has so many."""


BY_WIDTH = {
    "gate_proj": Cut(Side.OUTPUTS, Unit.WIDTH),
    "up_proj": Cut(Side.OUTPUTS, Unit.WIDTH),
    "down_proj": Cut(Side.INPUTS, Unit.WIDTH),
}
"""A gated MLP, or many of them."""
