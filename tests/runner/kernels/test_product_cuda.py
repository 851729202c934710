"""The product of a few positions is that of the plain form, and no position's depends on how many there are. Runs
where there is a CUDA device.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import pytest

from runner.kernels.product import MOST, PLAIN, Around, Matrix, Norm
from runner.kernels.product_cuda import CUDA
from runner.machine import device

pytestmark = pytest.mark.skipif(device.kind() != "cuda", reason="needs a CUDA device")

SHAPES = {"square": (2048, 2048), "narrow": (96, 576), "odd outputs": (1003 * 2, 4096), "wide": (1024, 14336)}
KINDS: Mapping[str, tuple[int, int]] = {
    "floats": (0, 0),
    "4 bits by 64": (4, 64),
    "4 bits by 32": (4, 32),
    "8 bits by 128": (8, 128),
}
AROUND = {
    "alone": (False, False, False, False),
    "normed, with a bias": (True, False, True, False),
    "normed and gated": (True, True, False, False),
    "added": (False, False, False, True),
    "all of it": (True, True, True, True),
}


def matrix(kind: str, outputs: int, width: int, bias: bool) -> Matrix:
    bits, group_size = KINDS[kind]
    weight = (mx.random.normal((outputs, width)) * width**-0.5).astype(mx.bfloat16)
    added = mx.random.normal((outputs,)).astype(mx.bfloat16) if bias else None
    if not bits:
        return Matrix(weight, bias=added)
    return Matrix(*mx.quantize(weight, group_size=group_size, bits=bits), bits, group_size, added)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_finds_what_the_plain_form_finds(shape: str, kind: str, around: str) -> None:
    outputs, width = SHAPES[shape]
    if KINDS[kind][1] and width % KINDS[kind][1]:
        pytest.skip("no such group")
    normed, gated, bias, residual = AROUND[around]
    mx.random.seed(len(shape + kind + around))
    one = matrix(kind, outputs, width, bias)
    norm = Norm((1 + 0.1 * mx.random.normal((width,))).astype(mx.bfloat16), 1e-5) if normed else None
    x = mx.random.normal((MOST, 1, width)).astype(mx.bfloat16)
    added = mx.random.normal((MOST, 1, outputs // 2 if gated else outputs)).astype(mx.bfloat16)
    assert CUDA.fits(one)
    product, plain = (way.make(one, Around(norm, gated, one.weight, residual)) for way in (CUDA, PLAIN))
    first: mx.array | None = None
    for rows in (1, 3, 8, 9, 16, 17, MOST):
        found = product(x[:rows], added[:rows] if residual else None)
        expected = plain(x[:rows], added[:rows] if residual else None)
        assert found.shape == expected.shape
        assert mx.allclose(found, expected, rtol=0, atol=float(0.02 * mx.abs(expected).max()))
        first = found[:1] if first is None else first
        assert mx.array_equal(found[:1], first)


def test_what_the_kernel_is_not_written_for_is_left_to_others() -> None:
    assert not CUDA.fits(Matrix(mx.zeros((64, 64))))
    assert not CUDA.fits(Matrix(mx.zeros((64, 40), mx.bfloat16)))
    assert not CUDA.fits(Matrix(*mx.quantize(mx.zeros((64, 64), mx.bfloat16), bits=3), 3, 64))
