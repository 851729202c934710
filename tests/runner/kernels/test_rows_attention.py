"""Kernels for rows that decode together find what the plain form finds. They run where there is a CUDA device."""

from __future__ import annotations

import random
from typing import NamedTuple

import mlx.core as mx
import pytest

from runner.kernels.rotation import Turning
from runner.kernels.rows_attention import LANE, PLAIN, Heads, Joint, Lanes, Own, Query
from runner.kernels.rows_attention_cuda import CUDA, turns
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
    "bfloat16, narrow, sixteen that share": Kind(32, 2, 64, mx.bfloat16),
    "bfloat16, seven that share": Kind(28, 4, 128, mx.bfloat16, 2000, sinks=True),
    "float16": Kind(dtype=mx.float16),
    "float16, eight that share": Kind(16, 2, 256, mx.float16),
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
STEP = 5  # since the attention was made
TOLERANCE = {mx.float32: 2e-5, mx.bfloat16: 2e-2, mx.float16: 2e-3}


def sliced(kind: Kind, rows: int, heads: int) -> mx.array:
    """[B,H,1,D] as they come out of a joined projection: not one behind the other."""
    return normal(kind, rows, heads, 1, 2 * kind.width)[..., : kind.width]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", KINDS)
def test_the_kernel_finds_what_the_plain_form_finds(name: str, lengths: str) -> None:
    kind, draw = KINDS[name], random.Random(f"{name} {lengths}")
    mx.random.seed(draw.randrange(1000))
    rows = [row(kind, length, draw) for length in LENGTHS[lengths]]
    most = len(rows) + 2
    lanes = [made_lanes(kind, most) for _ in range(2)]
    numbers = draw.sample(range(most), len(rows))
    rows = [
        one._replace(place=number * LANE + draw.randrange(LANE - STEP))
        for number, one in zip(numbers, rows, strict=True)
    ]
    new = tuple(sliced(kind, len(rows), kind.kv_heads) for _ in range(2))
    query = Query(
        sliced(kind, len(rows), kind.heads),
        STEP,
        kind.width**-0.5,
        normal(kind, kind.heads) if kind.sinks else None,
        max(row.end for row in rows) + LANE,
        (new[0], new[1]),
    )
    assert CUDA.fits(rows[0])
    ways = [way.make(rows, kind.window, most) for way in (CUDA, PLAIN)]
    for asked in (query, query._replace(new=None)):
        found, expected = (way.attend(asked, lane) for way, lane in zip(ways, lanes, strict=True))
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        assert mx.allclose(found, expected, rtol=0, atol=TOLERANCE[kind.dtype])
    mx.eval(found)
    assert all(mx.array_equal(ours, theirs) for ours, theirs in zip(*lanes, strict=True))


JOINT = {
    "as they are": Kind(),
    "normed": Kind(width=128),
    "bfloat16": Kind(32, 8, 128, mx.bfloat16),
    "three that share": Kind(9, 3),
    "in part turned": Kind(width=128, window=100),
    "gated": Kind(16, 4, 256, mx.bfloat16),
    "float16": Kind(10, 2, 64, mx.float16),
}


@pytest.mark.parametrize("lengths", [*LENGTHS, "one", "a long one"])
@pytest.mark.parametrize("name", JOINT)
def test_joined_heads_are_turned_and_find_what_the_plain_form_finds(name: str, lengths: str) -> None:
    kind, draw = JOINT[name], random.Random(f"{name} {lengths}")
    mx.random.seed(draw.randrange(1000))
    held = LENGTHS.get(lengths) or [7000 if "long" in lengths else 300]
    rows = [row(kind, length, draw) for length in held]
    most = len(rows)
    lanes = [made_lanes(kind, most) for _ in range(2)]
    rows = [
        one._replace(place=number * LANE + draw.randrange(LANE - STEP)) for number, one in enumerate(rows)
    ]
    norms = (normal(kind, kind.width), normal(kind, kind.width)) if name in ("normed", "gated") else None
    turning = Turning(kind.width, kind.width // (2 if "part" in name else 1), 500_000.0)
    heads = Heads(kind.heads, kind.kv_heads, turning, norms, 1e-6, is_gated=name == "gated")
    joined = normal(kind, most, 1, heads.joined * kind.width)
    joint = Joint(joined, heads, STEP, kind.width**-0.5, max(held) + LANE)
    assert turns(turning)
    found, expected = (
        way.make(rows, kind.window, most).attend_joint(joint, lane)
        for way, lane in zip((CUDA, PLAIN), lanes, strict=True)
    )
    assert found.shape == expected.shape
    # The last bit of a frequency, which two ways of making it may differ in, is much at a far position.
    atol = 3 * TOLERANCE[kind.dtype] + 2e-6 * max(held)
    assert mx.allclose(found, expected, rtol=0, atol=atol)
    for ours, theirs in zip(lanes[0][:2], lanes[1][:2], strict=True):
        assert mx.allclose(ours, theirs, rtol=2**-7, atol=atol)  # a large bfloat16 may differ in its last bit
    assert not lanes[0].waiting.any()


def made_lanes(kind: Kind, most: int) -> Lanes:
    """The same ones each time."""
    mx.random.seed(most)
    keys, values = (normal(kind, most * LANE, kind.kv_heads, kind.width) for _ in range(2))
    lanes = Lanes(keys, values, mx.zeros(most * kind.heads, mx.int32))
    mx.eval(lanes)
    return lanes


def row(kind: Kind, length: int, draw: random.Random) -> Own:
    """A row whose buffers have room left, and of which a window's storage may have forgotten the beginning."""
    start = 0 if kind.window is None else draw.randrange(max(1, length - kind.window))
    room = length - start + draw.randrange(1, 300)
    keys, values = (normal(kind, 1, kind.kv_heads, room, kind.width) for _ in range(2))
    return Own(keys, values, start, length)


def normal(kind: Kind, *shape: int) -> mx.array:
    return mx.random.normal(shape).astype(kind.dtype)
