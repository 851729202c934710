"""The processes that have a model together, as far as layers see them.

Knows nothing about how they were started.
"""

from __future__ import annotations

from typing import Protocol

import mlx.core as mx


class Group(Protocol):
    """All processes call the same operations in the same order."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""

    @property
    def size(self) -> int: ...

    def sum(self, x: mx.array) -> mx.array:
        """Of all processes' arrays, which are of one shape."""

    def gather(self, x: mx.array) -> mx.array:
        """All processes' arrays, which are of one shape: [size,..]."""
