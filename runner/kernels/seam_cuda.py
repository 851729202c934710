"""The products between two attentions as one CUDA kernel. `seam_source.py` has the source and says how it goes.

Why: between two kernels a GPU's memory is idle for some microseconds, and a layer whose weights are read in thirty
has four such gaps; and MLX's host needs as long for each operation.

Shapes: see `seam.py`.

Knows nothing about layers, models or requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, cast

import mlx.core as mx

from runner.kernels import compiled
from runner.kernels.compiled import Kernel
from runner.kernels.product import Matrix, Norm
from runner.kernels.program import C_TYPES, Array, Program
from runner.kernels.seam import Parts, Seam
from runner.kernels.seam_forms import FORMS, WORDS
from runner.kernels.seam_source import BODY, HEADER, LAST
from runner.machine.cuda import Processors, processors

WARPS = 8
DEPTH = 4  # items of a warp that are under way at once
INPUTS = {0: 64, 4: 256, 8: 128}  # of 128 bytes of a row, by bits
GROUPS = (64, 128)  # inputs
FEWEST_BYTES = 4  # that can be copied at once
TILE = 16  # outputs
NORMS = {mx.bfloat16, mx.float32}
EIGHT = 8  # positions that a warp multiplies at once
COLUMNS = (1, 2, 4)  # times eight: for how many positions there are kernels
# MLX keeps arrays of 8 bytes and less in the host's memory, where counting by 132 blocks takes a millisecond.
GATE = 64  # numbers, of which the first two are used


class Form(NamedTuple):
    """What a kernel is compiled for, but the number of positions."""

    processors: Processors
    found: int  # A
    hidden: int  # E
    width: int  # F
    joined: int  # J; 0 for none
    bits: int
    group_size: int
    biases: tuple[bool, bool, bool, bool]  # what out, gate-up, down and following add
    eps: tuple[float, ...]
    norm: mx.Dtype  # of its weights

    @property
    def scales(self) -> int:
        """Of a row in an item."""
        return INPUTS[self.bits] // self.group_size if self.bits else 0

    @property
    def slot(self) -> int:
        """Bytes of an item."""
        return TILE * (128 + 4 * self.scales)

    def shared(self, columns: int) -> int:
        """Bytes of shared memory that a block needs."""
        sums = WARPS * 2 * TILE * (columns * EIGHT + 1)
        return WARPS * DEPTH * self.slot + 4 * (2 * sums + columns * EIGHT)

    def tiles(self, outputs: int) -> int:
        """How many times 16 outputs a block makes at once: two read the inputs once, and may leave blocks idle."""
        blocks = self.processors.number
        return 2 if 2 * -(-outputs // (2 * TILE * blocks)) <= -(-outputs // (TILE * blocks)) else 1


def cuda(parts: Parts) -> Seam | None:
    """None where the kernel is not written for these, or does not fit into the GPU."""
    form = _form(parts)
    if form is None or form.shared(COLUMNS[-1]) > form.processors.shared:
        return None
    kernels = {columns: _kernel(form, columns) for columns in COLUMNS}
    fixed = _fixed(parts)
    gate = mx.zeros(GATE, mx.int32)
    mx.eval(gate)
    grid, block = (form.processors.number * WARPS * 32, 1, 1), (WARPS * 32, 1, 1)
    scratch, lines = 3 * form.hidden + form.width, 2 * (form.hidden // TILE)

    def seam(x: mx.array, found: mx.array) -> tuple[mx.array, mx.array]:
        rows = x.shape[0]
        columns = 1 if rows <= EIGHT else 2 if rows <= 2 * EIGHT else 4
        shapes: list[Sequence[int]] = [x.shape, (rows * scratch,), (rows * lines,)]
        if form.joined:
            shapes.append((rows, 1, form.joined))
        made = kernels[columns]([x, found, gate, *fixed], grid, block, shapes, (rows,), form.shared(columns))
        return made[0], made[3] if form.joined else made[0]

    return seam


def _form(parts: Parts) -> Form | None:
    first = parts.out
    hidden, width = first.weight.shape[0], parts.down.width
    if any((one.bits, one.group_size) != (first.bits, first.group_size) for one in parts.matrices):
        return None
    norms = [one for one in (parts.norm, parts.next_norm) if one is not None]
    if not all(_fits(one) for one in parts.matrices) or not _agree(norms):
        return None
    following = parts.following
    all_four = parts.out, parts.gate_up, parts.down, following
    biases = tuple(one is not None and one.bias is not None for one in all_four)
    return Form(
        processors(),
        first.width,
        hidden,
        width,
        0 if following is None else following.weight.shape[0],
        first.bits,
        first.group_size,
        cast(tuple[bool, bool, bool, bool], biases),
        tuple(norm.eps for norm in norms),
        norms[0].weight.dtype,
    )


def _agree(norms: list[Norm]) -> bool:
    dtypes = {norm.weight.dtype for norm in norms}
    return len(dtypes) == 1 and dtypes <= NORMS


def _fits(matrix: Matrix) -> bool:
    numbers = matrix.weight if matrix.scales is None else matrix.scales
    if numbers.dtype != mx.bfloat16 or matrix.weight.ndim != 2 or matrix.bits not in INPUTS:
        return False
    inputs = INPUTS[matrix.bits]
    if matrix.width % inputs or matrix.weight.shape[0] % (2 * TILE):  # a gated one is halved
        return False
    if matrix.scales is None:
        return True
    grouped = matrix.group_size in GROUPS and 2 * inputs // matrix.group_size >= FEWEST_BYTES
    return grouped and matrix.biases is not None


def _fixed(parts: Parts) -> list[mx.array]:
    """As `_inputs` names them."""
    norms = [parts.norm.weight, *([] if parts.next_norm is None else [parts.next_norm.weight])]
    held = [
        array
        for one in parts.matrices
        for array in (one.weight, one.scales, one.biases, one.bias)
        if array is not None
    ]
    return [*norms, *held]


def _inputs(form: Form) -> list[Array]:
    number = mx.bfloat16
    names = NAMES if form.joined else NAMES[:-1]
    inputs = [Array("x", number), Array("found", number), Array("gate", mx.int32), Array("norm", form.norm)]
    if form.joined:
        inputs.append(Array("next_norm", form.norm))
    for name, biased in zip(names, form.biases, strict=False):
        inputs.append(Array(f"{name}_weight", mx.uint32 if form.bits else number))
        if form.bits:
            inputs += [Array(f"{name}_scales", number), Array(f"{name}_biases", number)]
        if biased:
            inputs.append(Array(f"{name}_bias", number))
    return inputs


NAMES = ("of_out", "of_gate_up", "of_down", "of_following")


@cache
def _kernel(form: Form, columns: int) -> Kernel:
    return compiled.kernel(program(form, columns))


def program(form: Form, columns: int) -> Program:
    number = mx.bfloat16
    outputs = [Array("out", number), Array("scratch", number), Array("squares", mx.float32)]
    if form.joined:
        outputs.append(Array("joined", number))
    words = _words(form, columns)
    words |= {"forms": FORMS[form.bits] % (words | WORDS[form.bits])}
    words |= {"last": LAST % words if form.joined else ""}
    inputs = tuple(_inputs(form))
    return Program("seam", inputs, tuple(outputs), BODY % words, HEADER % words, ("rows",), WARPS * 32)


def _words(form: Form, columns: int) -> dict[str, object]:
    weights = {
        name: _weights(form, f"of_{name}", biased)
        for name, biased in zip(("out", "gate_up", "down", "following"), form.biases, strict=True)
    }
    if not form.joined:
        weights["following"] = "nullptr, nullptr, nullptr, nullptr"
    return {
        "warps": WARPS,
        "depth": DEPTH,
        "cols": columns,
        "inputs": INPUTS[form.bits],
        "group": form.group_size or 1,
        "groups": form.scales,
        "tiles": 2,
        "A": form.found,
        "E": form.hidden,
        "F": form.width,
        "J": form.joined or TILE,
        "lines": form.hidden // TILE,
        "out_tiles": form.tiles(form.hidden),
        "down_tiles": form.tiles(form.hidden),
        "following_tiles": form.tiles(form.joined),
        "products": 4 if form.joined else 3,
        "norm_type": C_TYPES[form.norm],
        "eps": f"{form.eps[0]!r}f",
        "next_eps": f"{form.eps[-1]!r}f",
        "last_norm": "next_norm, normed_again, squares + lines"
        if form.joined
        else "nullptr, nullptr, nullptr",
        **weights,
    }


def _weights(form: Form, name: str, biased: bool) -> str:
    scales = f"{name}_scales, {name}_biases" if form.bits else "nullptr, nullptr"
    return f"{name}_weight, {scales}, {f'{name}_bias' if biased else 'nullptr'}"
