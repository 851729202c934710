"""Chunks of linear attention as two CUDA kernels: one prepares all, one goes from chunk to chunk.

Why: preparing takes some sixty of MLX's operations, and each chunk eight more, thirty times for a prompt of a
thousand tokens, in each layer. `delta_chunks_source.py` has the sources and says how they go.

Shapes: see `delta_chunks.py`.

Knows nothing about layers, models or requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import mlx.core as mx

from runner.kernels import compiled
from runner.kernels.compiled import Kernel
from runner.kernels.delta_chunks import CHUNK, Chunks, chunked
from runner.kernels.delta_chunks_source import HEADER, PREPARE, THROUGH
from runner.kernels.program import Array, Program

COLUMNS = 16  # of S, of a block that goes through
THREADS = 256  # of a block
WIDEST = 128  # P, for which there is shared memory


class Shape(NamedTuple):
    """What kernels are compiled for."""

    key_width: int  # P
    value_width: int  # Q

    @property
    def fits(self) -> bool:
        """Whether kernels are written for it."""
        return self.value_width % COLUMNS == 0 and self.key_width % 4 == 0 and self.key_width <= WIDEST


def cuda(
    queries: mx.array, keys: mx.array, values: mx.array, decay: mx.array, rate: mx.array, memory: mx.array
) -> tuple[mx.array, mx.array]:
    """A `Recurrence`."""
    if not Shape(*memory.shape[2:]).fits:
        return chunked(queries, keys, values, decay, rate, memory)
    answers, memory = through(prepared(queries, keys, values, decay, rate), memory)
    return answers.flatten(2, 3)[:, :, : keys.shape[2]], memory


def prepared(queries: mx.array, keys: mx.array, values: mx.array, decay: mx.array, rate: mx.array) -> Chunks:
    """See `delta_chunks.prepared`."""
    batch, heads, length, width = keys.shape
    value_width = values.shape[-1]
    count = -(-length // CHUNK)
    lead = batch, heads, count, CHUNK
    found = _prepare(Shape(width, value_width))(
        [queries, keys, values, decay, rate],
        (THREADS * count, batch * heads, 1),
        (THREADS, 1, 1),
        [*((*lead, size) for size in (value_width, width, CHUNK, width, width)), lead[:3]],
        (length,),
    )
    return Chunks(*found)


def through(chunks: Chunks, memory: mx.array) -> tuple[mx.array, mx.array]:
    """See `delta_chunks.through`."""
    batch, heads, count = chunks.kept.shape
    shape = Shape(*memory.shape[2:])
    answers, memory = _through(shape)(
        [*chunks, memory],
        (THREADS * (shape.value_width // COLUMNS), batch * heads, 1),
        (THREADS, 1, 1),
        [chunks.fresh.shape, memory.shape],
        (count,),
    )
    return answers, memory


@cache
def _prepare(shape: Shape) -> Kernel:
    return compiled.kernel(prepare_program(shape))


@cache
def _through(shape: Shape) -> Kernel:
    return compiled.kernel(through_program(shape))


def prepare_program(shape: Shape) -> Program:
    inputs = ("queries", "keys", "values", "decay", "rate")
    outputs = ("fresh", "corrected", "scores", "faded_queries", "faded_keys", "kept")
    return _program("delta_prepare", inputs, outputs, PREPARE % _words(shape), "length")


def through_program(shape: Shape) -> Program:
    inputs, outputs = (*Chunks._fields, "memory"), ("answers", "next_memory")
    return _program("delta_through", inputs, outputs, THROUGH % _words(shape), "chunks")


def _program(name: str, inputs: Sequence[str], outputs: Sequence[str], body: str, number: str) -> Program:
    given, made = (tuple(Array(array, mx.float32) for array in names) for names in (inputs, outputs))
    return Program(name, given, made, body, HEADER, (number,))


def _words(shape: Shape) -> dict[str, int]:
    return {
        "P": shape.key_width,
        "Q": shape.value_width,
        "T": CHUNK,
        "columns": COLUMNS,
        "threads": THREADS,
    }
