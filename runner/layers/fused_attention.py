"""The first half of a block of attention whose rows decode in three operations.

    the norm with q-k-v       one product
    turn, write, attend       one operation (`cache/at_once.py`)
    o, and the residual       one product

Shapes: see the legend in `models/base.py`.

Knows nothing about config files, tokens or requests.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import mlx.core as mx

from runner.cache.at_once import RowsAtOnce
from runner.cache.base import LayerMemory
from runner.kernels.product import Around, Product, Products
from runner.kernels.rows_attention import Heads
from runner.kernels.rows_attention_cuda import turns
from runner.layers.attention import Attention
from runner.layers.block import Block
from runner.layers.ending import ending
from runner.layers.matrices import matrix, norm_of, ours, projections, second_projections


class AttentionHalf(NamedTuple):
    """A block's first half: x [B,1,E] -> `project` -> `attend` -> `out`, to which x is added."""

    layer: int
    project: Product
    out: Product
    heads: Heads
    scale: float

    def fits(self, memory: LayerMemory) -> bool:
        return isinstance(memory.attention[self.layer], RowsAtOnce)

    def attend(self, joined: mx.array, memory: LayerMemory) -> mx.array:
        """`Joint.joined` -> [B,1,H*D]."""
        storage = cast(RowsAtOnce, memory.attention[self.layer])
        return storage.attend_joint(joined, self.heads, scale=self.scale)


def attention_half(block: Block, products: Products) -> AttentionHalf | None:
    """None where the attention differs from what is said here."""
    attention = ours(block.self_attn)
    if not isinstance(attention, Attention) or not attention.is_plain or not turns(attention.rope.turning):
        return None
    joined, out = projections(attention), matrix(attention.o_proj)
    norm, second = norm_of(block.input_layernorm), second_projections(block)
    if joined is None or out is None or norm is None or not (products.fits(joined) and products.fits(out)):
        return None
    return AttentionHalf(
        attention.layer,
        products.make(joined, Around(norm, following=out.weight)),
        ending(block.self_attn, out, None if second is None else second.weight, products),
        _heads(attention),
        attention.scale,
    )


def _heads(attention: Attention) -> Heads:
    counts = attention.heads, attention.kv_heads
    return Heads(*counts, attention.rope.turning, *attention.head_norm_weights(), attention.is_gated)
