"""Which weights the kernel for a few positions is written for; all others go by MLX's own operations."""

from __future__ import annotations

import mlx.core as mx
import pytest

from runner.kernels.product import Matrix
from runner.kernels.product_cuda import CUDA
from runner.quantization.settings import AFFINE_BITS, FLOAT_MODES, Quantization
from tests.parts.quantized import matrix

AFFINE = [Quantization(size, bits, "affine") for bits in AFFINE_BITS for size in (32, 64, 128)]


def zeros(kind: Quantization, dtype: mx.Dtype = mx.bfloat16, width: int = 128) -> Matrix:
    return matrix(mx.zeros((64, width), dtype), kind)


@pytest.mark.parametrize("kind", [*AFFINE, *FLOAT_MODES.values()], ids=str)
def test_every_kind_of_weight_that_files_hold_fits(kind: Quantization) -> None:
    assert CUDA.fits(zeros(kind))
    assert CUDA.fits(zeros(kind, mx.float16))
    assert zeros(kind).width == 128
    assert not CUDA.fits(zeros(kind, mx.float32))


def test_what_the_kernel_is_not_written_for_is_left_to_others() -> None:
    assert CUDA.fits(Matrix(mx.zeros((64, 64), mx.bfloat16)))
    assert not CUDA.fits(Matrix(mx.zeros((64, 64))))
    assert not CUDA.fits(Matrix(mx.zeros((64, 40), mx.bfloat16)))
    assert not CUDA.fits(Matrix(mx.zeros((3, 64, 64), mx.bfloat16)))


def test_codes_without_gaps_fit_in_rows_of_whole_64() -> None:
    """A thread takes 64 of them."""
    three = Quantization(32, 3, "affine")
    assert CUDA.fits(zeros(three, width=64))
    assert not CUDA.fits(zeros(three, width=96))
    assert CUDA.fits(zeros(Quantization(32, 4, "affine"), width=96))
