"""Kernels for rows that decode together find what the plain form finds. They run where there is a CUDA device."""

from __future__ import annotations

import random
from typing import NamedTuple

import mlx.core as mx
import pytest

from runner.kernels.rows_attention import LANE, PLAIN, Lanes, Own, Query
from runner.kernels.rows_attention_cuda import CUDA
from runner.machine import device

pytestmark = pytest.mark.skipif(device.kind() != "cuda", reason="needs a CUDA device")


class Kind(NamedTuple):
    heads: int = 8
    kv_heads: int = 2
    width: int = 64
    dtype: mx.Dtype = mx.float32
    window: int | None = None
    sinks: bool = False


KINDS = {
    "one head for all": Kind(kv_heads=1),
    "a head of its own for each": Kind(kv_heads=8),
    "three that share": Kind(9, 3),
    "sixteen that share": Kind(32, 2),
    "narrow": Kind(width=16),
    "wide": Kind(width=128),
    "widest": Kind(width=256),
    "bfloat16": Kind(32, 8, 128, mx.bfloat16),
    "float16": Kind(dtype=mx.float16),
    "window": Kind(window=100),
    "window within a lane": Kind(window=7),
    "sinks": Kind(sinks=True),
    "sinks and window": Kind(width=128, window=2000, sinks=True),
}
LENGTHS = {
    "a few": [1, 2, 3],
    "some hundred": [500, 3, 129, 256],
    "a long one among short ones": [5, 9000, 70],
    "many": [37 * number + 1 for number in range(12)],
}
TOLERANCE = {mx.float32: 2e-5, mx.bfloat16: 2e-2, mx.float16: 2e-3}


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", KINDS)
def test_the_kernel_finds_what_the_plain_form_finds(name: str, lengths: str) -> None:
    kind, draw = KINDS[name], random.Random(f"{name} {lengths}")
    mx.random.seed(draw.randrange(1000))
    rows = [row(kind, length, draw) for length in LENGTHS[lengths]]
    most = len(rows) + 2
    lanes = Lanes(*(normal(kind, most * LANE, kind.kv_heads, kind.width) for _ in range(2)))
    numbers = draw.sample(range(most), len(rows))
    places = mx.array([number * LANE + draw.randrange(LANE) for number in numbers], mx.int32)
    query = Query(
        normal(kind, len(rows), kind.heads, 1, kind.width),
        places,
        kind.width**-0.5,
        normal(kind, kind.heads) if kind.sinks else None,
        max(row.end for row in rows) + LANE,
    )
    assert CUDA.fits(rows[0])
    found = CUDA.make(rows, kind.window, most)(query, lanes)
    expected = PLAIN.make(rows, kind.window, most)(query, lanes)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert mx.allclose(found, expected, rtol=0, atol=TOLERANCE[kind.dtype])


def row(kind: Kind, length: int, draw: random.Random) -> Own:
    """A row whose buffers have room left, and of which a window's storage may have forgotten the beginning."""
    start = 0 if kind.window is None else draw.randrange(max(1, length - kind.window))
    room = length - start + draw.randrange(1, 300)
    keys, values = (normal(kind, 1, kind.kv_heads, room, kind.width) for _ in range(2))
    return Own(keys, values, start, length)


def normal(kind: Kind, *shape: int) -> mx.array:
    return mx.random.normal(shape).astype(kind.dtype)
