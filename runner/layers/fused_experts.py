"""The second half of a block whose MLP is a mixture of experts, for rows that decode: three operations.

    the norm with the router's product      `kernels/product.py`
    gate and up of the chosen experts       `kernels/experts.py`
    their down, and the residual            the same

A shared expert of the same width and kind is one more of those chosen.

Shapes: see `layers/moe.py`.

Knows nothing about config files, tokens or requests.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from runner.kernels.experts import Bank, Mix, Mixing, Shared
from runner.kernels.product import Around, Matrix, Norm, Product, Products
from runner.layers.matrices import matrix, router_of
from runner.layers.mlp import GatedMLP
from runner.layers.moe import ExpertLinear, Experts, SparseMLP
from runner.layers.packed import PackedExperts, matrix_of
from runner.layers.shared_expert import SharedSparseMLP


class MixtureHalf(NamedTuple):
    """A block's second half: x [B,1,E] -> [B,1,E]."""

    router: Product
    mix: Mix

    def __call__(self, x: mx.array) -> mx.array:
        return self.mix(x, self.router(x, None))


def mixture_half(
    mlp: object, norm: Norm | None, following: mx.array | None, products: Products, mixing: Mixing
) -> MixtureHalf | None:
    """following: the weight that is read next. None where the MLP differs from what is said here."""
    router = router_of(mlp)
    if router is None or norm is None:
        return None
    assert isinstance(mlp, SparseMLP)  # or there is no such router
    bank = _bank(mlp, norm, following)
    if bank is None or not (products.fits(router) and mixing.fits(bank)):
        return None
    certain = None if bank.shared is None else bank.shared.gate_up.weight
    return MixtureHalf(products.make(router, Around(norm, following=certain)), mixing.make(bank))


def _bank(mlp: SparseMLP, norm: Norm, following: mx.array | None) -> Bank | None:
    experts = mlp.experts
    if type(experts) is not Experts:
        return None
    gate, up, down = (_expert_matrix(experts[name]) for name in ("gate_proj", "up_proj", "down_proj"))
    if gate is None or up is None or down is None:
        return None
    bank = Bank(gate, up, down, norm, mlp.active, mlp.normalized, following=following)
    if type(mlp) is not SharedSparseMLP:
        return bank
    shared = _shared(mlp.shared_expert)
    return None if shared is None else bank._replace(shared=shared)


def _shared(mlp: GatedMLP) -> Shared | None:
    gate_up, down = matrix(mlp.get("gate_up_proj")), matrix(mlp.down_proj)
    return None if gate_up is None or down is None else Shared(gate_up, down)


def _expert_matrix(layer: object) -> Matrix | None:
    """[N,F,E] or [N,E,F]."""
    if type(layer) is ExpertLinear:
        return Matrix(layer.weight)
    return matrix_of(layer) if type(layer) is PackedExperts else None
