"""The CUDA kernels of a mixture of experts compute what the plain form says, run on a CPU by `tests/parts/cuda`.

A GPU runs more cases (`test_experts_cuda.py`); these are for everybody who has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import mlx.core as mx
import pytest

from runner.kernels import compiled, experts_cuda
from runner.kernels.product import Matrix, Norm
from tests.parts.banks import banks, check
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
    check(ours, plain, logits)


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
    assert not fits(packed._replace(down=packed.down._replace(mode="mxfp4", biases=None)))
    assert not fits(ours._replace(active=5))
    assert not fits(ours._replace(up=packed.up))
    assert not fits(ours._replace(norm=Norm(mx.ones(64, mx.float16), 1e-5)))
    assert not fits(ours._replace(active=4, down=Matrix(mx.zeros((4, 64, 4096), mx.bfloat16))))
    assert not fits(ours._replace(shared=packed.shared))
    assert not fits(packed._replace(shared=banks(4, 64, 64, 2, 8, 64, normalized=True)[0].shared))
    assert not fits(ours._replace(down=Matrix(mx.zeros((4, 64, 40), mx.bfloat16))))
