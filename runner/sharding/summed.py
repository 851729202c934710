"""Modules whose output is a part of a sum, with the sum.

Knows nothing about what they compute.
"""

from __future__ import annotations

import mlx.core as mx

from runner.layers import nn
from runner.layers.shards import PartOfSum
from runner.sharding.group import Group


class Summed(PartOfSum):
    """A part of a module, called as the whole is."""

    def __init__(self, part: nn.Module, group: Group) -> None:
        super().__init__(part, is_first=group.rank == 0)
        self._group = group

    def __call__(self, *inputs: object) -> mx.array:
        return self.whole(self.part(*inputs))

    def whole(self, part: mx.array) -> mx.array:
        """What all processes found, added up."""
        return self._group.sum(part)

    @property
    def activations(self) -> object:
        """Those of the part, which blocks may use themselves."""
        return self.part.activations
