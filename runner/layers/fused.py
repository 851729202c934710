"""Blocks whose rows decode in few operations.

    first half     three: what it projects, its attention, o        `fused_attention.py`, `fused_linear.py`
    second half    two: gate-up, down; or three with experts        `fused_mlp.py`, `fused_experts.py`
    or two in all: the attention, and all that is between two attentions (`kernels/seam.py`)

That is for one position of each of a few rows; a second half may as well have the few positions of a short prompt.
Everything else goes through the blocks as they are, and so does whatever does not fit: a half of a block may be
fused alone.

Between the attention of one layer and that of the next all shapes stay as they are, so what is there is compiled:
MLX then makes its graph without Python.

Shapes: see the legend in `models/base.py`.

Knows nothing about config files, tokens or requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import mlx.core as mx

from runner.cache.base import LayerMemory
from runner.cache.span import Span
from runner.kernels import choice
from runner.kernels.few_rows import FewRows
from runner.kernels.product import MOST, Product
from runner.kernels.seam import Parts, Seam
from runner.layers import nn
from runner.layers.block import Block
from runner.layers.decoder import Decoder
from runner.layers.fused_attention import AttentionHalf, attention_half
from runner.layers.fused_experts import MixtureHalf, mixture_half
from runner.layers.fused_linear import LinearHalf, linear_half
from runner.layers.fused_mlp import MLPHalf, mlp_half
from runner.layers.linear_block import LinearBlock
from runner.layers.matrices import (
    all_projections,
    block_of,
    down_of,
    first_weight,
    gate_up_of,
    norm_of,
    out_of,
)
from runner.layers.shards import PartOfSum

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
        first, _ = self.halves
        if x.shape[0] * x.shape[1] > MOST:
            return block(x, span, memory)
        if span.length > 1:
            x = block.attended(x, span, memory)
            return self._second(x.reshape(-1, 1, x.shape[-1])).reshape(x.shape)
        if first is None or not first.fits(memory):
            x = block.attended(x, span, memory)
        else:
            x = first.out(first.attend(first.project(x, None), memory), x)
        return self._second(x)

    def _second(self, x: mx.array) -> mx.array:
        """The second half of few positions [P,1,E]: it does not matter to it whose they are."""
        second = self.halves[1]
        if second is None:
            return x + self.block.mlp(self.block.post_attention_layernorm(x))
        return second(x)


class FusedBlocks(nn.Module):
    """All blocks of a decoder, of which both halves are fused."""

    def __init__(self, blocks: Sequence[FusedBlock], ways: FewRows) -> None:
        super().__init__()
        self.blocks = list(blocks)
        first = [cast(FirstHalf, block.halves[0]) for block in blocks]
        seams = [
            _seam(block, following, ways)
            for block, following in zip(blocks, [*blocks[1:], None], strict=True)
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


def _seam(block: FusedBlock, following: FusedBlock | None, ways: FewRows) -> Seam:
    """From what a layer's attention found to what the next one's is given; the last layer's gives its x twice.

    x [B,1,E], found [B,1,H*D] -> x [B,1,E], and what the next layer projects.
    """
    parts = _parts(block.block, None if following is None else following.block)
    seam = None if parts is None else ways.seam(parts)
    if isinstance(block.block.mlp, PartOfSum):
        return _seam_of_halves(
            block, following
        )  # a sum of several processes stays what is called when it is due
    return cast(Seam, mx.compile(seam or _seam_of_halves(block, following)))


def _seam_of_halves(block: FusedBlock, following: FusedBlock | None) -> Seam:
    first, second = cast(tuple[FirstHalf, SecondHalf], block.halves)
    after = None if following is None else following.halves[0]
    project: Product | None = None if after is None else after.project

    def seam(x: mx.array, found: mx.array) -> tuple[mx.array, mx.array]:
        x = second(first.out(found, x))
        return x, x if project is None else project(x, None)

    return seam


def _parts(block: Block | LinearBlock, following: Block | LinearBlock | None) -> Parts | None:
    """None where more or fewer products stand between two attentions, or a sum of several processes."""
    if isinstance(block.mlp, PartOfSum):
        return None
    out, gate_up, down = out_of(block), gate_up_of(block), down_of(block)
    norm, after = norm_of(block.post_attention_layernorm), all_projections(following)
    if out is None or gate_up is None or down is None or norm is None:
        return None
    if following is None:
        return Parts(out, norm, gate_up, down, None, None)
    next_norm = norm_of(following.input_layernorm)
    if next_norm is None or len(after) != 1:
        return None
    return Parts(out, norm, gate_up, down, next_norm, after[0])


def fuse(model: nn.Module, ways: FewRows | None = None) -> int:
    """Fuse every block that can be, with weights as they are now; how many were.

    ways: None for those of the device.
    """
    ways = ways or choice.few_rows()
    decoder = model.get("model")
    if ways is None or not isinstance(decoder, Decoder):
        return 0
    layers = decoder.layers
    fused = [
        _fused(layer, following, ways) for layer, following in zip(layers, [*layers[1:], None], strict=True)
    ]
    decoder.layers = [one or layer for one, layer in zip(fused, layers, strict=True)]
    blocks = [one for one in fused if one is not None]
    if len(blocks) == len(layers) and all(None not in block.halves for block in blocks):
        decoder.layers = [FusedBlocks(blocks, ways)]
    return len(blocks)


def _fused(layer: object, following: object, ways: FewRows) -> FusedBlock | None:
    block = block_of(layer)
    if block is None:
        return None
    products, after = ways.products, first_weight(following)
    first: FirstHalf | None
    if isinstance(block, LinearBlock):
        first = linear_half(block, products, ways.steps)
    else:
        first = attention_half(block, products)
    norm = norm_of(block.post_attention_layernorm)
    second = mlp_half(block, after, products) or mixture_half(block.mlp, norm, after, products, ways.mixing)
    return None if first is None and second is None else FusedBlock(block, first, second)
