"""Blocks whose rows decode in few operations: five a layer where all of it fits.

    the norm with q-k-v       one product
    turn, write, attend       one operation (`cache/at_once.py`)
    o, and the residual       one product
    the norm with gate-up     one product, gated
    down, and the residual    one product

That is for one position of each of a few rows, where attention goes at once. Everything else, prompts above all,
goes through the blocks as they are, and so does whatever does not fit: a half of a block may be fused alone.

Between the attention of one layer and that of the next all shapes stay as they are, so those four products are
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
from runner.kernels.product import MOST, Around, Matrix, Norm, Product, Products
from runner.kernels.rows_attention import Heads
from runner.kernels.rows_attention_cuda import turns
from runner.layers import nn
from runner.layers.attention import Attention
from runner.layers.block import Block
from runner.layers.decoder import Decoder
from runner.layers.joined import Joined
from runner.layers.mlp import GatedMLP
from runner.layers.packed import PackedLinear, matrix_of


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
        """[B,1,(H+2K)*D] -> [B,1,H*D]."""
        storage = cast(RowsAtOnce, memory.attention[self.layer])
        return storage.attend_joint(joined, self.heads, scale=self.scale)


class MLPHalf(NamedTuple):
    """A block's second half: x [B,1,E] -> `gate_up` -> `down`, to which x is added."""

    gate_up: Product
    down: Product


class FusedBlock(nn.Module):
    """A block, and its halves for rows that decode."""

    def __init__(self, block: Block, first: AttentionHalf | None, second: MLPHalf | None) -> None:
        """first, second: None for a half that is not fused."""
        super().__init__()
        self.block = block
        # Hidden in a function: a module takes tuples for its parameters.
        self._halves: Callable[[], tuple[AttentionHalf | None, MLPHalf | None]] = lambda: (first, second)

    @property
    def halves(self) -> tuple[AttentionHalf | None, MLPHalf | None]:
        return self._halves()

    def __call__(self, x: mx.array, span: Span, memory: LayerMemory) -> mx.array:
        block = self.block
        first, second = self.halves
        if span.length > 1 or x.shape[0] > MOST:
            return block(x, span, memory)
        if first is None or not first.fits(memory):
            x = x + block.self_attn(block.input_layernorm(x), span, memory)
        else:
            x = first.out(first.attend(first.project(x, None), memory), x)
        if second is None:
            return x + block.mlp(block.post_attention_layernorm(x))
        return second.down(second.gate_up(x, None), x)


Seam = Callable[[mx.array, mx.array], tuple[mx.array, mx.array]]
"""See `_seam`."""


class FusedBlocks(nn.Module):
    """All blocks of a decoder, of which both halves are fused."""

    def __init__(self, blocks: Sequence[FusedBlock]) -> None:
        super().__init__()
        self.blocks = list(blocks)
        halves = [cast(tuple[AttentionHalf, MLPHalf], block.halves) for block in blocks]
        first = [first for first, _ in halves]
        seams = [
            _seam(first, second, following.project if following else None)
            for (first, second), following in zip(halves, [*first[1:], None], strict=True)
        ]
        self._project = first[0].project
        self._layers: Callable[[], Iterable[tuple[AttentionHalf, Seam]]] = lambda: zip(
            first, seams, strict=True
        )
        self._fits = first[0].fits

    def __call__(self, x: mx.array, span: Span, memory: LayerMemory) -> mx.array:
        if span.length > 1 or x.shape[0] > MOST or not self._fits(memory):
            for block in self.blocks:
                x = block(x, span, memory)
            return x
        joined = self._project(x, None)
        for first, seam in self._layers():
            x, joined = seam(x, first.attend(joined, memory))
        return x


def _seam(first: AttentionHalf, second: MLPHalf, project: Product | None) -> Seam:
    """From what a layer's attention found to what the next one's is given; the last layer's gives its x twice.

    x [B,1,E], found [B,1,H*D] -> x [B,1,E], joined [B,1,(H+2K)*D].
    """

    def seam(x: mx.array, found: mx.array) -> tuple[mx.array, mx.array]:
        x = first.out(found, x)
        x = second.down(second.gate_up(x, None), x)
        return x, x if project is None else project(x, None)

    return cast(Seam, mx.compile(seam))


def fuse(model: nn.Module, products: Products | None = None) -> int:
    """Fuse every block that can be, with weights as they are now; how many were.

    products: None for those of the device.
    """
    products = products or choice.products()
    decoder = model.get("model")
    if products is None or not isinstance(decoder, Decoder):
        return 0
    layers = decoder.layers
    fused = [
        _fused(layer, following, products)
        for layer, following in zip(layers, [*layers[1:], None], strict=True)
    ]
    decoder.layers = [one or layer for one, layer in zip(fused, layers, strict=True)]
    blocks = [one for one in fused if one is not None]
    if len(blocks) == len(layers) and all(None not in block.halves for block in blocks):
        decoder.layers = [FusedBlocks(blocks)]
    return len(blocks)


def _fused(layer: object, following: object, products: Products) -> FusedBlock | None:
    if type(layer) is not Block:
        return None
    first = _attention_half(layer, products)
    second = _mlp_half(layer, following, products)
    return None if first is None and second is None else FusedBlock(layer, first, second)


def _attention_half(block: Block, products: Products) -> AttentionHalf | None:
    """None where the attention differs from what is said here."""
    attention = block.self_attn
    if not isinstance(attention, Attention) or not attention.is_plain or not turns(attention.rope.turning):
        return None
    joined, out = _projections(attention), _matrix(attention.o_proj)
    norm, gate_up = _norm(block.input_layernorm), _gate_up(block)
    if joined is None or out is None or norm is None or not (products.fits(joined) and products.fits(out)):
        return None
    return AttentionHalf(
        attention.layer,
        products.make(joined, Around(norm, following=out.weight)),
        products.make(out, Around(following=None if gate_up is None else gate_up.weight, adds=True)),
        Heads(attention.heads, attention.kv_heads, attention.rope.turning, *attention.head_norm_weights()),
        attention.scale,
    )


def _mlp_half(block: Block, following: object, products: Products) -> MLPHalf | None:
    """following: the next layer."""
    gate_up, norm = _gate_up(block), _norm(block.post_attention_layernorm)
    down = None if gate_up is None else _matrix(block.mlp.down_proj)  # type: ignore[attr-defined]  # a GatedMLP
    if (
        gate_up is None
        or down is None
        or norm is None
        or not (products.fits(gate_up) and products.fits(down))
    ):
        return None
    after = _projections(following.self_attn) if type(following) is Block else None
    return MLPHalf(
        products.make(gate_up, Around(norm, gated=True, following=down.weight)),
        products.make(down, Around(following=None if after is None else after.weight, adds=True)),
    )


def _projections(attention: object) -> Matrix | None:
    return _matrix(attention.get("qkv_proj")) if isinstance(attention, Attention) else None


def _gate_up(block: Block) -> Matrix | None:
    return _matrix(block.mlp.get("gate_up_proj")) if type(block.mlp) is GatedMLP else None


def _norm(norm: object) -> Norm | None:
    return Norm(norm.weight, norm.eps) if type(norm) is nn.RMSNorm else None


def _matrix(layer: object) -> Matrix | None:
    if isinstance(layer, Joined):
        layer = layer.whole
    if type(layer) is nn.Linear:
        return Matrix(layer.weight, bias=layer.get("bias"))
    return matrix_of(layer) if type(layer) is PackedLinear else None
