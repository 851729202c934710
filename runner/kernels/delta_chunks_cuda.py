"""The way from chunk to chunk of linear attention as one CUDA kernel.

Why: a chunk takes eight of MLX's operations, and a prompt of a thousand tokens has thirty chunks a layer.
`delta_chunks_source.py` has the source and says how it goes.

Shapes: see `delta_chunks.py`.

Knows nothing about layers, models or requests.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import mlx.core as mx

from runner.kernels import compiled
from runner.kernels.compiled import Kernel
from runner.kernels.delta_chunks import Chunks, plain
from runner.kernels.delta_chunks_source import BODY, HEADER
from runner.kernels.program import Array, Program

COLUMNS = 16  # of S, of a block
THREADS = 256  # of a block
POSITIONS = 32  # T
WIDEST = 128  # P, for which there is shared memory


class Shape(NamedTuple):
    """What a kernel is compiled for."""

    key_width: int  # P
    value_width: int  # Q


def fits(positions: int, shape: Shape) -> bool:
    """Whether the kernel is written for such chunks."""
    if positions != POSITIONS or shape.value_width % COLUMNS:
        return False
    return shape.key_width % 4 == 0 and shape.key_width <= WIDEST


def cuda(chunks: Chunks, memory: mx.array) -> tuple[mx.array, mx.array]:
    """`plain`'s arguments and results."""
    batch, heads, count, positions, _ = chunks.fresh.shape
    shape = Shape(*memory.shape[2:])
    if not fits(positions, shape):
        return plain(chunks, memory)
    blocks = shape.value_width // COLUMNS
    answers, memory = _kernel(shape)(
        [*chunks, memory],
        (THREADS * blocks, batch * heads, 1),
        (THREADS, 1, 1),
        [chunks.fresh.shape, memory.shape],
        (count,),
    )
    return answers, memory


@cache
def _kernel(shape: Shape) -> Kernel:
    return compiled.kernel(program(shape))


def program(shape: Shape) -> Program:
    inputs = (*Chunks._fields, "memory")
    words = {
        "P": shape.key_width,
        "Q": shape.value_width,
        "T": POSITIONS,
        "columns": COLUMNS,
        "threads": THREADS,
    }
    return Program(
        "delta_chunks",
        tuple(Array(name, mx.float32) for name in inputs),
        tuple(Array(name, mx.float32) for name in ("answers", "next_memory")),
        BODY % words,
        HEADER,
        ("chunks",),
    )
