"""Blocks whose rows decode in few operations: five a layer where all of it fits.

    the norm with q-k-v       one product
    turn, write, attend       one operation (`cache/at_once.py`)
    o, and the residual       one product
    the norm with gate-up     one product, gated
    down, and the residual    one product

That is for one position of each of a few rows, where attention goes at once. Linear attention goes in as many
(`fused_linear.py`); a mixture of experts has three in the place of the last two (`fused_experts.py`). Everything
else, prompts above all, goes through the blocks as they are, and so does whatever does not fit: a half of a block
may be fused alone.

Between the attention of one layer and that of the next all shapes stay as they are, so those products are
compiled: MLX then makes their graph without Python.

Shapes: see the legend in `models/base.py`.

Knows nothing about config files, tokens or requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, cast

import mlx.core as mx

from runner.cache.at_once import RowsAtOnce
from runner.cache.base import LayerMemory
from runner.cache.span import Span
from runner.kernels import choice
from runner.kernels.delta import Steps
from runner.kernels.experts import Mixing
from runner.kernels.product import MOST, Around, Product, Products
from runner.kernels.rows_attention import Heads
from runner.kernels.rows_attention_cuda import turns
from runner.layers import nn
from runner.layers.attention import Attention
from runner.layers.block import Block
from runner.layers.decoder import Decoder
from runner.layers.fused_experts import MixtureHalf, mixture_half
from runner.layers.fused_linear import LinearHalf, linear_half
from runner.layers.linear_block import LinearBlock
from runner.layers.matrices import (
    block_of,
    first_projections,
    gate_up_of,
    matrix,
    norm_of,
    projections,
    second_projections,
)


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


class MLPHalf(NamedTuple):
    """A block's second half: x [B,1,E] -> `gate_up` -> `down`, to which x is added."""

    gate_up: Product
    down: Product

    def __call__(self, x: mx.array) -> mx.array:
        return self.down(self.gate_up(x, None), x)


FirstHalf = AttentionHalf | LinearHalf
SecondHalf = MLPHalf | MixtureHalf


class FusedBlock(nn.Module):
    """A block, and its halves for rows that decode."""

    def __init__(
        self, block: Block | LinearBlock, first: FirstHalf | None, second: SecondHalf | None
    ) -> None:
        """first, second: None for a half that is not fused."""
        super().__init__()
        self.block = block
        # Hidden in a function: a module takes tuples for its parameters.
        self._halves: Callable[[], tuple[FirstHalf | None, SecondHalf | None]] = lambda: (first, second)

    @property
    def halves(self) -> tuple[FirstHalf | None, SecondHalf | None]:
        return self._halves()

    def __call__(self, x: mx.array, span: Span, memory: LayerMemory) -> mx.array:
        block = self.block
        first, second = self.halves
        if span.length > 1 or x.shape[0] > MOST:
            return block(x, span, memory)
        if first is None or not first.fits(memory):
            x = block.attended(x, span, memory)
        else:
            x = first.out(first.attend(first.project(x, None), memory), x)
        if second is None:
            return x + block.mlp(block.post_attention_layernorm(x))
        return second(x)


Seam = Callable[[mx.array, mx.array], tuple[mx.array, mx.array]]
"""See `_seam`."""


class FusedBlocks(nn.Module):
    """All blocks of a decoder, of which both halves are fused."""

    def __init__(self, blocks: Sequence[FusedBlock]) -> None:
        super().__init__()
        self.blocks = list(blocks)
        halves = [cast(tuple[FirstHalf, SecondHalf], block.halves) for block in blocks]
        first = [first for first, _ in halves]
        seams = [
            _seam(first, second, following.project if following else None)
            for (first, second), following in zip(halves, [*first[1:], None], strict=True)
        ]
        self._project = first[0].project
        self._layers: Callable[[], Iterable[tuple[FirstHalf, Seam]]] = lambda: zip(first, seams, strict=True)
        kinds = {type(half): half for half in first}  # layers of a kind fit, or none does
        self._fits: Callable[[LayerMemory], bool] = lambda memory: all(
            half.fits(memory) for half in kinds.values()
        )

    def __call__(self, x: mx.array, span: Span, memory: LayerMemory) -> mx.array:
        if span.length > 1 or x.shape[0] > MOST or not self._fits(memory):
            for block in self.blocks:
                x = block(x, span, memory)
            return x
        joined = self._project(x, None)
        for first, seam in self._layers():
            x, joined = seam(x, first.attend(joined, memory))
        return x


