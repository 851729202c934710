"""What a CUDA device computes instead of MLX's attention, beside that: the operations run everywhere."""

from __future__ import annotations

import mlx.core as mx
import pytest

from runner.kernels import attention_cuda
from runner.kernels.attention import Mask, plain
from runner.kernels.attention_cuda import BLOCK, CHUNK, SIZES, STEP, on_cuda

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
@pytest.mark.parametrize("past", [0, 5, STEP])
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


@pytest.fixture
def nothing_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_cuda, "BEFORE_A_PLAN", 0)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, nothing_by_hand: None) -> list[tuple[int, int]]:
    """Of queries and of keys, what cuDNN is given."""
    shapes: list[tuple[int, int]] = []

    def noted(queries: mx.array, keys: mx.array, values: mx.array, **options: object) -> mx.array:
        assert keys.shape[2] == values.shape[2]
        shapes.append((queries.shape[2], keys.shape[2]))
        return queries

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", noted)
    return shapes


@pytest.mark.parametrize("past", [1, 511, STEP, 700, CHUNK - 3, CHUNK, CHUNK + 5, 3 * STEP + CHUNK])
@pytest.mark.parametrize("length", [2, 100, SIZES[3], 1001])
@pytest.mark.usefixtures("nothing_by_hand")
def test_what_is_filled_up_finds_what_the_plain_attention_finds(length: int, past: int) -> None:
    queries, keys, values = arrays(length, length + past)
    found = on_cuda(queries, keys, values, scale=0.3, mask="causal")
    expected = plain(queries, keys, values, scale=0.3, mask="causal")
    assert found.shape == expected.shape
    assert mx.allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("past", [0, 1, 40, 1000])
@pytest.mark.parametrize("length", [3, 100, 129, 500, 1000])
def test_prompts_that_see_one_chunk_have_one_of_a_few_shapes_whatever_was_kept(
    length: int, past: int, planned: list[tuple[int, int]]
) -> None:
    on_cuda(*arrays(length, length + past), scale=0.3, mask="causal")
    (shape,) = planned
    assert shape[0] == shape[1]
    assert shape[0] == next(size for size in SIZES if size >= length + past)


@pytest.mark.parametrize("past", [CHUNK, CHUNK + 1, 5 * STEP, 5000])
@pytest.mark.parametrize("length", [3, 1000, 1024, CHUNK])
def test_those_that_see_more_have_one_of_them_behind_a_multiple_of_a_step(
    length: int, past: int, planned: list[tuple[int, int]]
) -> None:
    on_cuda(*arrays(length, length + past), scale=0.3, mask="causal")
    (shape,) = planned
    assert shape[0] in SIZES
    assert (shape[1] - shape[0], shape[0] - length - past % STEP >= 0) == (past // STEP * STEP, True)


def test_what_was_kept_of_a_prompt_changes_no_bit_of_what_the_rest_finds(nothing_by_hand: None) -> None:
    queries, keys, values = arrays(300, 300)
    whole = on_cuda(queries, keys, values, scale=0.3, mask="causal")
    for kept in (1, 40, 255):
        rest = on_cuda(queries[:, :, kept:], keys, values, scale=0.3, mask="causal")
        assert mx.array_equal(rest, whole[:, :, kept:])


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize("past", [0, 7])
def test_half_types_stay_what_they_are(dtype: mx.Dtype, past: int) -> None:
    queries, keys, values = arrays(30, 30 + past, dtype)
    found = on_cuda(queries, keys, values, scale=0.3, mask="causal")
    exact = plain(*(each.astype(mx.float32) for each in (queries, keys, values)), scale=0.3, mask="causal")
    assert found.dtype == dtype
    assert mx.allclose(found.astype(mx.float32), exact, atol=3e-2)


def test_a_few_positions_behind_a_long_context_need_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", None)
    on_cuda(*arrays(30, CHUNK + 35), scale=0.3, mask="causal")


def test_anything_but_a_causal_mask_gets_a_plan_of_its_own_where_there_is_much_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention_cuda, "BEFORE_A_RARE_PLAN", 100)
    queries, keys, values = arrays(30, 35)
    mask = window(30, 35)
    monkeypatch.setattr(attention_cuda, "_by_hand", None)
    found = on_cuda(queries, keys, values, scale=0.3, mask=mask)
    assert mx.allclose(found, plain(queries, keys, values, scale=0.3, mask=mask), atol=1e-6)
