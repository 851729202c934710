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
from runner.kernels.product import Around, Matrix, Norm, Product, Products, plain
from runner.kernels.product_forms import FLOAT_FORMS, FORMS, LONG, Form
from runner.kernels.product_header import HEADER
from runner.kernels.product_numbers import NUMBERS, SHRUNK
from runner.kernels.product_source import BIAS, BODY, FACTOR, FETCH_AHEAD, GATE, NORM, RESIDUAL
from runner.kernels.program import Array, Program

GROUPS = (32, 64, 128)
LONG_GROUP = 64  # inputs
ROWS = 16  # outputs of a block
LINE = 128  # bytes that are fetched ahead at once
FETCHED = 1 << 23  # bytes at most: what the memory delivers until the next kernel reads for itself
EIGHT = 8  # positions that a warp multiplies at once
# Floats of so many bytes and inputs are multiplied by MLX's own product, which takes 11 us less for a layer of half
# a Llama of 70 billion on an H200. Its rows may differ in the last bit by their number.
LARGE, LONG_ROW = 1 << 27, 8192


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
    mode: str = "affine"
    scaled: bool = False  # by a factor for each output
    number: mx.Dtype = mx.bfloat16

    @property
    def form(self) -> Form:
        if self.mode in FLOAT_FORMS:
            return FLOAT_FORMS[self.mode]
        return LONG[self.bits] if self.bits in LONG and self.group_size >= LONG_GROUP else FORMS[self.bits]


def fits(matrix: Matrix) -> bool:
    """Whether the kernel is written for such a matrix."""
    return matrix.weight.ndim == 2 and has_form(matrix)


def has_form(matrix: Matrix) -> bool:
    """Whether its numbers are of a kind, and its inputs of a number, that a kernel can multiply."""
    if matrix.width % 32 or matrix.dtype not in NUMBERS:
        return False
    if matrix.scales is not None and matrix.mode not in FLOAT_FORMS:
        known = matrix.mode == "affine" and matrix.bits in FORMS and matrix.group_size in GROUPS
        if not known or matrix.biases is None:
            return False
    return matrix.width % (_shape(matrix, Around()).form.step // 4) == 0


def cuda(matrix: Matrix, around: Around) -> Product:
    number, by_parts = matrix.dtype, plain(matrix, around)
    if matrix.bias is not None and matrix.bias.dtype != number:
        return by_parts
    if matrix.scales is None and matrix.width >= LONG_ROW and matrix.weight.nbytes >= LARGE:
        return by_parts
    shape = _shape(matrix, around)
    out = shape.outputs // 2 if shape.gated else shape.outputs
    norm = None if around.norm is None else _norm_weight(around.norm, number)
    factors = None if matrix.factor is None else _of_outputs(matrix.factor, shape.outputs)
    parts = (matrix.weight, matrix.scales, matrix.biases, norm, factors, matrix.bias, around.following)
    fixed = [part for part in parts if part is not None]
    threads = 32 * shape.form.warps
    grid, block = (threads * -(-out // ROWS), 1, 1), (threads, 1, 1)
    kernels = {columns: _kernel(shape, columns) for columns in (1, 2, 4)}

    def product(x: mx.array, residual: mx.array | None) -> mx.array:
        if x.dtype != number:
            return by_parts(x, residual)
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
    is_centred = around.norm is not None and _is_centred(around.norm, matrix.dtype)
    kind = is_centred, matrix.mode, matrix.factor is not None, matrix.dtype
    return Shape(*sizes, eps, around.gated, matrix.bias is not None, lines, around.adds, *kind)


def _is_centred(norm: Norm, number: mx.Dtype) -> bool:
    """Near 1 bfloat16 has few values, and a weight that needs more is stored as what it adds to 1."""
    return number == mx.bfloat16 and norm.weight.dtype != number


def _norm_weight(norm: Norm, number: mx.Dtype) -> mx.array:
    weight = norm.weight.astype(mx.float32) / SHRUNK[number]
    if _is_centred(norm, number):
        weight = weight - 1
    weight = weight.astype(number)
    mx.eval(weight)  # or only the thread that loads a model could use it
    return weight


def _of_outputs(factor: mx.array, outputs: int) -> mx.array:
    """[N]"""
    factors = mx.contiguous(mx.broadcast_to(factor.astype(mx.float32).reshape(-1), (outputs,)))
    mx.eval(factors)
    return factors


def _columns(positions: int) -> int:
    """So many times eight positions: 1, 2 or 4."""
    return 1 if positions <= EIGHT else 2 if positions <= 2 * EIGHT else 4


@cache
def _kernel(shape: Shape, columns: int) -> Kernel:
    return compiled.kernel(program(shape, columns))


def program(shape: Shape, columns: int) -> Program:
    number = shape.number
    inputs = {
        "x": number,
        "weight": mx.uint32 if shape.bits else number,
        "scales": mx.uint8 if shape.mode in FLOAT_FORMS else number if shape.bits else None,
        "biases": number if shape.bits and shape.mode == "affine" else None,
        "norm": None if shape.eps is None else number,
        "factors": mx.float32 if shape.scaled else None,
        "bias": number if shape.bias else None,
        "following": mx.uint8 if shape.lines else None,
        "residual": number if shape.adds else None,
    }
    return Program(
        "few_rows_product",
        tuple(Array(name, dtype) for name, dtype in inputs.items() if dtype is not None),
        (Array("out", number),),
        source(shape, columns),
        NUMBERS[number] + HEADER,
        ("rows",),
    )


def source(shape: Shape, columns: int) -> str:
    """The kernel's body."""
    form, normed = shape.form, shape.eps is not None
    words: dict[str, object] = {
        "warps": form.warps,
        "tiles": 2 if shape.gated else 1,
        "cols": columns,
        "step": form.step,
        "ahead": form.ahead[columns],
        "chunk": form.ahead[1],
        "W": shape.width,
        "N": shape.outputs,
        "out": shape.outputs // 2 if shape.gated else shape.outputs,
        "group": shape.group_size,
        "eps": f"{shape.eps!r}f",
        "scaled": FACTOR if shape.scaled else "",
        "bias": BIAS if shape.bias else "",
        "gate": GATE if shape.gated else "",
        "residual": RESIDUAL if shape.adds else "",
        "lines": shape.lines,
        "times": "times_1_and" if shape.is_centred else "times",
        "order": form.order,
    }
    words["fetch_ahead"] = FETCH_AHEAD % words if shape.lines else ""
    words |= {name: text % words if normed else "" for name, text in NORM.items()}
    words |= {name: text % words for name, text in form.texts().items()}
    for name in ("load", "take", "multiply"):
        words[name] = form.way[name] % words
    return BODY % words
