"""The products between two attentions: as one kernel, run on a CPU by `tests/parts/cuda`, and when it is there."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import mlx.core as mx
import pytest

from runner.kernels import compiled, seam_cuda
from runner.kernels.product import PLAIN, Matrix, Norm
from runner.kernels.seam import Parts, of_products
from runner.machine import cuda
from runner.machine.cuda import Processors
from tests.parts.cuda import COMPILER, emulated

normal = partial(mx.random.normal, dtype=mx.float32)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")


@pytest.fixture(autouse=True)
def three_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seam_cuda, "processors", lambda: Processors(3, 200_000))


@pytest.fixture
def on_a_cpu(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder: Path = tmp_path_factory.getbasetemp() / "kernels"
    folder.mkdir(exist_ok=True)
    seam_cuda._kernel.cache_clear()
    monkeypatch.setattr(compiled, "kernel", emulated(folder))
    yield
    seam_cuda._kernel.cache_clear()


def matrix(bits: int, outputs: int, width: int, group_size: int = 64) -> Matrix:
    weight = (normal((outputs, width)) * width**-0.5).astype(mx.bfloat16)
    bias = normal((outputs,)).astype(mx.bfloat16)
    if not bits:
        return Matrix(weight, bias=bias)
    return Matrix(*mx.quantize(weight, group_size=group_size, bits=bits), bits, group_size, bias)


def parts(
    bits: int, *, is_last: bool = False, hidden: int = 256, width: int = 512, joined: int = 160
) -> Parts:
    wide = mx.float32 if bits == 4 else mx.bfloat16
    norms = [Norm((1 + 0.1 * normal((hidden,))).astype(wide), eps) for eps in (1e-5, 1e-6)]
    out, gate_up = matrix(bits, hidden, 256), matrix(bits, 2 * width, hidden)
    down, following = matrix(bits, hidden, width)._replace(bias=None), matrix(bits, joined, hidden)
    if is_last:
        return Parts(out, norms[0], gate_up, down, None, None)
    return Parts(out, norms[0], gate_up, down, norms[1], following)


def exact(one: Parts) -> Parts:
    """The same in float32."""

    def floats(matrix: Matrix) -> Matrix:
        weight, scales, biases, bias = matrix.weight, matrix.scales, matrix.biases, matrix.bias
        if scales is not None:
            weight = mx.dequantize(weight, scales, biases, group_size=matrix.group_size, bits=matrix.bits)
        return Matrix(weight.astype(mx.float32), bias=None if bias is None else bias.astype(mx.float32))

    def norm(one: Norm | None) -> Norm | None:
        return None if one is None else Norm(one.weight.astype(mx.float32), one.eps)

    first = norm(one.norm)
    assert first is not None
    following = None if one.following is None else floats(one.following)
    return Parts(
        floats(one.out), first, floats(one.gate_up), floats(one.down), norm(one.next_norm), following
    )


@needs_compiler
@pytest.mark.parametrize(("bits", "rows", "is_last"), [(0, 3, False), (4, 9, False), (8, 2, True)])
def test_four_products_in_one_kernel_are_the_four_products_whatever_the_number_of_rows(
    on_a_cpu: None, bits: int, rows: int, is_last: bool
) -> None:
    """Three blocks wait for each other; 160 outputs of 16 leave the last of them with fewer."""
    mx.random.seed(bits)
    made = parts(bits, is_last=is_last)
    x, found = (normal((rows, 1, 256)).astype(mx.bfloat16) for _ in range(2))
    seam = seam_cuda.cuda(made)
    assert seam is not None
    expected = of_products(exact(made), PLAIN)(x.astype(mx.float32), found.astype(mx.float32))
    seam(x, found)  # the blocks meet once more
    answers = seam(x, found)
    alone = seam(x[-1:], found[-1:])
    for answer, one, right in zip(answers, alone, expected, strict=True):
        assert answer.shape == right.shape
        assert mx.allclose(answer.astype(mx.float32), right, rtol=0, atol=float(0.02 * mx.abs(right).max()))
        assert mx.array_equal(one, answer[-1:])


def test_what_the_kernel_is_not_written_for_goes_another_way() -> None:
    made = parts(4)
    assert seam_cuda._form(made) is not None
    assert seam_cuda._form(made._replace(down=matrix(8, 256, 512))) is None  # two kinds of weights
    assert seam_cuda._form(exact(made)) is None  # float32
    assert seam_cuda._form(parts(4, hidden=128)) is None  # half an item of 256 inputs
    assert seam_cuda._form(parts(4, joined=144)) is None  # outputs that are no multiple of 32
    assert seam_cuda._form(made._replace(out=matrix(4, 256, 256, group_size=32))) is None


def test_a_gpu_whose_driver_says_nothing_gets_no_kernel_that_waits_for_all_its_processors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda, "DRIVER", "libno-such-driver.so.1")
    cuda.processors.cache_clear()
    assert cuda.processors() == (0, 0)
    cuda.processors.cache_clear()
    monkeypatch.setattr(seam_cuda, "processors", lambda: Processors(0, 0))
    assert seam_cuda.cuda(parts(0)) is None


def test_two_tiles_at_once_only_where_no_processor_waits_for_it() -> None:
    form = seam_cuda._form(parts(0))
    assert form is not None
    many = form._replace(processors=Processors(132, 232_448))
    assert [many.tiles(outputs) for outputs in (4096, 2048, 6144)] == [2, 1, 1]
