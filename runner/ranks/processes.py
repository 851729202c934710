"""The group of processes that mx.distributed makes, as layers see it.

Belongs to the thread that computes.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from runner.kernels import compiled, peer_sum_cuda
from runner.ranks.rooms import Sum, near_sum


class Processes:
    """A Group. Whoever makes one waits until all others make theirs."""

    def __init__(self, backend: str) -> None:
        """backend: ring or nccl. Raises RuntimeError if the others are not found."""
        self._group: Any = mx.distributed.init(strict=True, backend=backend)
        self.rank: int = self._group.rank()
        self.size: int = self._group.size()
        self._near: Sum | None = None
        if backend == "nccl" and compiled.works():
            self._near = near_sum(self)

    def sum(self, x: mx.array) -> mx.array:
        if self._near is not None and compiled.works() and peer_sum_cuda.fits(x):
            return self._near(x)
        return mx.distributed.all_sum(x, group=self._group)

    def gather(self, x: mx.array) -> mx.array:
        return mx.distributed.all_gather(x[None], group=self._group)
