"""What stands between the attention of one layer and that of the next: four products, whose shapes never change.

    x [B,1,E], found [B,1,A] -> x [B,1,E], joined [B,1,J]        B at most MOST

    between = x + found @ out                      out       [E,A]
    x = between + gated(norm(between)) @ down      gate_up   [2*F,E], down [E,F]
    joined = norm(x) @ following                   following [J,E]

Behind the last layer nothing follows, and joined is x.

This is the plain form, of any way to make a product; `seam_cuda.py` has one kernel for all of it.

Knows nothing about layers, models or requests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from runner.kernels.product import Around, Matrix, Norm, Products

Seam = Callable[[mx.array, mx.array], tuple[mx.array, mx.array]]
"""x and found -> x and joined."""


class Parts(NamedTuple):
    """norm: before gate_up. next_norm, following: None behind the last layer."""

    out: Matrix
    norm: Norm
    gate_up: Matrix
    down: Matrix
    next_norm: Norm | None
    following: Matrix | None

    @property
    def matrices(self) -> list[Matrix]:
        return [one for one in (self.out, self.gate_up, self.down, self.following) if one is not None]


def of_products(parts: Parts, products: Products) -> Seam:
    """Four of them."""
    after = None if parts.following is None else parts.following.weight
    out = products.make(parts.out, Around(following=parts.gate_up.weight, adds=True))
    gate_up = products.make(parts.gate_up, Around(parts.norm, gated=True, following=parts.down.weight))
    down = products.make(parts.down, Around(following=after, adds=True))
    project = None if parts.following is None else products.make(parts.following, Around(parts.next_norm))

    def seam(x: mx.array, found: mx.array) -> tuple[mx.array, mx.array]:
        x = out(found, x)
        x = down(gate_up(x, None), x)
        return x, x if project is None else project(x, None)

    return seam
