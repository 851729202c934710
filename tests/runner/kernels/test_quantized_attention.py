"""Attention over quantized keys and values is attention over what they are worth."""

from __future__ import annotations

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.cache.span import Span
from runner.kernels.attention import Mask, plain
from runner.kernels.quantized_attention import QUERIES, Blocks, Floats, Scaled, by_blocks, keys_of_block
from runner.kernels.quantized_rows import GROUP, dequantized, is_quantized, quantized, width_of

FORMS: dict[str, Blocks] = {"floats": Floats.of, "scaled": Scaled.of}
BITS = (8, 4)
DTYPES = (mx.float32, mx.float16, mx.bfloat16)


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [32, 64, 96])
def test_a_number_is_off_by_a_step_at_most(bits: int, dtype: mx.Dtype, width: int) -> None:
    """A step is the range of a group's numbers over how many there can be. It is half of one but at an end of the
    range, since the steps are moved until one of them is 0. A scale of fewer bits is off itself.
    """
    rows = normal(2, 3, 5, width).astype(dtype)
    packed = quantized(rows, bits)
    worth = dequantized(packed, bits, dtype).astype(mx.float32)
    groups = rows.astype(mx.float32).reshape(2, 3, 5, -1, GROUP)
    ends = groups.max(axis=-1), groups.min(axis=-1)
    step = (ends[0] - ends[1]) / (2**bits - 1)
    rounding = mx.maximum(mx.abs(ends[0]), mx.abs(ends[1])) * 2 * mx.finfo(dtype).eps
    off = mx.abs(worth.reshape(groups.shape) - groups)
    assert is_quantized(packed)
    assert width_of(packed, bits, dtype) == width
    assert packed.nbytes == rows.size // 8 * bits + 2 * rows.size // GROUP * dtype.size
    assert (off.max(axis=-1) <= step + rounding).all()
    assert (off.mean(axis=-1) <= 0.4 * step + rounding).all()


@pytest.mark.parametrize("bits", BITS)
def test_what_becomes_of_a_row_depends_on_that_row_alone(bits: int) -> None:
    rows = normal(1, 3, 40, 64)
    whole = quantized(rows, bits)
    for first, last in ((0, 1), (7, 23), (39, 40)):
        assert mx.array_equal(quantized(rows[:, :, first:last], bits), whole[:, :, first:last])
    among_others = quantized(mx.concatenate([rows[:, :, :9], 50 * rows], axis=2), bits)
    assert mx.array_equal(among_others[:, :, :9], whole[:, :, :9])
    across = rows.transpose(0, 2, 1, 3)  # as projections leave them
    assert mx.array_equal(quantized(mx.contiguous(across).transpose(0, 2, 1, 3), bits), whole)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bits", BITS)
@settings(deadline=None, max_examples=12)
@given(data=st.data())
def test_by_blocks_it_is_what_one_softmax_over_floats_finds(
    form: str, bits: int, data: st.DataObject
) -> None:
    length = data.draw(st.sampled_from([1, 2, QUERIES, QUERIES + 3]), "length")
    heads, shared = data.draw(st.sampled_from([(4, 2), (3, 3), (4, 1)]), "heads")
    width, value_width = data.draw(st.sampled_from([(32, 32), (64, 32)]), "widths")
    block = keys_of_block(length, shared, width)
    behind = data.draw(st.sampled_from([0, 1, block - 1, block, 2 * block + 40]), "behind")
    window = data.draw(st.none() | st.sampled_from([1, 70, block + 10]), "window")
    shown = length + behind
    mask: Mask = "causal" if length > 1 else None
    if window is not None:
        shown = min(shown, window - 1 + length)
        mask = Span(behind, length).window_mask(window, shown) if length > 1 else None
    sinks = normal(heads, seed=4) if data.draw(st.booleans(), "sinks") else None
    queries = normal(1, heads, length, width)
    rows = 2 * normal(1, shared, shown, width, seed=1), normal(1, shared, shown, value_width, seed=2)
    keys, values = (quantized(one, bits) for one in rows)
    found = by_blocks(bits, FORMS[form])(queries, keys, values, scale=0.3, mask=mask, sinks=sinks)
    floats = [dequantized(one, bits, mx.float32) for one in (keys, values)]
    expected = plain(queries, *floats, scale=0.3, mask=mask, sinks=sinks)
    assert found.shape == expected.shape
    # Behind 16 k the sums of both round 2.6e-5 of what they find apart.
    assert mx.allclose(found, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("form", FORMS)
def test_it_has_the_type_of_its_queries(form: str, bits: int) -> None:
    queries, rows = (normal(1, 2, 3, 32, seed=seed).astype(mx.bfloat16) for seed in range(2))
    packed = quantized(rows, bits)
    found = by_blocks(bits, FORMS[form])(queries, packed, packed, scale=0.2, mask="causal")
    floats = dequantized(packed, bits, mx.bfloat16)
    assert found.dtype == mx.bfloat16
    assert mx.allclose(found, plain(queries, floats, floats, scale=0.2, mask="causal"), atol=0.03)


@pytest.mark.usefixtures("nothing_left_over")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, 2 * QUERIES])
def test_what_it_takes_does_not_grow_with_what_it_looks_at(form: str, length: int) -> None:
    """Beside keys and values as they are kept: a few blocks of floats, whatever comes behind them."""

    def taken(shown: int) -> int:
        queries, rows = normal(1, 4, length, 32), quantized(normal(1, 2, shown, 32), 8)
        mx.eval(queries, rows)
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mask = "causal" if length > 1 else None
        mx.eval(by_blocks(8, FORMS[form])(queries, rows, rows, scale=0.2, mask=mask))
        return mx.get_peak_memory() - before

    block = keys_of_block(length, 2, 32)
    assert taken(6 * block) < 1.5 * taken(2 * block)
