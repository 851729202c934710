"""The CPU's attention beside MLX's own."""

from __future__ import annotations

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.kernels.attention import ALONE_TO, BLOCK, Mask, on_cpu, plain

KINDS = ("none", "causal", "window")


def arrays(
    rows: int, heads: int, shared: int, length: int, shown: int, width: int
) -> tuple[mx.array, mx.array, mx.array]:
    shapes = [(rows, heads, length, 16), (rows, shared, shown, 16), (rows, shared, shown, width)]
    keys = mx.random.split(mx.random.key(length * 1000 + shown), 3)
    queries, found, values = (
        2 * mx.random.normal(shape, key=key) for shape, key in zip(shapes, keys, strict=True)
    )
    return queries, found, values


def mask_of(kind: str, length: int, shown: int, window: int = 5) -> Mask:
    if kind != "window":
        return "causal" if kind == "causal" else None
    queries, keys = mx.arange(shown - length, shown)[:, None], mx.arange(shown)
    return (keys <= queries) & (keys > queries - window)


@given(
    rows=st.integers(1, 2),
    shared=st.integers(1, 3),
    group=st.integers(1, 3),
    length=st.sampled_from([1, 2, 7, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3]),
    past=st.sampled_from([0, 1, 50]),
    width=st.sampled_from([16, 24]),
    kind=st.sampled_from(KINDS),
    with_sinks=st.booleans(),
)
def test_the_cpu_finds_what_the_plain_attention_finds(
    rows: int, shared: int, group: int, length: int, past: int, width: int, kind: str, with_sinks: bool
) -> None:
    heads = shared * group
    queries, keys, values = arrays(rows, heads, shared, length, length + past, width)
    mask = mask_of(kind, length, length + past)
    sinks = mx.linspace(-3, 3, heads) if with_sinks else None
    ours = on_cpu(queries, keys, values, scale=0.3, mask=mask, sinks=sinks)
    theirs = plain(queries, keys, values, scale=0.3, mask=mask, sinks=sinks)
    assert ours.shape == theirs.shape
    # A score of 20 is rounded by 1e-6, its exponential by as much of itself, and a value of 5 goes with it.
    assert mx.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_far_apart_neither_overflow_nor_lose_the_largest(kind: str) -> None:
    queries, keys, values = arrays(1, 4, 2, 70, 90, 16)
    mask = mask_of(kind, 70, 90)
    ours = on_cpu(queries * 100, keys * 100, values, scale=1.0, mask=mask)
    theirs = plain(queries * 100, keys * 100, values, scale=1.0, mask=mask)
    assert mx.all(mx.isfinite(ours))
    assert mx.allclose(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_types_get_the_plain_attention(dtype: mx.Dtype) -> None:
    queries, keys, values = (each.astype(dtype) for each in arrays(1, 4, 2, 70, 90, 16))
    ours = on_cpu(queries, keys, values, scale=0.3, mask="causal")
    assert mx.array_equal(ours, plain(queries, keys, values, scale=0.3, mask="causal"))


@pytest.mark.parametrize("shown", [ALONE_TO, ALONE_TO + 1])
@pytest.mark.parametrize("with_sinks", [True, False])
def test_a_query_by_itself_finds_the_same_behind_few_keys_and_many(shown: int, with_sinks: bool) -> None:
    queries, keys, values = arrays(2, 6, 2, 1, shown, 16)
    sinks = mx.linspace(-3, 3, 6) if with_sinks else None
    ours = on_cpu(queries, keys, values, scale=0.3, sinks=sinks)
    assert mx.allclose(ours, plain(queries, keys, values, scale=0.3, sinks=sinks), rtol=1e-4, atol=1e-5)


def test_keys_and_values_may_be_slices_of_larger_buffers() -> None:
    queries, keys, values = arrays(1, 4, 2, 1, 90, 16)
    ours = on_cpu(queries, keys[:, :, 7:80], values[:, :, 7:80], scale=0.3)
    theirs = plain(queries, mx.contiguous(keys[:, :, 7:80]), mx.contiguous(values[:, :, 7:80]), scale=0.3)
    assert mx.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
