"""The first half of a block of linear attention whose rows decode in three operations.

    the norm with all that is projected            one product, or two where weights are of two kinds
    convolution, the delta rule, norm and gate     one operation (`kernels/delta.py`)
    o, and the residual                            one product

Shapes: see the legend in `models/base.py`, letters in `kernels/delta.py`.

Knows nothing about config files, tokens or requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

from runner.cache.base import LayerMemory
from runner.kernels.delta import Step, Steps
from runner.kernels.product import Around, Product, Products
from runner.layers.ending import ending
from runner.layers.gated_delta import GatedDeltaNet
from runner.layers.linear_block import LinearBlock
from runner.layers.matrices import linear_projections, matrix, norm_of, ours, second_projections


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


def linear_half(block: LinearBlock, products: Products, steps: Steps) -> LinearHalf | None:
    """None where linear attention differs from what is said here."""
    attention = ours(block.linear_attn)
    if not isinstance(attention, GatedDeltaNet) or not steps.fits(attention.rule()):
        return None
    parts, out = linear_projections(attention), matrix(attention.out_proj)
    norm, second = norm_of(block.input_layernorm), second_projections(block)
    if not parts or out is None or norm is None or not all(map(products.fits, (*parts, out))):
        return None
    following = [*parts[1:], out]
    return LinearHalf(
        block.layer,
        _side_by_side(
            [
                products.make(part, Around(norm, following=after.weight))
                for part, after in zip(parts, following, strict=True)
            ]
        ),
        ending(block.linear_attn, out, None if second is None else second.weight, products),
        steps.make(attention.rule()),
    )


def _side_by_side(parts: Sequence[Product]) -> Product:
    """What all of them give, as one."""
    if len(parts) == 1:
        return parts[0]

    def product(x: mx.array, residual: mx.array | None) -> mx.array:
        return mx.concatenate([part(x, residual) for part in parts], axis=-1)

    return product
