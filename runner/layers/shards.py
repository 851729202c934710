"""How a layer can be divided among processes: along which dimension each of its weights is cut, and into what.

A layer that can be divided says so by a method `shards`. Its method `keep` is called when it was divided, with what
this process has of it. If its output is then a part of a sum, `is_summed` is true. Layers without these methods are
whole in every process.

Knows nothing about processes, tokens or requests.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from enum import Enum, auto
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import mlx.core as mx

from runner.layers import nn


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
    other there, each of which is divided for itself; () for one, of that unit. by_key_heads: every head of keys
    has all parts, of itself and of the heads that it serves; a length is that of one head's part.
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
        """The layer was divided: this process has so many of its heads."""


class PartOfSum(nn.Module):
    """What stands where such a layer stood. part: the layer. is_first: whether this process is the one that adds to
    its part what is to be in the sum once.

    A base and no protocol: since Python 3.12 what a module keeps in its dictionary is no member of a protocol.
    """

    def __init__(self, part: nn.Module, *, is_first: bool) -> None:
        super().__init__()
        self.part = part
        self.is_first = is_first

    @abstractmethod
    def whole(self, part: mx.array) -> mx.array:
        """The sum."""


BY_WIDTH = {
    "gate_proj": Cut(Side.OUTPUTS, Unit.WIDTH),
    "up_proj": Cut(Side.OUTPUTS, Unit.WIDTH),
    "down_proj": Cut(Side.INPUTS, Unit.WIDTH),
}
"""A gated MLP, or many of them."""
