"""All ways of a device to compute what a few rows need that decode.

Knows nothing about layers, models or requests.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from runner.kernels import delta, experts, product
from runner.kernels.delta import Steps
from runner.kernels.experts import Mixing
from runner.kernels.product import Products
from runner.kernels.seam import Parts, Seam, of_products


class FewRows(NamedTuple):
    """products: of a few positions with a weight, and what stands around. steps: of linear attention. mixing:
    through a mixture of experts. seam: all between two attentions at once; None for parts that it is not for.
    """

    products: Products
    steps: Steps
    mixing: Mixing
    seam: Callable[[Parts], Seam | None]


PLAIN = FewRows(product.PLAIN, delta.PLAIN, experts.PLAIN, partial(of_products, products=product.PLAIN))
