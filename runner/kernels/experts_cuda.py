"""A mixture of experts for a few positions as two CUDA kernels: gate and up of the chosen experts, and down.

Why: on a fast GPU a step of few positions waits for the dispatch of its operations, of which MLX needs some twenty
here. `experts_source.py` has the sources and says how they go.

Shapes: see `experts.py`.

Knows nothing about layers, models or requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import mlx.core as mx

from runner.kernels import compiled
from runner.kernels.compiled import Kernel
from runner.kernels.experts import Bank, Mix, Mixing
from runner.kernels.experts_source import CHOICE, DIRECT, DOWN, GATE_UP, GROUPED, POSITION
from runner.kernels.product import Matrix
from runner.kernels.product_cuda import FETCHED, LINE, LONG_GROUP, ROWS, has_form
from runner.kernels.product_forms import FORMS, LONG, Form
from runner.kernels.product_header import HEADER
from runner.kernels.product_numbers import NUMBERS
from runner.kernels.product_source import FETCH_AHEAD
from runner.kernels.program import Array, Program

NUMBER = mx.bfloat16  # that is computed in
MOST_EXPERTS = 1024  # a warp keeps all logits of a token
MOST_ACTIVE = 32  # each of them costs a block some time before it knows its expert
MOST_STAGED = 20_000  # inputs of a block, which has 48 kB for them
NORMS = (mx.bfloat16, mx.float32)  # of which weights of norms may be
# Warps of a block, and by bits the steps whose weights a thread asks for at once: a GPU of 132 processors has the
# registers for all blocks of one token, with 8 experts of 768 by 2048.
GATE_UP_WARPS, DOWN_WARPS = 4, 16
GATE_UP_AHEAD = {0: 4, 4: 2, 8: 2}
DOWN_AHEAD = {0: 4, 4: 3, 8: 3}


class Rows(NamedTuple):
    """What a kernel multiplies with: of each expert so many rows of so many inputs."""

    outputs: int
    width: int
    bits: int
    group_size: int

    @classmethod
    def of(cls, matrix: Matrix) -> Rows:
        return cls(matrix.weight.shape[-2], matrix.width, matrix.bits, matrix.group_size)

    @property
    def form(self) -> Form:
        is_long = self.bits in LONG and self.group_size >= LONG_GROUP
        return LONG[self.bits] if is_long else FORMS[self.bits]

    @property
    def words(self) -> dict[str, object]:
        return {"W": self.width, "out": self.outputs, "group": self.group_size, "step": self.form.step}

    @property
    def blocks(self) -> int:
        """For one position."""
        return self.outputs // ROWS


class GateUp(NamedTuple):
    """What that kernel is compiled for."""

    rows: Rows
    experts: int  # N
    active: int  # A
    has_shared: bool
    normalized: bool
    eps: float
    norm: mx.Dtype
    down_bytes: int  # of one expert, some of which are fetched ahead


class Down(NamedTuple):
    rows: Rows
    experts: int
    active: int
    has_shared: bool
    lines: int  # that are fetched ahead


def fits(bank: Bank) -> bool:
    """Whether the kernels are written for such experts. A shared one has to be as the others are."""
    if bank.experts > MOST_EXPERTS or bank.active > min(bank.experts, MOST_ACTIVE):
        return False
    if bank.norm.weight.dtype not in NORMS:
        return False
    if max(bank.gate.width, bank.used * bank.down.width) > MOST_STAGED:
        return False
    matrices = [bank.gate, bank.up, bank.down, *(bank.shared or ())]
    if not all(multiplies(matrix) and matrix.bias is None for matrix in matrices):
        return False
    up, down = Rows.of(bank.gate), Rows.of(bank.down)
    if bank.shared is None:
        return Rows.of(bank.up) == up
    gate_up, its = Rows.of(bank.shared.gate_up), Rows.of(bank.shared.down)
    return Rows.of(bank.up) == up and gate_up == up._replace(outputs=2 * up.outputs) and its == down


def multiplies(matrix: Matrix) -> bool:
    """Whether experts may have such a matrix."""
    is_known = matrix.mode == "affine" and matrix.bits in GATE_UP_AHEAD and matrix.dtype == NUMBER
    return is_known and has_form(matrix)


def cuda(bank: Bank) -> Mix:
    up, down = Rows.of(bank.gate), Rows.of(bank.down)
    common = bank.experts, bank.active, bank.shared is not None
    down_bytes = bank.down.weight.nbytes // bank.experts
    lines = 0 if bank.following is None else min(bank.following.nbytes, FETCHED) // LINE
    norm = bank.norm.eps, bank.norm.weight.dtype
    gate_up = _kernel(gate_up_program(GateUp(up, *common, bank.normalized, *norm, down_bytes)))
    add_up = _kernel(down_program(Down(down, *common, lines)))
    its_up, its_down = map(_parts, bank.shared) if bank.shared is not None else ([], [])
    fetched = [bank.following] if bank.following is not None and lines else []
    before = [*_parts(bank.gate), *_parts(bank.up), *its_up, bank.norm.weight, bank.down.weight]
    after = [*_parts(bank.down), *its_down, *fetched]

    def mix(x: mx.array, logits: mx.array) -> mx.array:
        tokens = x.size // x.shape[-1]
        pairs = tokens * bank.used
        shapes: list[tuple[int, ...]] = [(pairs, up.outputs), (pairs,)]
        grid, block = _launch(GATE_UP_WARPS, up.blocks * pairs)
        gated, experts = gate_up([x, logits, *before], grid, block, shapes, (tokens,))
        grid, block = _launch(DOWN_WARPS, down.blocks * tokens)
        return add_up([gated, experts, *after, x], grid, block, [x.shape], (tokens,))[0]

    return mix


CUDA = Mixing(fits, cuda)


def _launch(warps: int, blocks: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    return (32 * warps * blocks, 1, 1), (32 * warps, 1, 1)


def _parts(matrix: Matrix) -> list[mx.array]:
    return [part for part in (matrix.weight, matrix.scales, matrix.biases) if part is not None]


@cache
def _kernel(program: Program) -> Kernel:
    return compiled.kernel(program)


def gate_up_program(shape: GateUp) -> Program:
    bits = shape.rows.bits
    words: dict[str, object] = {
        **shape.rows.words,
        "warps": GATE_UP_WARPS,
        "ahead": GATE_UP_AHEAD[bits],
        "tiles": 2,
        "active": shape.active,
        "experts": shape.experts,
        "shared": int(shape.has_shared),
        "normalized": str(shape.normalized).lower(),
        "eps": f"{shape.eps!r}f",
        "down_bytes": shape.down_bytes,
        "fetched": FETCHED,
        "pick": _pick(bits, "r ? up_{0} : gate_{0}", "r", has_shared=shape.has_shared),
    }
    number = mx.bfloat16
    inputs = [
        *(Array("inputs", number), Array("logits", number)),
        *(*_arrays("gate", bits), *_arrays("up", bits)),
        *(_arrays("shared", bits) if shape.has_shared else []),
        *(Array("norm", shape.norm), Array("down_weight", mx.uint8)),
    ]
    outputs = Array("gated", number), Array("experts", mx.int32)
    body, header = GATE_UP % (words | _multiplying(shape.rows.form, words)), NUMBERS[NUMBER] + HEADER + CHOICE
    return Program("experts_gate_up", tuple(inputs), outputs, body, header, ("tokens",))


def down_program(shape: Down) -> Program:
    bits = shape.rows.bits
    words: dict[str, object] = {
        **shape.rows.words,
        "warps": DOWN_WARPS,
        "ahead": DOWN_AHEAD[bits],
        "tiles": 1,
        "active": shape.active,
        "experts": shape.experts,
        "shared": int(shape.has_shared),
        "lines": shape.lines,
        "pick": _pick(bits, "down_{0}", "0", has_shared=shape.has_shared),
    }
    words["fetch_ahead"] = FETCH_AHEAD % words if shape.lines else ""
    inputs = [
        *(Array("gated", mx.bfloat16), Array("experts", mx.int32)),
        *_arrays("down", bits),
        *(_arrays("shared", bits) if shape.has_shared else []),
        *([Array("following", mx.uint8)] if shape.lines else []),
        Array("residual", mx.bfloat16),
    ]
    outputs = (Array("out", mx.bfloat16),)
    return Program(
        "experts_down",
        tuple(inputs),
        outputs,
        DOWN % (words | _multiplying(shape.rows.form, words)),
        NUMBERS[NUMBER] + HEADER,
        ("tokens",),
    )


def _multiplying(form: Form, words: Mapping[str, object]) -> dict[str, object]:
    """How weights of a form are read and multiplied."""
    parts = {name: text % words for name, text in form.texts().items()}
    parts["position"] = POSITION % {"order": form.order}
    return {**parts, "multiply": (GROUPED if form.codes else DIRECT) % parts}


def _arrays(matrix: str, bits: int) -> list[Array]:
    """Those of a matrix."""
    number = mx.bfloat16
    kinds = {"weight": mx.uint32 if bits else number} | ({"scales": number, "biases": number} if bits else {})
    return [Array(f"{matrix}_{part}", kind) for part, kind in kinds.items()]


def _pick(bits: int, array: str, slab: str, *, has_shared: bool) -> str:
    """C++ names: `weight`, `scales` and `biases` for arrays called like `array`, or for the shared expert's, and
    `slab` for the number of the expert's rows there. slab: that of the shared one.
    """
    lines = [f"const int slab = expert == EXPERTS ? {slab} : expert;"]
    for part in ("weight", "scales", "biases") if bits else ("weight",):
        its = f"expert == EXPERTS ? shared_{part} : " if has_shared else ""
        lines.append(f"const auto* {part} = {its}{array.format(part)};")
    return "\n      ".join(lines)
