"""The CPU's rotation beside MLX's own: not one bit may differ, wherever the rows are."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.kernels.rotation import OnCpu, Plain, Turning
from tests.parts.rope import LLAMA3, PROPORTIONAL, YARN, D, read

CONFIGS = [
    {},
    {"rope_theta": 1e6},
    {"rope_scaling": {"type": "linear", "factor": 4}},
    {"rope_parameters": {"rope_theta": 5e5, **LLAMA3}},
    {"rope_scaling": YARN},
    {"rope_parameters": {"partial_rotary_factor": 0.45, **PROPORTIONAL}},
    {"partial_rotary_factor": 0.5},
    {"rope_parameters": {"partial_rotary_factor": 0.25, **LLAMA3}},
]


def turning(config: dict[str, object], *, traditional: bool) -> Turning:
    made = read(config)
    return Turning(D, made.dims, made.theta, made.scale, made.periods, traditional=traditional)


@given(
    config=st.sampled_from(CONFIGS),
    traditional=st.booleans(),
    starts=st.lists(st.integers(0, 100_000), min_size=1, max_size=4),
    length=st.integers(1, 9),
    dtype=st.sampled_from([mx.float32, mx.bfloat16]),
)
def test_the_cpu_turns_every_row_as_the_plain_rotation_does(
    config: dict[str, object], traditional: bool, starts: list[int], length: int, dtype: mx.Dtype
) -> None:
    how = turning(config, traditional=traditional)
    x = mx.random.normal((len(starts), 3, length, D), key=mx.random.key(length)).astype(dtype)
    at = mx.array(starts if len(starts) > 1 else starts[0], mx.int32)
    ours, plain = OnCpu(how), Plain(how)
    with mx.stream(mx.cpu):
        turned = ours(x, ours.at(at, length))
        assert turned.dtype == dtype
        assert mx.array_equal(turned, plain(x, plain.at(at, length)))


@pytest.mark.parametrize("dims", [D, D // 2])
def test_a_magnitude_is_a_factor_of_what_is_rotated(dims: int) -> None:
    how = replace(turning({}, traditional=False), dims=dims, magnitude=1.25)
    x, at = mx.random.normal((1, 2, 5, D), key=mx.random.key(1)), mx.array(7, mx.int32)
    ours, plain = OnCpu(how), Plain(how)
    turned = ours(x, ours.at(at, 5))
    assert mx.allclose(turned, plain(x, plain.at(at, 5)), rtol=1e-6, atol=1e-6)
    assert mx.array_equal(turned[..., dims:], x[..., dims:])
    assert not mx.allclose(turned[..., :dims], x[..., :dims] * 1.25), "it is turned, too"
