"""Quantizing what an item is made of, block by block."""

from __future__ import annotations

import mlx.core as mx
import pytest

from runner.importing import quantizing
from runner.importing.plan import Item, Turned
from runner.quantization.make import AT_ONCE
from runner.quantization.matrix import DTYPES
from runner.quantization.settings import KINDS
from tests.parts.quantized import quantize


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turned", [None, Turned(1, 2)])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_blocks_of_a_matrix_make_the_whole(kind: str, turned: Turned | None, dtype: str) -> None:
    rows, width = 301, 1024
    assert rows * width > AT_ONCE["cpu"]
    matrix = mx.random.normal((rows, width), key=mx.random.key(0)).astype(DTYPES[dtype])
    source = matrix
    if turned:
        source = mx.stack([mx.zeros_like(matrix.T), matrix.T], axis=-1).reshape(width, 2 * rows)
    item = Item("x.weight", dtype, (4, rows, width), (), kind, turned)
    made = quantizing.quantize(item, bytes(memoryview(source)))  # type: ignore[arg-type]  # not in MLX's stubs
    whole = [bytes(memoryview(part)) for part in quantize(matrix, KINDS[kind])]  # type: ignore[arg-type]
    assert list(made) == whole
