"""From an item's bytes to the quantized matrix that an import writes.

The only file here that needs MLX, so whoever imports without quantizing does without it. Knows nothing about files.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from runner.importing.plan import Item
from runner.quantization import make
from runner.quantization.matrix import DTYPES


def quantize(item: Item, source: bytes) -> Sequence[bytes]:
    """One source of an item -> its codes, scales and, for affine, biases."""
    return make.quantize(_matrix(item, source), item.how)


def _matrix(item: Item, source: bytes) -> mx.array:
    """[out,in]"""
    numbers = mx.array(memoryview(source)).view(DTYPES[item.dtype])  # type: ignore[arg-type]  # not in its stubs
    rows, width = item.shape[-2:]
    turned = item.turned
    if turned is None:
        return numbers.reshape(-1, width)
    return numbers.reshape(width, rows * turned.step).T[turned.first :: turned.step]
