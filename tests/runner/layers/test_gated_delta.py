"""The gated delta rule: chunk by chunk as position by position, and that as the formula says."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.kernels.delta import convolved, gated, sequential
from runner.kernels.delta_chunks import CHUNK, chunked, inverse
from runner.layers.gated_delta import SEQUENTIAL_UP_TO
from tests.parts.arrays import difference, noise

Arguments = tuple[mx.array, mx.array, mx.array, mx.array, mx.array, mx.array]


def unit(x: mx.array) -> mx.array:
    return x / mx.sqrt((x * x).sum(axis=-1, keepdims=True))


def arguments(
    length: int, seed: int = 0, heads: int = 3, spread: float = 1.0, fade: float = -3.0
) -> Arguments:
    """As a layer makes them. `spread` 0 makes all keys the same, -exp(`fade`) is the usual decay."""
    key, value = 8, 5
    towards = noise(1, heads, 1, key, seed=seed)
    return (
        unit(noise(1, heads, length, key, seed=seed + 1)) * key**-0.5,
        unit(towards + spread * noise(1, heads, length, key, seed=seed + 2)),
        noise(1, heads, length, value, seed=seed + 3),
        -mx.exp(2 * noise(1, heads, length, seed=seed + 4) + fade),
        mx.sigmoid(2 * noise(1, heads, length, seed=seed + 5)),
        noise(1, heads, key, value, seed=seed + 6),
    )


def agree(given: Arguments, tolerance: float = 1e-5) -> None:
    for one, other in zip(chunked(*given), sequential(*given), strict=True):
        assert difference(one, other) < tolerance


def test_one_position_is_the_formula() -> None:
    query, key, value, decay, rate, memory = arguments(1, heads=1)
    faded = mx.exp(decay[0, 0, 0]) * memory[0, 0]
    wrong = value[0, 0, 0] - key[0, 0, 0] @ faded
    after = faded + mx.outer(key[0, 0, 0], rate[0, 0, 0] * wrong)
    answer, kept = sequential(query, key, value, decay, rate, memory)
    assert difference(kept[0, 0], after) < 1e-6
    assert difference(answer[0, 0, 0], query[0, 0, 0] @ after) < 1e-6


@settings(deadline=None, max_examples=40)
@given(
    length=st.integers(1, 3 * CHUNK + 2),
    seed=st.integers(0, 1000),
    spread=st.sampled_from([0.0, 0.01, 1.0, 100.0]),
    fade=st.sampled_from([-20.0, -3.0, 0.0, 3.0]),
)
def test_chunks_give_what_positions_give(length: int, seed: int, spread: float, fade: float) -> None:
    """Keys that repeat or not, memories that last or are gone at once, lengths around whole chunks."""
    agree(arguments(length, seed, spread=spread, fade=fade))


@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 7 * CHUNK + 3])
def test_chunks_end_where_they_end(length: int) -> None:
    """What fills up the last chunk leaves no trace in the memory."""
    agree(arguments(length))


def test_the_same_token_over_and_over() -> None:
    """Then powers of the system's matrix grow beyond what float32 can take back."""
    queries, keys, values, _, _, memory = arguments(4 * CHUNK, spread=0.0)
    nothing, everything = mx.zeros(keys.shape[:3]), mx.ones(keys.shape[:3])
    agree((queries, keys, values, nothing, everything, memory))


def test_everything_is_forgotten_at_once() -> None:
    """A decay to exactly 0, whose logarithm is -infinity, beside some that hardly fade."""
    queries, keys, values, decay, rate, memory = arguments(2 * CHUNK, fade=-6.0)
    positions = mx.arange(2 * CHUNK)
    for gone in (-500.0, -mx.inf):
        agree((queries, keys, values, mx.where(positions % 5 == 1, gone, decay), rate, memory))


def test_a_large_decay_does_not_blur_small_ones_behind_it() -> None:
    """As a difference of two sums of logarithms, 1e-3 beside 1e5 would be gone."""
    queries, keys, values, decay, rate, memory = arguments(CHUNK, fade=-4.0)
    decay = mx.where(mx.arange(CHUNK) == 3, -1e5, decay)
    agree((queries, keys, values, decay, rate, memory), tolerance=2e-6)


@pytest.mark.parametrize("size", [2, 4, 32, 64])
def test_the_inverse_of_a_unit_triangular_matrix(size: int) -> None:
    lower = mx.tril(0.3 * noise(2, 3, size, size, seed=size), -1)
    whole = lower + mx.eye(size)
    assert difference(inverse(lower) @ whole, mx.broadcast_to(mx.eye(size), lower.shape)) < 1e-5
    ones = mx.tril(mx.ones((size, size)), -1)
    assert difference(inverse(ones) @ (ones + mx.eye(size)), mx.eye(size)) == 0


def test_a_chunk_is_no_longer_than_what_the_inverse_can_halve() -> None:
    assert CHUNK & (CHUNK - 1) == 0
    assert 1 <= SEQUENTIAL_UP_TO < CHUNK


def test_a_convolution_sees_its_own_position_and_those_before_it() -> None:
    taps = mx.array([[1.0, 10.0, 100.0], [0.0, 0.0, 1.0]])
    x = mx.array([[[1.0, 7.0], [2.0, 8.0], [3.0, 9.0], [4.0, 5.0]]])
    out: Any = convolved(x, taps).tolist()
    assert out == [[[321.0, 9.0], [432.0, 5.0]]]
    wide, taps = noise(1, 20, 6, seed=1), noise(6, 4, seed=2)
    assert difference(convolved(wide, taps), mx.conv1d(wide, taps[..., None], groups=6)) < 1e-5


def test_a_gate_is_opened_in_float32() -> None:
    x, gate = (noise(1, 2, 3, 4, seed=seed).astype(mx.bfloat16) for seed in (1, 2))
    wide: mx.array = x.astype(mx.float32)
    opened = gate.astype(mx.float32) * mx.sigmoid(gate.astype(mx.float32))
    assert mx.array_equal(gated(x, gate), (wide * opened).astype(mx.bfloat16))
