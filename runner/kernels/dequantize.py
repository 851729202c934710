"""Packed numbers become floats, for products of many positions.

    weight [..,N,C] uint32       codes of `bits` bits one behind the other; a row is W of them
    scales, biases [..,N,W/g]    one of each for g inputs
    dense [..,N,W]               scale * code + bias, in the type of the scales

Knows nothing about layers, models or requests.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

Dequantize = Callable[[mx.array, mx.array, mx.array, int], mx.array]
"""weight, scales, biases, bits -> dense."""


def plain(weight: mx.array, scales: mx.array, biases: mx.array, bits: int) -> mx.array:
    group = weight.shape[-1] * 32 // bits // scales.shape[-1]
    return mx.dequantize(weight, scales, biases, group_size=group, bits=bits)
