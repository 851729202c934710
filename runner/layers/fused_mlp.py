"""The second half of a block whose rows decode in two operations.

    the norm with gate-up     one product, gated
    down, and the residual    one product

Shapes: see the legend in `models/base.py`.

Knows nothing about config files, tokens or requests.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from runner.kernels.product import Around, Product, Products
from runner.layers.block import Block
from runner.layers.ending import ending
from runner.layers.linear_block import LinearBlock
from runner.layers.matrices import down_of, gate_up_of, norm_of


class MLPHalf(NamedTuple):
    """A block's second half: x [B,1,E] -> `gate_up` -> `down`, to which x is added."""

    gate_up: Product
    down: Product

    def __call__(self, x: mx.array) -> mx.array:
        return self.down(self.gate_up(x, None), x)


def mlp_half(block: Block | LinearBlock, following: mx.array | None, products: Products) -> MLPHalf | None:
    """following: the weight that is read next. None where the MLP differs from what is said here."""
    gate_up, down, norm = gate_up_of(block), down_of(block), norm_of(block.post_attention_layernorm)
    if gate_up is None or down is None or norm is None:
        return None
    if not (products.fits(gate_up) and products.fits(down)):
        return None
    return MLPHalf(
        products.make(gate_up, Around(norm, gated=True, following=down.weight)),
        ending(block.mlp, down, following, products),
    )
