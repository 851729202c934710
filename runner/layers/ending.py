"""The product that a half of a block ends with, for rows that decode.

Knows nothing about config files, tokens or requests.
"""

from __future__ import annotations

import mlx.core as mx

from runner.kernels.product import Around, Matrix, Product, Products
from runner.layers.shards import PartOfSum


def ending(layer: object, matrix: Matrix, following: mx.array | None, products: Products) -> Product:
    """With the residual that is added. layer: what the half is made of; where it is divided among processes, all of
    them add up what they found, the residual once.
    """
    if not isinstance(layer, PartOfSum):
        return products.make(matrix, Around(following=following, adds=True))
    is_first, whole = layer.is_first, layer.whole
    product = products.make(matrix, Around(following=following, adds=is_first))

    def added_up(x: mx.array, residual: mx.array | None) -> mx.array:
        return whole(product(x, residual if is_first else None))

    return added_up