def _seam(first: FirstHalf, second: SecondHalf, project: Product | None) -> Seam:
    """From what a layer's attention found to what the next one's is given; the last layer's gives its x twice.

    x [B,1,E], found [B,1,H*D] -> x [B,1,E], and what the next layer projects.
    """

    def seam(x: mx.array, found: mx.array) -> tuple[mx.array, mx.array]:
        x = second(first.out(found, x))
        return x, x if project is None else project(x, None)

    return cast(Seam, mx.compile(seam))


def fuse(
    model: nn.Module,
    products: Products | None = None,
    steps: Steps | None = None,
    mixing: Mixing | None = None,
) -> int:
    """Fuse every block that can be, with weights as they are now; how many were.

    products, steps, mixing: None for those of the device.
    """
    products = products or choice.products()
    steps, mixing = steps or choice.linear_steps(), mixing or choice.mixing()
    decoder = model.get("model")
    if products is None or not isinstance(decoder, Decoder):
        return 0
    layers = decoder.layers
    fused = [
        _fused(layer, following, products, steps, mixing)
        for layer, following in zip(layers, [*layers[1:], None], strict=True)
    ]
    decoder.layers = [one or layer for one, layer in zip(fused, layers, strict=True)]
    blocks = [one for one in fused if one is not None]
    if len(blocks) == len(layers) and all(None not in block.halves for block in blocks):
        decoder.layers = [FusedBlocks(blocks)]
    return len(blocks)


def _fused(
    layer: object, following: object, products: Products, steps: Steps | None, mixing: Mixing | None
) -> FusedBlock | None:
    block = block_of(layer)
    if block is None:
        return None
    first: FirstHalf | None
    if isinstance(block, LinearBlock):
        first = linear_half(block, products, steps)
    else:
        first = _attention_half(block, products)
    second = _mlp_half(block, following, products) or mixture_half(
        block.mlp, norm_of(block.post_attention_layernorm), _first_weight(following), products, mixing
    )
    return None if first is None and second is None else FusedBlock(block, first, second)


def _attention_half(block: Block, products: Products) -> AttentionHalf | None:
    """None where the attention differs from what is said here."""
    attention = block.self_attn
    if not isinstance(attention, Attention) or not attention.is_plain or not turns(attention.rope.turning):
        return None
    joined, out = projections(attention), matrix(attention.o_proj)
    norm, second = norm_of(block.input_layernorm), second_projections(block)
    if joined is None or out is None or norm is None or not (products.fits(joined) and products.fits(out)):
        return None
    return AttentionHalf(
        attention.layer,
        products.make(joined, Around(norm, following=out.weight)),
        products.make(out, Around(following=None if second is None else second.weight, adds=True)),
        _heads(attention),
        attention.scale,
    )


def _heads(attention: Attention) -> Heads:
    counts = attention.heads, attention.kv_heads
    return Heads(*counts, attention.rope.turning, *attention.head_norm_weights(), attention.is_gated)


def _mlp_half(block: Block | LinearBlock, following: object, products: Products) -> MLPHalf | None:
    """following: the next layer."""
    gate_up, norm = gate_up_of(block), norm_of(block.post_attention_layernorm)
    down = None if gate_up is None else matrix(block.mlp.down_proj)  # type: ignore[attr-defined]  # a GatedMLP
    if (
        gate_up is None
        or down is None
        or norm is None
        or not (products.fits(gate_up) and products.fits(down))
    ):
        return None
    return MLPHalf(
        products.make(gate_up, Around(norm, gated=True, following=down.weight)),
        products.make(down, Around(following=_first_weight(following), adds=True)),
    )


def _first_weight(layer: object) -> mx.array | None:
    read = first_projections(layer)
    return None if read is None else read.weight
