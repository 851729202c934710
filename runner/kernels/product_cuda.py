"""The product of a few positions as one CUDA kernel, with the norm, the gating and the residual around it.

Why: on a fast GPU a step of few positions waits for the dispatch of its operations, and MLX's packed products read
the weights again for each position. `product_source.py` has the source and says how it goes.

Shapes: see `product.py`.

Knows nothing about layers, models or requests.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import mlx.core as mx

from runner.kernels.product import Around, Matrix, Product, Products
from runner.kernels.product_source import BIAS, BODY, FETCH_AHEAD, FORMS, GATE, HEADER, NORM, RESIDUAL

WARPS = 8
# Steps whose weights a thread asks for at once, by bits, with up to 8, 16 and 32 positions.
AHEAD = {0: {1: 4, 2: 4, 4: 2}, 4: {1: 2, 2: 1, 4: 1}, 8: {1: 2, 2: 2, 4: 1}}
GROUPS = (32, 64, 128)
ROWS = 16  # outputs of a block
LINE = 128  # bytes that are fetched ahead at once
FETCHED = 1 << 23  # bytes at most: what the memory delivers until the next kernel reads for itself
EIGHT = 8  # positions that a warp multiplies at once


class Shape(NamedTuple):
    """What a kernel is compiled for, but the number of positions."""

    outputs: int  # N
    width: int  # W
    bits: int
    group_size: int
    eps: float | None  # of the norm
    gated: bool
    bias: bool
    lines: int = 0  # that are fetched ahead


def fits(matrix: Matrix) -> bool:
    """Whether the kernel is written for such a matrix."""
    numbers = matrix.weight if matrix.scales is None else matrix.scales
    if numbers.dtype != mx.bfloat16 or matrix.width % 32 or matrix.weight.ndim != 2:
        return False
    if matrix.scales is None:
        return True
    return matrix.bits in FORMS and matrix.group_size in GROUPS and matrix.biases is not None


def cuda(matrix: Matrix, around: Around) -> Product:
    shape = _shape(matrix, around)
    out = shape.outputs // 2 if shape.gated else shape.outputs
    norm = None if around.norm is None else around.norm.weight
    parts = (matrix.weight, matrix.scales, matrix.biases, norm, matrix.bias, around.following)
    fixed = [part for part in parts if part is not None]
    grid, block = (WARPS * 32 * -(-out // ROWS), 1, 1), (WARPS * 32, 1, 1)

    def product(x: mx.array, residual: mx.array | None) -> mx.array:
        batch, length, _ = x.shape
        kernel = _kernel(shape, _columns(batch * length), residual is not None)
        found = kernel(
            inputs=[x, *fixed] if residual is None else [x, *fixed, residual],
            grid=grid,
            threadgroup=block,
            output_shapes=[(batch, length, out)],
            output_dtypes=[mx.bfloat16],
        )
        return found[0]

    return product


CUDA = Products(fits, cuda)


def _shape(matrix: Matrix, around: Around) -> Shape:
    eps = None if around.norm is None else around.norm.eps
    lines = 0 if around.following is None else min(around.following.nbytes, FETCHED) // LINE
    sizes = matrix.weight.shape[0], matrix.width, matrix.bits, matrix.group_size
    return Shape(*sizes, eps, around.gated, matrix.bias is not None, lines)


def _columns(positions: int) -> int:
    """So many times eight positions: 1, 2 or 4."""
    return 1 if positions <= EIGHT else 2 if positions <= 2 * EIGHT else 4


@cache
def _kernel(shape: Shape, columns: int, residual: bool) -> Callable[..., list[mx.array]]:
    parts = {
        "scales": shape.bits,
        "biases": shape.bits,
        "norm": shape.eps is not None,
        "bias": shape.bias,
        "following": shape.lines,
        "residual": residual,
    }
    return mx.fast.cuda_kernel(  # type: ignore[return-value]  # the stub says object
        name=_name(shape, columns, residual),
        input_names=["x", "weight", *(name for name, is_there in parts.items() if is_there)],
        output_names=["out"],
        source=source(shape, columns, residual),
        header=HEADER,
    )


def source(shape: Shape, columns: int, residual: bool) -> str:
    """The kernel's body."""
    normed = shape.eps is not None
    words = {
        "warps": WARPS,
        "tiles": 2 if shape.gated else 1,
        "cols": columns,
        "ahead": AHEAD[shape.bits][columns],
        "chunk": AHEAD[shape.bits][1],
        "W": shape.width,
        "N": shape.outputs,
        "out": shape.outputs // 2 if shape.gated else shape.outputs,
        "group": shape.group_size,
        "eps": f"{shape.eps!r}f",
        "bias": BIAS if shape.bias else "",
        "gate": GATE if shape.gated else "",
        "residual": RESIDUAL if residual else "",
        "lines": shape.lines,
    }
    words["fetch_ahead"] = FETCH_AHEAD % words if shape.lines else ""
    for name, text in NORM.items():
        words[name] = text % words if normed else ""
    form = FORMS[shape.bits]
    fetch = str(form["fetch"]) % words if shape.bits else form["fetch"]
    return BODY % (form | words | {"fetch": fetch})


def _name(shape: Shape, columns: int, residual: bool) -> str:
    """MLX keeps compiled kernels by name, so everything that the source depends on is in it."""
    eps = "none" if shape.eps is None else shape.eps.hex().translate(str.maketrans(".-+", "_mp"))
    numbers = (*shape[:4], int(shape.gated), int(shape.bias), shape.lines, columns, int(residual))
    return "_".join(["few_rows_product", eps, *map(str, numbers)])
