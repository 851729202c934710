"""What a CUDA device computes instead of MLX's attention, beside that: the operations run everywhere."""

from __future__ import annotations

import mlx.core as mx
import pytest

from runner.kernels import attention_cuda
from runner.kernels.attention import Mask, plain
from runner.kernels.attention_cuda import BLOCK, CHUNK, SIZES, on_cuda

HEADS, SHARED, WIDTH = 4, 2, 16


def arrays(length: int, shown: int, dtype: mx.Dtype = mx.float32) -> tuple[mx.array, mx.array, mx.array]:
    shapes = [(1, HEADS, length, WIDTH), (1, SHARED, shown, WIDTH), (1, SHARED, shown, WIDTH)]
    keys = mx.random.split(mx.random.key(length * 1000 + shown), 3)
    queries, found, values = (
        mx.random.normal(shape, key=key).astype(dtype) for shape, key in zip(shapes, keys, strict=True)
    )
    return queries, found, values


def window(length: int, shown: int) -> mx.array:
    queries, keys = mx.arange(shown - length, shown)[:, None], mx.arange(shown)
    return (keys <= queries) & (keys > queries - 50)


@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize("mask", ["causal", "window", None])
@pytest.mark.parametrize("past", [0, 5, CHUNK])
@pytest.mark.parametrize("length", [1, 2, SIZES[0], SIZES[0] + 1, BLOCK * 2 + 3])
def test_it_finds_what_the_plain_attention_finds(
    length: int, past: int, mask: Mask, with_sinks: bool
) -> None:
    queries, keys, values = arrays(length, length + past)
    seen = window(length, length + past) if mask == "window" else mask
    sinks = mx.linspace(-3, 3, HEADS) if with_sinks else None
    found = on_cuda(queries, keys, values, scale=0.3, mask=seen, sinks=sinks)
    expected = plain(queries, keys, values, scale=0.3, mask=seen, sinks=sinks)
    assert found.shape == expected.shape
    assert mx.allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [3, 100, 129, 500, 1000, 2048])
def test_prompts_of_any_length_have_one_of_a_few_shapes(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    def noted(queries: mx.array, keys: mx.array, values: mx.array, **options: object) -> mx.array:
        shapes.append((queries.shape[2], keys.shape[2], values.shape[2]))
        return queries

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", noted)
    on_cuda(*arrays(length, length), scale=0.3, mask="causal")
    assert len(set(shapes)) == 1
    assert shapes[0][0] in SIZES
    assert shapes[0] == (shapes[0][0],) * 3


def test_whole_chunks_behind_others_have_their_own_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    def noted(queries: mx.array, keys: mx.array, values: mx.array, **options: object) -> mx.array:
        shapes.append((queries.shape[2], keys.shape[2]))
        return queries

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", noted)
    on_cuda(*arrays(1024, 1024 + 3 * CHUNK), scale=0.3, mask="causal")
    on_cuda(*arrays(1000, 1000 + 3 * CHUNK), scale=0.3, mask="causal")
    assert shapes == [(1024, 1024 + 3 * CHUNK)]


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize("past", [0, 7])
def test_half_types_stay_what_they_are(dtype: mx.Dtype, past: int) -> None:
    queries, keys, values = arrays(30, 30 + past, dtype)
    found = on_cuda(queries, keys, values, scale=0.3, mask="causal")
    exact = plain(*(each.astype(mx.float32) for each in (queries, keys, values)), scale=0.3, mask="causal")
    assert found.dtype == dtype
    assert mx.allclose(found.astype(mx.float32), exact, atol=3e-2)


def test_what_is_too_large_by_hand_is_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_cuda, "BY_HAND", 100)
    queries, keys, values = arrays(30, 35)
    found = on_cuda(queries, keys, values, scale=0.3, mask="causal")
    assert mx.allclose(found, plain(queries, keys, values, scale=0.3, mask="causal"), atol=1e-6)
