"""The CPU's activations beside the plain ones."""

from __future__ import annotations

import mlx.core as mx
import pytest

from runner.kernels.activations import CPU, PLAIN

FAR = [-1e30, -1e4, -200.0, 200.0, 1e4, 1e30]


def numbers() -> mx.array:
    return mx.concatenate([mx.linspace(-30, 30, 6001), mx.array(FAR)])


def test_swiglu_is_the_plain_one_to_a_few_last_bits() -> None:
    gate = numbers()
    up = mx.sin(gate) + 2
    assert mx.allclose(CPU.swiglu(gate, up), PLAIN.swiglu(gate, up), rtol=1e-6, atol=1e-7)


def test_gelu_is_the_plain_one_to_a_few_last_bits_of_a_tanh() -> None:
    x = numbers()
    assert mx.allclose(CPU.gelu(x), PLAIN.gelu(x), rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_types_get_the_plain_ones(dtype: mx.Dtype) -> None:
    x = mx.linspace(-9, 9, 101).astype(dtype)
    assert mx.array_equal(CPU.swiglu(x, x), PLAIN.swiglu(x, x))
    assert mx.array_equal(CPU.gelu(x), PLAIN.gelu(x))
