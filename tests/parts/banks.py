"""Mixtures of experts with random weights, and what CUDA's kernels have to make of them."""

from __future__ import annotations

from functools import partial

import mlx.core as mx

from runner.kernels.experts import PLAIN, Bank, Shared
from runner.kernels.experts_cuda import CUDA
from runner.kernels.product import Matrix, Norm

normal = partial(mx.random.normal, dtype=mx.float32)


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


def check(ours: Bank, plain: Bank, logits: mx.array, same: mx.array | None = None) -> None:
    """CUDA's kernels find what the plain form finds, and for the last token alone what they find for it among all.

    same: logits in float32 by which the plain form chooses the same experts, where those given leave it a choice.
    """
    assert CUDA.fits(ours)
    x = (0.25 * normal((len(logits), 1, ours.gate.width))).astype(mx.bfloat16)
    mix, wide = CUDA.make(ours), x.astype(mx.float32)
    found = mix(x, logits)
    expected = PLAIN.make(plain)(wide, logits.astype(mx.float32) if same is None else same)
    assert found.shape == x.shape
    rounded = float(mx.abs(wide).max()) * 2**-8  # where experts find little beside what is there
    for one, its in zip(found.astype(mx.float32) - wide, expected - wide, strict=True):
        assert mx.allclose(one, its, rtol=0, atol=float(0.02 * mx.abs(its).max()) + rounded)
    assert mx.array_equal(mix(x[-1:], logits[-1:]), found[-1:])
