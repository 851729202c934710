"""The CUDA sources compute what the plain forms say, run on a CPU by `tests/parts/cuda`.

A GPU runs more cases (`test_product_cuda.py`); these are for everybody who has none. Attention has a file of its
own, `test_emulated_attention.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import mlx.core as mx
import numpy as np
import pytest

from runner.kernels import delta, delta_chunks_cuda, delta_cuda, product_cuda
from runner.kernels.delta import LinearConfig, Rule
from runner.kernels.product import PLAIN, Around, Matrix, Norm
from runner.quantization.settings import FLOAT_MODES, Quantization
from tests.parts.cuda import COMPILER, on_this_machine
from tests.parts.quantized import Q4, Q8, dequantize, matrix, quantize

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")

KERNELS = (
    delta_chunks_cuda._prepare,
    delta_chunks_cuda._through,
    delta_cuda._kernel,
    product_cuda._kernel,
)
normal = partial(mx.random.normal, dtype=mx.float32)


@pytest.fixture(autouse=True)
def on_a_cpu(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from on_this_machine(KERNELS, tmp_path_factory, monkeypatch)


HALF = [mx.bfloat16, mx.float16]
FIVE = Quantization(64, 5, "affine")
CASES = [
    (None, True, mx.bfloat16),
    (None, False, mx.bfloat16),
    (Q4, True, mx.bfloat16),
    (Q8, False, mx.bfloat16),
    *((Quantization(64, bits, "affine"), bits % 2 == 0, mx.bfloat16) for bits in (2, 3, 5, 6)),
    (Quantization(32, 3, "affine"), True, mx.bfloat16),
    (Quantization(32, 4, "affine"), False, mx.bfloat16),
    *((kind, True, mx.bfloat16) for kind in FLOAT_MODES.values()),
    (Q4, False, mx.float16),
    (Q8, True, mx.float16),
    (FIVE, True, mx.float16),
]


def matrices(kind: Quantization | None, outputs: int, width: int, dtype: mx.Dtype) -> tuple[Matrix, Matrix]:
    """As the kernel has it, and in float32."""
    weight = (normal((outputs, width)) * width**-0.5).astype(dtype)
    bias = normal((outputs,)).astype(dtype)
    factor = mx.array(0.25) if kind and kind.mode == "nvfp4" else None
    dense = dequantize(quantize(weight, kind), kind) if kind else weight.astype(mx.float32)
    plain = Matrix(dense * (1 if factor is None else factor), bias=bias.astype(mx.float32))
    return matrix(weight, kind, bias, factor), plain


@pytest.mark.parametrize(("kind", "gated", "dtype"), CASES, ids=str)
def test_the_product_of_a_few_positions_is_the_plain_one_whatever_their_number(
    kind: Quantization | None, gated: bool, dtype: mx.Dtype
) -> None:
    """36 outputs and 576 inputs fill neither the last block nor the last step."""
    mx.random.seed(7)
    ours, plain = matrices(kind, 72 if gated else 36, 576, dtype)
    weight = (1 + 0.1 * normal((576,))).astype(dtype)
    x, residual = normal((9, 1, 576)).astype(dtype), normal((9, 1, 36)).astype(dtype)
    product = product_cuda.cuda(ours, Around(Norm(weight, 1e-5), gated, ours.weight, adds=True))
    exact = PLAIN.make(plain, Around(Norm(weight.astype(mx.float32), 1e-5), gated, adds=True))
    found = product(x, residual)
    expected = exact(x.astype(mx.float32), residual.astype(mx.float32))
    close = float(0.02 * mx.abs(expected).max()) * (1 if dtype == mx.bfloat16 else 0.1)
    assert found.dtype == dtype
    assert mx.allclose(found.astype(mx.float32), expected, rtol=0, atol=close)
    assert mx.array_equal(product(x[4:5], residual[4:5]), found[4:5])


@pytest.mark.parametrize("kind", [None, Q4], ids=str)
def test_a_norm_whose_weight_is_float32_is_not_rounded_first(kind: Quantization | None) -> None:
    """To bfloat16 1 + 2^-8 is 1, but what it makes of 1.5 is more than that."""
    ours, _ = matrices(kind, 16, 128, mx.bfloat16)
    x, weight = mx.full((1, 1, 128), 1.5, mx.bfloat16), mx.full((128,), 1 + 2**-8)
    finer, rough = (
        product_cuda.cuda(ours._replace(bias=None), Around(Norm(one, 0.0)))(x, None).astype(mx.float32)
        for one in (weight, weight.astype(mx.bfloat16))
    )
    assert mx.allclose(
        mx.abs(finer).sum() / mx.abs(rough).sum(), mx.array(1 + 2**-7 / 1.5), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("kind", FLOAT_MODES.values(), ids=str)
def test_every_code_of_a_float_mode_is_the_number_that_mlx_reads(kind: Quantization, dtype: mx.Dtype) -> None:
    """Position i asks for nothing but input i, so that what is found are the weights."""
    codes = np.arange(16 * 32 * kind.bits // 8, dtype=np.uint8).reshape(16, -1)
    if kind.mode == "mxfp8":
        codes[codes % 128 == 127] = 0  # not a number
    mx.random.seed(1)
    low, high = (
        (0, 127) if kind.mode == "nvfp4" else (0, 250) if dtype == mx.bfloat16 else (127 - 24, 127 + 7)
    )
    scales = mx.random.randint(low, high, (16, 32 // kind.group_size)).astype(mx.uint8)
    packed = Matrix(
        mx.array(codes).view(mx.uint32),
        scales,
        None,
        kind.bits,
        kind.group_size,
        mode=kind.mode,
        number=dtype,
    )
    found = product_cuda.cuda(packed, Around())(mx.eye(32, dtype=dtype)[:, None], None)
    dense = mx.dequantize(packed.weight, scales, None, kind.group_size, kind.bits, kind.mode, dtype=dtype)
    assert mx.array_equal(found.squeeze(1).T, dense)


@pytest.mark.parametrize(("bias", "given"), [(mx.float32, mx.bfloat16), (mx.bfloat16, mx.float32)], ids=str)
def test_what_is_of_another_type_goes_the_plain_way(bias: mx.Dtype, given: mx.Dtype) -> None:
    one = Matrix(normal((16, 32)).astype(mx.bfloat16), bias=normal((16,)).astype(bias))
    x = normal((1, 1, 32)).astype(given)
    found, plain = (way(one, Around())(x, None) for way in (product_cuda.cuda, PLAIN.make))
    assert found.dtype == plain.dtype
    assert mx.array_equal(found, plain)


def test_a_large_input_times_a_large_weight_of_its_norm_is_no_infinity() -> None:
    """In float16, where they are multiplied before the input is normed."""
    weight = (normal((16, 32)) / 8).astype(mx.float16)
    x, norm = mx.full((1, 1, 32), 3e4, mx.float16), mx.full((32,), 8, mx.float16)
    ways = product_cuda.cuda, PLAIN.make
    found, plain = (way(Matrix(weight), Around(Norm(norm, 1e-5)))(x, None) for way in ways)
    assert mx.allclose(found, plain, rtol=0, atol=0.02)


LINEAR = {
    "odd, each part by itself": (LinearConfig(3, 6, 16, 12, 5), False),
    "odd, by key heads": (LinearConfig(2, 6, 20, 12, 2), True),
    "wide": (LinearConfig(1, 2, 64, 128, 4), True),
}


@pytest.mark.parametrize("kind", LINEAR)
def test_a_step_of_linear_attention_is_the_plain_one_whatever_the_number_of_rows(kind: str) -> None:
    """Two steps from no state on; the states between stay as they are."""
    mx.random.seed(len(kind))
    config, is_grouped = LINEAR[kind]
    heads, rows = config.value_heads, 3
    weights = (
        normal((config.channels, config.kernel)).astype(mx.bfloat16),
        normal((heads,)),
        normal((heads,)),
        1 + 0.1 * normal((config.value_width,)),
    )
    rule = Rule(config, is_grouped, *weights, 1e-5)
    ours, plain = delta_cuda.cuda(rule), delta.plain(rule._replace(convolution=weights[0].astype(mx.float32)))
    width = config.channels + heads * (config.value_width + 2)
    given = [normal((rows, 1, width)).astype(mx.bfloat16) for _ in range(2)]
    expected, alone = None, None
    state, states = None, []
    for joined in given:
        exact, expected = plain(joined.astype(mx.float32), expected)
        found, state = ours(joined, state)
        one, alone = ours(joined[1:2], alone)
        assert mx.allclose(found.astype(mx.float32), exact, rtol=2e-2, atol=1e-2)
        assert mx.allclose(state[1], expected[1], rtol=0, atol=1e-5)
        assert mx.array_equal(state[0].astype(mx.float32), expected[0])
        for several, lone in zip((found, *state), (one, *alone), strict=True):
            assert mx.array_equal(several[1:2], lone)
        states.append((state, [mx.array(part) for part in state]))
    for held, copied in states:
        assert all(map(mx.array_equal, held, copied))


@pytest.mark.parametrize(("length", "widths"), [(70, (20, 32)), (33, (128, 16))])
def test_linear_attention_goes_from_chunk_to_chunk_as_position_by_position(
    length: int, widths: tuple[int, int]
) -> None:
    """Chunks that are not full, keys that repeat, a decay to 0, rates of 1."""
    mx.random.seed(length)
    key_width, value_width, lead = *widths, (2, 1)
    towards = normal((*lead, 1, key_width))
    keys = towards + 0.3 * normal((*lead, length, key_width))
    keys = keys / mx.sqrt((keys * keys).sum(axis=-1, keepdims=True))
    decay = mx.where(mx.arange(length) % 9 == 4, -mx.inf, -mx.exp(normal((*lead, length)) - 3))
    rate = mx.where(mx.arange(length) % 4 == 1, 1.0, mx.random.uniform(shape=(*lead, length)))
    queries, values = (normal((*lead, length, size)) for size in (key_width, value_width))
    given = queries * key_width**-0.5, keys, values, decay, rate, normal((*lead, key_width, value_width))
    for found, expected in zip(delta_chunks_cuda.cuda(*given), delta.sequential(*given), strict=True):
        assert found.shape == expected.shape
        assert mx.allclose(found, expected, rtol=0, atol=2e-5)
