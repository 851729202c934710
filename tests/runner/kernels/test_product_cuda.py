"""The product of a few positions is that of the plain form, and no position's depends on how many there are. Runs
where there is a CUDA device.
"""

from __future__ import annotations

import mlx.core as mx
import pytest

from runner.kernels.product import MOST, PLAIN, Around, Matrix, Norm
from runner.kernels.product_cuda import CUDA
from runner.machine import device
from runner.quantization.settings import FLOAT_MODES, Quantization
from tests.parts.quantized import matrix

pytestmark = pytest.mark.skipif(device.kind() != "cuda", reason="needs a CUDA device")

SHAPES = {"square": (2048, 2048), "narrow": (96, 576), "odd outputs": (1003 * 2, 4096), "wide": (1024, 14336)}
KINDS: list[Quantization | None] = [
    None,
    Quantization(32, 4, "affine"),
    Quantization(128, 8, "affine"),
    Quantization(32, 3, "affine"),
    *(Quantization(64, bits, "affine") for bits in (2, 3, 4, 5, 6)),
    *FLOAT_MODES.values(),
]
AROUND = {
    "alone": (False, False, False, False),
    "normed, with a bias": (True, False, True, False),
    "normed and gated": (True, True, False, False),
    "added": (False, False, False, True),
    "all of it": (True, True, True, True),
}


def made(
    kind: Quantization | None, outputs: int, width: int, bias: bool, dtype: mx.Dtype = mx.bfloat16
) -> Matrix:
    weight = (mx.random.normal((outputs, width)) * width**-0.5).astype(dtype)
    added = mx.random.normal((outputs,)).astype(dtype) if bias else None
    return matrix(weight, kind, added, mx.array(0.25) if kind and kind.mode == "nvfp4" else None)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_finds_what_the_plain_form_finds(
    shape: str, kind: Quantization | None, around: str
) -> None:
    outputs, width = SHAPES[shape]
    if kind and width % kind.group_size:
        pytest.skip("no such group")
    normed, gated, bias, residual = AROUND[around]
    mx.random.seed(len(f"{shape}{kind}{around}"))
    one = made(kind, outputs, width, bias)
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


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_float16_is_as_close_as_float16_can_be(kind: Quantization | None) -> None:
    mx.random.seed(4)
    one = made(kind, 256, 4096, True, mx.float16)
    x, residual = (mx.random.normal((9, 1, size)).astype(mx.float16) for size in (4096, 128))
    around = Around(Norm((1 + 0.1 * mx.random.normal((4096,))).astype(mx.float16), 1e-5), True, adds=True)
    found, expected = (way.make(one, around)(x, residual) for way in (CUDA, PLAIN))
    assert found.dtype == mx.float16
    assert mx.allclose(found, expected, rtol=0, atol=float(0.004 * mx.abs(expected).max()))
