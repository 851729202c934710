"""The first half of a block of linear attention whose rows decode in three operations.

    the norm with all that is projected            one product
    convolution, the delta rule, norm and gate     one operation (`kernels/delta.py`)
    o, and the residual                            one product

Shapes: see the legend in `models/base.py`, letters in `kernels/delta.py`.

Knows nothing about config files, tokens or requests.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from runner.cache.base import LayerMemory
from runner.kernels.delta import Step, Steps
from runner.kernels.product import Around, Product, Products
from runner.layers.gated_delta import GatedDeltaNet
from runner.layers.linear_block import LinearBlock
from runner.layers.matrices import gate_up_of, matrix, norm_of, projections


class LinearHalf(NamedTuple):
    """x [B,1,E] -> `project` -> `attend` -> `out`, to which x is added."""

    layer: int
    project: Product
    out: Product
    step: Step

    def fits(self, memory: LayerMemory) -> bool:
        """Any: a state is the same for all ways to go on from it."""
        return self.layer in memory.recurrent

    def attend(self, joined: mx.array, memory: LayerMemory) -> mx.array:
        """[B,1,N] -> [B,1,H*Q]."""
        states = memory.recurrent[self.layer]
        found, state = self.step(joined, states.state or None)
        states.replace(state, 1)
        return found


def linear_half(block: LinearBlock, products: Products, steps: Steps | None) -> LinearHalf | None:
    """None where linear attention differs from what is said here."""
    attention = block.linear_attn
    if not isinstance(attention, GatedDeltaNet) or steps is None or not steps.fits(attention.rule()):
        return None
    joined, out = projections(attention), matrix(attention.out_proj)
    norm, gate_up = norm_of(block.input_layernorm), gate_up_of(block)
    if joined is None or out is None or norm is None or not (products.fits(joined) and products.fits(out)):
        return None
    return LinearHalf(
        block.layer,
        products.make(joined, Around(norm, following=out.weight)),
        products.make(out, Around(following=None if gate_up is None else gate_up.weight, adds=True)),
        steps.make(attention.rule()),
    )
