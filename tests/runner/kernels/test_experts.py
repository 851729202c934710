"""The CUDA kernels of a mixture of experts compute what the plain form says, run on a CPU by `tests/parts/cuda`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import mlx.core as mx
import pytest

from runner.kernels import compiled, experts_cuda
from runner.kernels.experts import PLAIN, Bank, Shared
from runner.kernels.product import Matrix, Norm
from tests.parts.cuda import COMPILER, emulated

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")

normal = partial(mx.random.normal, dtype=mx.float32)


@pytest.fixture(autouse=True)
def on_a_cpu(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder: Path = tmp_path_factory.getbasetemp() / "kernels"
    folder.mkdir(exist_ok=True)
    experts_cuda._kernel.cache_clear()
    monkeypatch.setattr(compiled, "kernel", emulated(folder))
    yield
    experts_cuda._kernel.cache_clear()


def matrices(shape: tuple[int, ...], bits: int, group_size: int) -> tuple[Matrix, Matrix]:
    """As a kernel has it, and in float32."""
    weight = (normal(shape) * shape[-1] ** -0.5).astype(mx.bfloat16)
    if not bits:
        return Matrix(weight), Matrix(weight.astype(mx.float32))
    parts = mx.quantize(weight, group_size=group_size, bits=bits)
    dense = mx.dequantize(*parts, group_size=group_size, bits=bits)
    return Matrix(*parts, bits, group_size), Matrix(dense.astype(mx.float32))


def banks(
    experts: int, hidden: int, width: int, active: int, bits: int, group_size: int, *, normalized: bool
) -> tuple[Bank, Bank]:
    """As the kernels have it, and in float32; with a shared expert."""
    shapes = [
        *((experts, width, hidden), (experts, width, hidden), (experts, hidden, width)),
        *((2 * width, hidden), (hidden, width)),
    ]
    gate, up, down, *shared = (matrices(shape, bits, group_size) for shape in shapes)
    norm = (1 + 0.1 * normal((hidden,))).astype(mx.bfloat16)
    ours, plain = (
        Bank(
            *(gate[one], up[one], down[one], Norm(weight, 1e-5), active, normalized),
            Shared(shared[0][one], shared[1][one]),
        )
        for one, weight in enumerate((norm, norm.astype(mx.float32)))
    )
    return ours._replace(following=norm), plain


def check(ours: Bank, plain: Bank, logits: mx.array, wanted: mx.array) -> None:
    """Tokens with these logits in bfloat16 go the way that the plain form goes with those wanted."""
    assert experts_cuda.CUDA.fits(ours)
    x = normal((len(logits), 1, ours.gate.width)).astype(mx.bfloat16)
    mix, wide = experts_cuda.CUDA.make(ours), x.astype(mx.float32)
    found, expected = mix(x, logits), PLAIN.make(plain)(wide, wanted)
    assert found.shape == x.shape
    made, wanted = found.astype(mx.float32) - wide, expected - wide
    for one, its in zip(made, wanted, strict=True):
        assert mx.allclose(one, its, rtol=0, atol=float(0.02 * mx.abs(its).max()))
    assert mx.array_equal(mix(x[1:], logits[1:]), found[1:])


@needs_compiler
@pytest.mark.parametrize(
    ("bits", "group_size", "normalized", "has_shared"),
    [(0, 0, True, True), (4, 64, False, False), (4, 32, True, False), (8, 64, False, True)],
)
def test_the_kernels_find_what_the_plain_form_finds_whatever_the_number_of_tokens(
    bits: int, group_size: int, normalized: bool, has_shared: bool
) -> None:
    """Inputs fill no last step of packed weights, experts no last lane of a warp."""
    mx.random.seed(bits + group_size)
    hidden, width = (192, 64) if group_size == 64 else (160, 32)
    ours, plain = banks(37, hidden, width, 3, bits, group_size, normalized=normalized)
    if has_shared:  # models that have one have such norms
        ours = ours._replace(norm=plain.norm)
    else:
        ours, plain = ours._replace(shared=None), plain._replace(shared=None)
    logits = (2 * normal((2, 1, 37 + has_shared))).astype(mx.bfloat16)
    check(ours, plain, logits, logits.astype(mx.float32))


@needs_compiler
def test_of_experts_with_equal_logits_the_first_are_chosen() -> None:
    mx.random.seed(5)
    ours, plain = (bank._replace(shared=None) for bank in banks(40, 32, 32, 4, 0, 0, normalized=True))
    equal = mx.zeros((1, 40))
    some = mx.where(mx.arange(40) % 3 == 1, -1.5, -2.0)[None]
    far_apart = mx.where(mx.arange(40) == 33, 300.0, -300.0)[None]  # all odds but one are zero
    logits = mx.stack([equal, some, far_apart])
    falling = logits - 1e-5 * mx.arange(40) * mx.maximum(mx.abs(logits), 1)
    check(ours, plain, logits.astype(mx.bfloat16), falling)


def test_what_the_kernels_are_not_written_for_is_left_to_others() -> None:
    ours, plain = banks(4, 64, 32, 2, 0, 0, normalized=True)
    packed, _ = banks(4, 64, 64, 2, 4, 64, normalized=True)
    fits = experts_cuda.CUDA.fits
    assert fits(ours)
    assert fits(packed)
    assert not fits(plain)  # float32
    assert not fits(ours._replace(active=5))
    assert not fits(ours._replace(up=packed.up))
    assert not fits(ours._replace(norm=Norm(mx.ones(64, mx.float16), 1e-5)))
    assert not fits(ours._replace(active=4, down=Matrix(mx.zeros((4, 64, 4096), mx.bfloat16))))
    assert not fits(ours._replace(shared=packed.shared))
    assert not fits(packed._replace(shared=banks(4, 64, 64, 2, 8, 64, normalized=True)[0].shared))
    assert not fits(ours._replace(down=Matrix(mx.zeros((4, 64, 40), mx.bfloat16))))
