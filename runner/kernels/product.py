"""The product of a few positions with the weight of a linear layer, and what stands around it in a decoder: a norm
before it, the gating of an MLP behind it, the residual that it is added to.

    x [B,L,W] -> [B,L,N]       B*L positions, at most MOST
    gated: the first half of the N outputs gates the second, silu(a) * b: [B,L,N/2]

This is the plain form, of MLX's own operations; `product_cuda.py` has the kernel, which is one operation.

Knows nothing about layers, models or requests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from runner.kernels.activations import PLAIN as PLAIN_ACTIVATIONS

MOST = 32  # positions


class Matrix(NamedTuple):
    """The weight of a linear layer: floats [N,W], or words with their scales and, of affine ones, biases
    [N,W/group_size].

    bias [N]: what the layer adds. mode: how words become numbers, in MLX's words. factor: float32, by which the
    product is multiplied before the bias is added, one or [N]. number: what is computed in, where scales are bytes.
    """

    weight: mx.array
    scales: mx.array | None = None
    biases: mx.array | None = None
    bits: int = 0
    group_size: int = 0
    bias: mx.array | None = None
    mode: str = "affine"
    factor: mx.array | None = None
    number: mx.Dtype = mx.bfloat16

    @property
    def dtype(self) -> mx.Dtype:
        """What is computed in."""
        if self.scales is None:
            return self.weight.dtype
        return self.number if self.scales.dtype == mx.uint8 else self.scales.dtype

    @property
    def width(self) -> int:
        """W."""
        columns: int = self.weight.shape[-1]
        return columns if self.scales is None else columns * 32 // self.bits


class Norm(NamedTuple):
    """An RMS norm of the input. The type of its weight is not that of what comes out."""

    weight: mx.array
    eps: float


class Around(NamedTuple):
    """What stands around a product. following: a weight that will be read next, which may be fetched ahead. adds:
    whether a residual comes with each call.
    """

    norm: Norm | None = None
    gated: bool = False
    following: mx.array | None = None
    adds: bool = False


Product = Callable[[mx.array, mx.array | None], mx.array]
"""x, and the residual that the result is added to, shaped as the result, if `Around.adds`."""


class Products(NamedTuple):
    """A way to multiply a few positions. fits: whether it is there for such a matrix."""

    fits: Callable[[Matrix], bool]
    make: Callable[[Matrix, Around], Product]


def plain(matrix: Matrix, around: Around) -> Product:
    norm = around.norm

    def product(x: mx.array, residual: mx.array | None) -> mx.array:
        if norm is not None:
            x = mx.fast.rms_norm(x, norm.weight, norm.eps).astype(x.dtype)
        y = _times(x, matrix)
        if around.gated:
            y = PLAIN_ACTIVATIONS.swiglu(*mx.split(y, 2, axis=-1))
        return y if residual is None else residual + y

    return product


def _times(x: mx.array, matrix: Matrix) -> mx.array:
    if matrix.scales is None:
        y = x @ matrix.weight.T
    else:
        y = mx.quantized_matmul(
            x,
            matrix.weight,
            matrix.scales,
            matrix.biases,
            group_size=matrix.group_size,
            bits=matrix.bits,
            mode=matrix.mode,
        )
    if matrix.factor is not None:
        y = (y * matrix.factor).astype(y.dtype)
    return y if matrix.bias is None else y + matrix.bias


PLAIN = Products(lambda matrix: True, plain)
