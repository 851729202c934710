"""The CUDA sources compute what the plain forms say, run on a CPU by `tests/parts/cuda`.

A GPU runs more cases (`test_product_cuda.py`, `test_rows_attention.py`); these are for everybody who has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import mlx.core as mx
import pytest

from runner.kernels import compiled, delta, delta_chunks_cuda, delta_cuda, product_cuda, rows_attention_cuda
from runner.kernels.delta import LinearConfig, Rule
from runner.kernels.product import PLAIN, Around, Matrix, Norm
from runner.kernels.rotation import Turning
from runner.kernels.rows_attention import LANE, Heads, Joint, Lanes, Own, Query
from runner.kernels.rows_attention import PLAIN as PLAIN_ATTENTION
from tests.parts.cuda import COMPILER, emulated

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")

KERNELS = (
    delta_chunks_cuda._prepare,
    delta_chunks_cuda._through,
    delta_cuda._kernel,
    product_cuda._kernel,
    rows_attention_cuda._kernel,
)
normal = partial(mx.random.normal, dtype=mx.float32)


@pytest.fixture(autouse=True)
def on_a_cpu(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder: Path = tmp_path_factory.getbasetemp() / "kernels"
    folder.mkdir(exist_ok=True)
    for kernel in KERNELS:
        kernel.cache_clear()
    monkeypatch.setattr(compiled, "kernel", emulated(folder))
    yield
    for kernel in KERNELS:
        kernel.cache_clear()


def matrices(bits: int, outputs: int, width: int) -> tuple[Matrix, Matrix]:
    """As the kernel has it, and in float32."""
    weight = (normal((outputs, width)) * width**-0.5).astype(mx.bfloat16)
    bias = normal((outputs,)).astype(mx.bfloat16)
    if not bits:
        return Matrix(weight, bias=bias), Matrix(weight.astype(mx.float32), bias=bias.astype(mx.float32))
    parts = mx.quantize(weight, group_size=64, bits=bits)
    dense = mx.dequantize(*parts, group_size=64, bits=bits).astype(mx.float32)
    return Matrix(*parts, bits, 64, bias), Matrix(dense, bias=bias.astype(mx.float32))


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("bits", [0, 4, 8])
def test_the_product_of_a_few_positions_is_the_plain_one_whatever_their_number(
    bits: int, gated: bool
) -> None:
    """36 outputs and 576 inputs fill neither the last block nor the last step."""
    mx.random.seed(bits)
    ours, plain = matrices(bits, 72 if gated else 36, 576)
    weight = (1 + 0.1 * normal((576,))).astype(mx.bfloat16)
    x, residual = normal((9, 1, 576)).astype(mx.bfloat16), normal((9, 1, 36)).astype(mx.bfloat16)
    product = product_cuda.cuda(ours, Around(Norm(weight, 1e-5), gated, ours.weight, adds=True))
    exact = PLAIN.make(plain, Around(Norm(weight.astype(mx.float32), 1e-5), gated, adds=True))
    found = product(x, residual)
    expected = exact(x.astype(mx.float32), residual.astype(mx.float32))
    assert mx.allclose(found.astype(mx.float32), expected, rtol=0, atol=float(0.02 * mx.abs(expected).max()))
    assert mx.array_equal(product(x[4:5], residual[4:5]), found[4:5])


@pytest.mark.parametrize("bits", [0, 4])
def test_a_norm_whose_weight_is_float32_is_not_rounded_first(bits: int) -> None:
    """To bfloat16 1 + 2^-8 is 1, but what it makes of 1.5 is more than that."""
    ours, _ = matrices(bits, 16, 128)
    x, weight = mx.full((1, 1, 128), 1.5, mx.bfloat16), mx.full((128,), 1 + 2**-8)
    finer, rough = (
        product_cuda.cuda(ours._replace(bias=None), Around(Norm(one, 0.0)))(x, None).astype(mx.float32)
        for one in (weight, weight.astype(mx.bfloat16))
    )
    assert mx.allclose(
        mx.abs(finer).sum() / mx.abs(rough).sum(), mx.array(1 + 2**-7 / 1.5), rtol=0, atol=1e-3
    )


def rows_of(lengths: list[int], kv_heads: int, width: int) -> list[Own]:
    shapes = [(1, kv_heads, length + 3, width) for length in lengths]
    return [
        Own(normal(shape), normal(shape), 0, length) for shape, length in zip(shapes, lengths, strict=True)
    ]


def lanes_of(rows: int, heads: int, kv_heads: int, width: int) -> list[Lanes]:
    """Two of the same."""
    keys, values = (normal((rows * LANE, kv_heads, width)) for _ in range(2))
    made = [Lanes(mx.array(keys), mx.array(values), mx.zeros(rows * heads, mx.int32)) for _ in range(2)]
    mx.eval(made)
    return made


@pytest.mark.parametrize("is_gated", [False, True])
@pytest.mark.parametrize("lengths", [[700], [5, 130]])
def test_joined_heads_are_normed_turned_written_and_find_what_the_plain_form_finds(
    lengths: list[int], is_gated: bool
) -> None:
    """A lone row whose positions are split over blocks, and two rows."""
    mx.random.seed(len(lengths))
    heads, kv_heads, width, rows = 4, 2, 32, len(lengths)
    own, (ours, plain) = rows_of(lengths, kv_heads, width), lanes_of(rows, heads, kv_heads, width)
    norms = (1 + 0.1 * normal((width,)), 1 + 0.1 * normal((width,)))
    turned = Heads(heads, kv_heads, Turning(width, width // 2, 10_000.0), norms, 1e-6, is_gated)
    joined = normal((rows, 1, turned.joined * width))
    places = mx.array([row * LANE + 7 for row in range(rows)], mx.int32)
    joint = Joint(joined, turned, places, width**-0.5, max(lengths) + 8)
    found = rows_attention_cuda.cuda(own, None, rows).attend_joint(joint, ours)
    expected = PLAIN_ATTENTION.make(own, None, rows).attend_joint(joint, plain)
    assert mx.allclose(found, expected, rtol=0, atol=2e-4)
    assert mx.allclose(ours.keys, plain.keys, rtol=0, atol=2e-4)
    assert mx.array_equal(ours.values, plain.values)
    assert not ours.waiting.any()


def test_a_query_with_a_window_and_sinks_finds_what_the_plain_form_finds() -> None:
    mx.random.seed(3)
    heads, kv_heads, width, lengths = 4, 2, 16, [300, 9]
    own, (ours, plain) = rows_of(lengths, kv_heads, width), lanes_of(3, heads, kv_heads, width)
    queries, keys, values = (normal((2, count, 1, width)) for count in (heads, kv_heads, kv_heads))
    places = mx.array([2 * LANE + 3, LANE - 1], mx.int32)
    query = Query(queries, places, 0.25, normal((heads,)), max(lengths) + LANE, (keys, values))
    ways = (rows_attention_cuda.cuda(own, 40, 3), ours), (PLAIN_ATTENTION.make(own, 40, 3), plain)
    for asked in (query, query._replace(new=None)):
        found, expected = (way.attend(asked, lanes) for way, lanes in ways)
        assert mx.allclose(found, expected, rtol=0, atol=1e-5)
    assert mx.array_equal(ours.keys, plain.keys)


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
