"""What stands in a block, as products of a few positions have it (`kernels/product.py`); None for what they do not
have, or for what is not known to be just that.

Knows nothing about config files, tokens or requests.
"""

from __future__ import annotations

import mlx.core as mx

from runner.kernels.product import Matrix, Norm
from runner.layers import nn
from runner.layers.attention import Attention
from runner.layers.block import Block
from runner.layers.gated_delta import WHOLE, GatedDeltaNet
from runner.layers.joined import Joined
from runner.layers.linear_block import LinearBlock
from runner.layers.mlp import GatedMLP
from runner.layers.moe import SparseMLP
from runner.layers.norms import ZeroCentredNorm
from runner.layers.packed import PackedLinear, matrix_of
from runner.layers.shards import PartOfSum
from runner.layers.shared_expert import SharedSparseMLP

FORWARDS = (Block.__call__, LinearBlock.__call__)


def block_of(layer: object) -> Block | LinearBlock | None:
    """The layer, if it is a block that goes the usual way, whatever it is made of."""
    if isinstance(layer, Block | LinearBlock) and type(layer).__call__ in FORWARDS:
        return layer
    return None


def ours(layer: object) -> object:
    """The layer; where it is divided among processes, this one's part of it."""
    return layer.part if isinstance(layer, PartOfSum) else layer


def first_weight(layer: object) -> mx.array | None:
    """What a block reads first."""
    return next((one.weight for one in all_projections(block_of(layer))), None)


def all_projections(block: Block | LinearBlock | None) -> list[Matrix]:
    """All that the first half of a block reads its input with, in the order of the outputs."""
    if isinstance(block, LinearBlock):
        return linear_projections(ours(block.linear_attn))
    found = None if block is None else projections(ours(block.self_attn))
    return [] if found is None else [found]


def out_of(block: Block | LinearBlock) -> Matrix | None:
    """What the first half of a block ends with."""
    if isinstance(block, LinearBlock):
        linear = ours(block.linear_attn)
        return matrix(linear.out_proj) if isinstance(linear, GatedDeltaNet) else None
    attention = ours(block.self_attn)
    return matrix(attention.o_proj) if isinstance(attention, Attention) else None


def projections(attention: object) -> Matrix | None:
    """All that attention reads its input with."""
    return matrix(attention.get("qkv_proj")) if isinstance(attention, Attention) else None


def linear_projections(attention: object) -> list[Matrix]:
    """The same of linear attention, in the order of the outputs: in one, or those of rates and decays apart."""
    if not isinstance(attention, GatedDeltaNet):
        return []
    names = [WHOLE] if WHOLE in attention else ["in_proj_qkvz", "in_proj_ba"]
    found = [matrix(attention.get(name)) for name in names]
    return [] if None in found else [one for one in found if one is not None]


def gate_up_of(block: Block | LinearBlock) -> Matrix | None:
    mlp = ours(block.mlp)
    return matrix(mlp.get("gate_up_proj")) if type(mlp) is GatedMLP else None


def down_of(block: Block | LinearBlock) -> Matrix | None:
    mlp = ours(block.mlp)
    return matrix(mlp.down_proj) if type(mlp) is GatedMLP else None


def router_of(mlp: object) -> Matrix | None:
    """[N,E], or [N+1,E] where there is a shared expert."""
    if type(mlp) is SparseMLP:
        return matrix(mlp.gate)
    return matrix(mlp.get("router")) if type(mlp) is SharedSparseMLP else None


def second_projections(block: Block | LinearBlock) -> Matrix | None:
    """What the second half of a block reads first."""
    return gate_up_of(block) or router_of(block.mlp)


def norm_of(norm: object) -> Norm | None:
    if type(norm) is nn.RMSNorm or type(norm) is ZeroCentredNorm:
        return Norm(norm.weight, norm.eps)
    return None


def matrix(layer: object) -> Matrix | None:
    if isinstance(layer, Joined):
        layer = layer.whole
    if type(layer) is nn.Linear:
        return Matrix(layer.weight, bias=layer.get("bias"))
    return matrix_of(layer) if type(layer) is PackedLinear else None
