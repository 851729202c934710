"""Making quantized matrices, one at a time, for an import.

Knows nothing about which are quantized, or about files.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from runner.importing.plan import Item
from runner.machine import device, memory

# Numbers at a time. A CPU needs some eighty bytes for each in the modes with byte scales.
AT_ONCE: dict[device.Kind, int] = {"cpu": 2**18, "metal": 2**24, "cuda": 2**24}
DTYPES = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}


def quantize(item: Item, source: bytes) -> Sequence[bytes]:
    """One source of an item -> its codes, scales and, for affine, biases; on MLX's default device."""
    how, matrix = item.how, _matrix(item, source)
    rows = max(1, AT_ONCE[device.kind()] // matrix.shape[1])
    made: list[list[bytes]] = []
    for first in range(0, matrix.shape[0], rows):
        parts = mx.quantize(matrix[first : first + rows], how.group_size, how.bits, mode=how.mode)
        made.append([bytes(memoryview(mx.contiguous(part))) for part in parts])  # type: ignore[arg-type]  # not in its stubs
        memory.release_buffers()
    return [b"".join(blocks) for blocks in zip(*made, strict=True)]


def _matrix(item: Item, source: bytes) -> mx.array:
    """[out,in]"""
    numbers = mx.array(memoryview(source)).view(DTYPES[item.dtype])  # type: ignore[arg-type]  # not in its stubs
    rows, width = item.shape[-2:]
    turned = item.turned
    if turned is None:
        return numbers.reshape(-1, width)
    return numbers.reshape(width, rows * turned.step).T[turned.first :: turned.step]
