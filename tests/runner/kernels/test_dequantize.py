"""Packed numbers become the floats that MLX makes of them: the CUDA kernel, run on a CPU by `tests/parts/cuda`, and
where there is a CUDA device, on that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlx.core as mx
import pytest

from runner.kernels import dequantize, dequantize_cuda
from runner.machine import device
from tests.parts.cuda import COMPILER, on_this_machine

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
needs_gpu = pytest.mark.skipif(device.kind() != "cuda", reason="needs a CUDA device")


@pytest.fixture(params=[pytest.param("emulated", marks=needs_compiler), pytest.param("GPU", marks=needs_gpu)])
def form(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    if request.param == "emulated":
        yield from on_this_machine([dequantize_cuda._kernel], tmp_path_factory, monkeypatch)
    else:
        yield


@pytest.mark.parametrize(
    ("bits", "group", "dtype"),
    [
        *((bits, 64, mx.bfloat16) for bits in (2, 3, 4, 5, 6, 8)),
        *((4, group, mx.float16) for group in (32, 64, 128)),
    ],
    ids=str,
)
def test_all_numbers_are_what_mlx_finds_in_float32(
    form: None, bits: int, group: int, dtype: mx.Dtype
) -> None:
    mx.random.seed(bits)
    packed = mx.quantize(mx.random.normal((37, 384)).astype(dtype), group_size=group, bits=bits)
    assert is_right(dequantize_cuda.cuda(*packed, bits), packed, bits)


def test_experts_have_one_more_dimension(form: None) -> None:
    mx.random.seed(3)
    packed = mx.quantize(mx.random.normal((3, 8, 64)).astype(mx.float16), group_size=32, bits=4)
    assert is_right(dequantize_cuda.cuda(*packed, 4), packed, 4)


def is_right(found: mx.array, packed: Sequence[mx.array], bits: int) -> bool:
    codes, scales, biases = packed
    exact = dequantize.plain(codes, scales.astype(mx.float32), biases.astype(mx.float32), bits)
    last_bit = 2**-7 if found.dtype == mx.bfloat16 else 2**-10
    assert found.dtype == scales.dtype
    return bool(mx.allclose(found.astype(mx.float32), exact, rtol=last_bit, atol=1e-6))


def test_float32_goes_to_mlx() -> None:
    packed = mx.quantize(mx.random.normal((8, 64)), group_size=32, bits=4)
    assert mx.array_equal(dequantize_cuda.cuda(*packed, 4), dequantize.plain(*packed, 4))
