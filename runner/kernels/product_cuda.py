"""The product of a few positions as one CUDA kernel, with the norm, the gating and the residual around it.

Why: on a fast GPU a step of few positions waits for the dispatch of its operations, and MLX's packed products read
the weights again for each position. `product_source.py` has the source and says how it goes.

Shapes: see `product.py`.

Knows nothing about layers, models or requests.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import mlx.core as mx

from runner.kernels import compiled
from runner.kernels.compiled import Kernel
from runner.kernels.product import Around, Matrix, Norm, Product, Products
from runner.kernels.product_source import (
    BIAS,
    BODY,
    DIRECT,
    FETCH_AHEAD,
    FORMS,
    GATE,
    GROUPED,
    HEADER,
    LONG,
    NORM,
    RESIDUAL,
)
from runner.kernels.program import Array, Program

WARPS = 8
LONG_WARPS = 4  # where codes are multiplied as they are
# Steps whose weights a thread asks for at once, by bits and times eight positions.
AHEAD = {0: {1: 4, 2: 4, 4: 2}, 4: {1: 2, 2: 1, 4: 1}, 8: {1: 2, 2: 2, 4: 1}}
GROUPS = (32, 64, 128)
LONG_GROUP = 64  # inputs
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
    adds: bool = False
    is_centred: bool = False  # the norm's weight: what it adds to 1

    @property
    def is_long(self) -> bool:
        """Whether 64 inputs next to one another share a scale, so that codes are multiplied as they are."""
        return self.bits in LONG and self.group_size >= LONG_GROUP

    @property
    def warps(self) -> int:
        """Of a block: they share the inputs."""
        return LONG_WARPS if self.is_long else WARPS

    def ahead(self, columns: int) -> int:
        """Steps whose weights a thread asks for at once."""
        return 1 if self.is_long else AHEAD[self.bits][columns]


def fits(matrix: Matrix) -> bool:
    """Whether the kernel is written for such a matrix."""
    return matrix.weight.ndim == 2 and has_form(matrix)


def has_form(matrix: Matrix) -> bool:
    """Whether its numbers are of a kind, and its inputs of a number, that a kernel can multiply."""
    numbers = matrix.weight if matrix.scales is None else matrix.scales
    if numbers.dtype != mx.bfloat16 or matrix.width % 32:
        return False
    if matrix.scales is None:
        return True
    return matrix.bits in FORMS and matrix.group_size in GROUPS and matrix.biases is not None


def cuda(matrix: Matrix, around: Around) -> Product:
    shape = _shape(matrix, around)
    out = shape.outputs // 2 if shape.gated else shape.outputs
    norm = None if around.norm is None else _norm_weight(around.norm)
    parts = (matrix.weight, matrix.scales, matrix.biases, norm, matrix.bias, around.following)
    fixed = [part for part in parts if part is not None]
    threads = 32 * shape.warps
    grid, block = (threads * -(-out // ROWS), 1, 1), (threads, 1, 1)
    kernels = {columns: _kernel(shape, columns) for columns in (1, 2, 4)}

    def product(x: mx.array, residual: mx.array | None) -> mx.array:
        batch, length, _ = x.shape
        positions = batch * length
        inputs = [x, *fixed] if residual is None else [x, *fixed, residual]
        kernel = kernels[_columns(positions)]
        return kernel(inputs, grid, block, [(batch, length, out)], (positions,))[0]

    return product


CUDA = Products(fits, cuda)


def _shape(matrix: Matrix, around: Around) -> Shape:
    eps = None if around.norm is None else around.norm.eps
    lines = 0 if around.following is None else min(around.following.nbytes, FETCHED) // LINE
    sizes = matrix.weight.shape[0], matrix.width, matrix.bits, matrix.group_size
    is_centred = around.norm is not None and _is_centred(around.norm)
    return Shape(*sizes, eps, around.gated, matrix.bias is not None, lines, around.adds, is_centred)


def _is_centred(norm: Norm) -> bool:
    """Near 1 bfloat16 has few values, and a weight that needs more is stored as what it adds to 1."""
    return norm.weight.dtype != mx.bfloat16


def _norm_weight(norm: Norm) -> mx.array:
    if not _is_centred(norm):
        return norm.weight
    added = (norm.weight.astype(mx.float32) - 1).astype(mx.bfloat16)
    mx.eval(added)  # or only the thread that loads a model could use it
    return added


def _columns(positions: int) -> int:
    """So many times eight positions: 1, 2 or 4."""
    return 1 if positions <= EIGHT else 2 if positions <= 2 * EIGHT else 4


@cache
def _kernel(shape: Shape, columns: int) -> Kernel:
    return compiled.kernel(program(shape, columns))


def program(shape: Shape, columns: int) -> Program:
    number = mx.bfloat16
    inputs = {
        "x": number,
        "weight": mx.uint32 if shape.bits else number,
        "scales": number if shape.bits else None,
        "biases": number if shape.bits else None,
        "norm": None if shape.eps is None else number,
        "bias": number if shape.bias else None,
        "following": mx.uint8 if shape.lines else None,
        "residual": number if shape.adds else None,
    }
    return Program(
        "few_rows_product",
        tuple(Array(name, dtype) for name, dtype in inputs.items() if dtype is not None),
        (Array("out", number),),
        source(shape, columns),
        HEADER,
        ("rows",),
    )


def source(shape: Shape, columns: int) -> str:
    """The kernel's body."""
    normed = shape.eps is not None
    words: dict[str, object] = {
        "warps": shape.warps,
        "tiles": 2 if shape.gated else 1,
        "cols": columns,
        "ahead": shape.ahead(columns),
        "chunk": shape.ahead(1),
        "W": shape.width,
        "N": shape.outputs,
        "out": shape.outputs // 2 if shape.gated else shape.outputs,
        "group": shape.group_size,
        "eps": f"{shape.eps!r}f",
        "bias": BIAS if shape.bias else "",
        "gate": GATE if shape.gated else "",
        "residual": RESIDUAL if shape.adds else "",
        "lines": shape.lines,
        "times": "times_1_and" if shape.is_centred else "times",
    }
    words["fetch_ahead"] = FETCH_AHEAD % words if shape.lines else ""
    form = LONG[shape.bits] if shape.is_long else FORMS[shape.bits]
    ways = GROUPED if "codes" in form else DIRECT
    inner: dict[str, object] = {name: text % words if normed else "" for name, text in NORM.items()}
    inner |= {name: str(text) % words if name == "fetch" else text for name, text in form.items()}
    words |= inner | {name: text % (words | inner) for name, text in ways.items()}
    return BODY % words
