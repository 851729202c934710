"""Attention of rows that decode together as one CUDA kernel.

Why: with a loop over rows each pays 9 us of dispatch in each layer; with a mask over a pool of rows MLX leaves its
fast attention, and all rows cost what the longest one costs. Turning heads and writing what is new to its place are
in the kernel, since each would be an operation, or several, that a step waits for.

`rows_attention_program.py` has its text, and `rows_attention_source.py` says how it goes.

Shapes: see `rows_attention.py`.

Knows nothing about storages, spans or requests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import mlx.core as mx

from runner.kernels import compiled
from runner.kernels.compiled import Kernel
from runner.kernels.rotation import Turning, speeds
from runner.kernels.rows_attention import AtOnce, Heads, Joint, Lanes, Own, Query, RowsAttention
from runner.kernels.rows_attention_program import MOST_SPLITS, Shape, program

LONGEST_SHARE = 1024  # positions of a block of several rows at most, while there are blocks to be had
# Of the largest GPU of today, each with room for two blocks of several rows, or for one of a lone row.
PROCESSORS = 132

WIDTHS = {16, 32, 64, 128, 256}
DTYPES = {mx.bfloat16, mx.float16, mx.float32}


def fits(row: Own) -> bool:
    """Whether the kernel is written for such keys and values."""
    widths = {row.keys.shape[-1], row.values.shape[-1]}
    return len(widths) == 1 and widths <= WIDTHS and row.keys.dtype in DTYPES


def turns(turning: Turning) -> bool:
    """Whether the kernel is written for such a rotation."""
    return (
        turning.magnitude == 1.0 and not turning.traditional and turning.dims > 0 and turning.dims % 16 == 0
    )


class Launch(NamedTuple):
    """How a kernel is started: threads in all and of a block, and the shapes of what it makes."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shapes: tuple[tuple[int, ...], ...]


class Asked(NamedTuple):
    """All that the steps of a layer have in common. rest: the inputs behind the joined heads."""

    shape: Shape
    kernel: Kernel
    lanes: Lanes
    rest: list[mx.array]
    launches: dict[int, Launch]  # by the positions of the longest row, in shares


def cuda(rows: Sequence[Own], window: int | None, most: int) -> RowsAttention:
    """One kernel for all rows; one row alone has one of its own."""
    if len(rows) == 1:
        most = 1
    padded = [*rows, *[rows[0]] * (most - len(rows))]
    own = [*(row.keys for row in padded), *(row.values for row in padded)]
    start, end, room, place = _numbers(rows[0])
    if most > 1:
        own.append(_table(tuple(_numbers(row) for row in rows)))
    kv_heads, width = rows[0].keys.shape[1], rows[0].keys.shape[3]
    joints: dict[mx.Dtype, Asked] = {}  # making one takes longer than a call

    def numbers(step: int) -> tuple[int, ...]:
        return (step,) if most > 1 else (start, end, room, place + step)

    def attend(query: Query, lanes: Lanes) -> mx.array:
        batch, heads, _, _ = query.queries.shape
        dtype, sinks = query.queries.dtype, query.sinks
        given, form = None if sinks is None else sinks.dtype, "look" if query.new is None else "new"
        shape = Shape(heads, kv_heads, width, dtype, most, window, query.scale, given, form)
        first = [query.queries, *(query.new or ()), *(() if sinks is None else (sinks,))]
        launch = _launch(shape, query.longest, (batch, heads, 1, width))
        return _kernel(shape)([*first, *own, *lanes], *launch, numbers(query.step))[0]

    def asked(dtype: mx.Dtype, heads: Heads, scale: float, lanes: Lanes) -> Asked:
        norms, sizes = heads.norms or (), (heads.heads, kv_heads, width)
        given, eps = (norms[0].dtype, heads.eps) if norms else (None, None)
        dims, is_gated = heads.turning.dims, heads.is_gated
        shape = Shape(*sizes, dtype, most, window, scale, given, "joint", dims, eps, is_gated)
        return Asked(shape, _kernel(shape), lanes, [_speeds(heads.turning), *norms, *own, *lanes], {})

    def attend_joint(joint: Joint, lanes: Lanes) -> mx.array:
        joined, heads, step, scale, longest = joint
        known = joints.get(joined.dtype)
        if known is None or known.lanes is not lanes:
            joints[joined.dtype] = known = asked(joined.dtype, heads, scale, lanes)
        shape, kernel, _, rest, launches = known
        launch = launches.get(longest // shape.share)
        if launch is None:
            out = joined.shape[0], 1, heads.heads * width
            launches[longest // shape.share] = launch = _launch(shape, longest, out)
        return kernel([joined, *rest], *launch, numbers(step))[0]

    return RowsAttention(attend, attend_joint)


def _launch(shape: Shape, longest: int, out: tuple[int, ...]) -> Launch:
    """longest: positions of the longest row. out: the shape of what is found."""
    batch, blocks = out[0], shape.heads // shape.served
    seen = longest if shape.window is None else min(longest, shape.window)
    splits = _splits(seen, batch * blocks, shape)
    shares = (batch, shape.heads, splits, shape.width), (batch, shape.heads, splits, 2)
    grid, block = (shape.threads * splits, blocks, batch), (shape.threads, 1, 1)
    return Launch(grid, block, (out, *(shares if splits > 1 else ((1,), (1,)))))


CUDA = AtOnce(fits, cuda)


def _numbers(row: Own) -> tuple[int, int, int, int]:
    """What a kernel is told of a row: the positions of its buffers, their room, its first place in the lanes."""
    return row.start, row.end, row.keys.shape[2], row.place


@lru_cache(maxsize=8)
def _table(numbers: tuple[tuple[int, int, int, int], ...]) -> mx.array:
    """[B,4] int32. Layers of a kind share one: a GPU fetches it from the host when it first looks."""
    return mx.array(numbers, mx.int32)


@cache
def _speeds(turning: Turning) -> mx.array:
    """[dims/2] float32: radians a position."""
    found = speeds(turning) * turning.scale
    mx.eval(found)  # or only the thread that asks first could use it
    return found


def _splits(longest: int, blocks: int, shape: Shape) -> int:
    """Over how many blocks the positions of a row are split; `blocks` there are without."""
    if shape.most == 1:
        return max(1, min(MOST_SPLITS, PROCESSORS // blocks, longest // shape.share))
    for_speed = min(math.ceil(2 * PROCESSORS / blocks), longest // shape.share)
    return max(1, min(MOST_SPLITS, max(for_speed, math.ceil(longest / LONGEST_SHARE))))


@cache
def _kernel(shape: Shape) -> Kernel:
    return compiled.kernel(program(shape))
