"""One quantized matrix: every mode against MLX's own arithmetic."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.layers import nn, packed
from runner.quantization.matrix import collect, unpack
from runner.quantization.settings import AFFINE_BITS, AFFINE_KERNEL_GROUPS, FLOAT_MODES, Quantization
from tests.parts.arrays import difference
from tests.parts.checkpoints import TOKENS
from tests.parts.quantized import dequantize, named, quantize

AFFINE = [Quantization(size, bits, "affine") for bits in AFFINE_BITS for size in AFFINE_KERNEL_GROUPS]
EVERY = [*AFFINE, *FLOAT_MODES.values()]


class Pair(nn.Module):
    """A linear layer with a bias and an embedding."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, rows, bias=True)
        self.embedding = nn.Embedding(rows, width)


@pytest.mark.parametrize("how", EVERY, ids=str)
@pytest.mark.parametrize("factor", [None, 0.37])
def test_every_mode_equals_mlxs_arithmetic_dense_and_packed(how: Quantization, factor: float | None) -> None:
    if factor and how.mode != "nvfp4":
        return
    rows, width = 48, 384
    matrix = mx.random.normal((rows, width), key=mx.random.key(how.bits))
    parts = quantize(matrix, how)
    reference = dequantize(parts, how) * (factor or 1.0)
    tensors = named("linear", parts) | named("embedding", parts)
    if factor:
        tensors |= {f"{path}.global_scale": mx.array([factor]) for path in ("linear", "embedding")}
    shapes = {f"{path}.weight": (rows, width) for path in ("linear", "embedding")}
    found = collect(tensors, shapes, {})
    assert found["linear"].settings == found["embedding"].settings == how
    assert difference(found["linear"].dequantized(mx.float32), reference) < 1e-6

    pair: Any = Pair(rows, width)
    assert sorted(packed.replace(pair, found, dict.fromkeys(found, mx.float32))) == ["embedding", "linear"]
    pair.linear.bias = bias = mx.arange(rows, dtype=mx.float32)
    x = mx.random.normal((1, 5, width), key=mx.random.key(1))
    assert difference(pair.linear(x), x @ reference.T + bias) < 1e-4
    assert difference(pair.embedding(mx.array([TOKENS[:3]])), reference[mx.array([TOKENS[:3]])]) < 1e-6
    assert difference(pair.embedding.as_linear(x), x @ reference.T) < 1e-4


def pack(codes: list[int], bits: int) -> mx.array:
    """One row of codes as a stream of bits, the lowest first: the format written down once more."""
    stream = sum(code << (bits * i) for i, code in enumerate(codes))
    words = [(stream >> (32 * i)) & 0xFFFFFFFF for i in range(len(codes) * bits // 32)]
    return mx.array([words], mx.uint32)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(AFFINE_BITS), st.integers(1, 4), st.randoms(use_true_random=False))
def test_unpacking_gives_back_the_codes(bits: int, blocks: int, random: Any) -> None:
    codes = [random.randrange(1 << bits) for _ in range(32 * blocks)]
    assert unpack(pack(codes, bits), bits).tolist() == [codes]


@pytest.mark.parametrize("bits", AFFINE_BITS)
@pytest.mark.parametrize("size", [8, 16, 48, 96, 192, 384])
def test_group_sizes_without_a_kernel_are_dequantized_by_plain_operations(bits: int, size: int) -> None:
    rows, width = 4, 384
    codes = mx.random.randint(0, 1 << bits, (rows, width), key=mx.random.key(bits))
    scales, biases = mx.random.normal((2, rows, width // size), key=mx.random.key(size))
    weight = mx.concatenate([pack(row, bits) for row in codes.tolist()])  # type: ignore[union-attr, arg-type, unused-ignore]
    found = collect(named("linear", [weight, scales, biases]), {"linear.weight": (rows, width)}, {})
    grouped = codes.reshape(rows, -1, size).astype(mx.float32)
    expected = (grouped * scales[..., None] + biases[..., None]).reshape(rows, width)
    assert difference(found["linear"].dequantized(mx.float32), expected) < 1e-6
    assert packed.replace(Pair(rows, width), found, {}) == []


@pytest.mark.parametrize("how", AFFINE, ids=str)
def test_the_twin_of_the_kernel_agrees_with_it(how: Quantization) -> None:
    parts = quantize(mx.random.normal((8, 384), key=mx.random.key(3)), how)
    codes = unpack(parts[0], how.bits).reshape(8, -1, how.group_size).astype(mx.float32)
    ours = (codes * parts[1][..., None] + parts[2][..., None]).reshape(8, 384)
    assert difference(ours, dequantize(parts, how)) < 1e-6


def test_a_stack_of_matrices_may_have_a_factor_each() -> None:
    how = FLOAT_MODES["nvfp4"]
    parts = quantize(mx.random.normal((3, 8, 64), key=mx.random.key(0)), how)
    tensors = named("experts", parts) | {"experts.global_scale": mx.array([1.0, 2.0, 0.5])}
    found = collect(tensors, {"experts.weight": (3, 8, 64)}, {})["experts"]
    expected = dequantize(parts, how) * mx.array([1.0, 2.0, 0.5])[:, None, None]
    assert difference(found.dequantized(mx.float32), expected) < 1e-6
