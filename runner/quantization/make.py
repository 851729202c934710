"""Making quantized matrices, one at a time.

Knows nothing about which are quantized, or about files.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from runner.machine import device, memory
from runner.quantization.settings import Quantization

# Numbers at a time. A CPU needs some eighty bytes for each in the modes with byte scales.
AT_ONCE: dict[device.Kind, int] = {"cpu": 2**18, "metal": 2**24, "cuda": 2**24}


def quantize(matrix: mx.array, how: Quantization) -> Sequence[bytes]:
    """[out,in] -> its codes, scales and, for affine, biases; on MLX's default device."""
    rows = max(1, AT_ONCE[device.kind()] // matrix.shape[1])
    made: list[list[bytes]] = []
    for first in range(0, matrix.shape[0], rows):
        parts = mx.quantize(matrix[first : first + rows], how.group_size, how.bits, mode=how.mode)
        made.append([bytes(memoryview(mx.contiguous(part))) for part in parts])  # type: ignore[arg-type]  # not in its stubs
        memory.release_buffers()
    return [b"".join(blocks) for blocks in zip(*made, strict=True)]
