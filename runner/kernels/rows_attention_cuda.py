"""Attention of rows that decode together as one CUDA kernel, and a second one where a row is long.

Why: with a loop over rows each pays 9 us of dispatch in each layer; with a mask over a pool of rows MLX leaves its
fast attention, and all rows cost what the longest one costs.

`rows_attention_source.py` has the sources and says how they go.

Shapes: see `rows_attention.py`.

Knows nothing about storages, spans or requests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import mlx.core as mx

from runner.kernels.rows_attention import LANE, AtOnce, Lanes, Own, Query, RowsAttention
from runner.kernels.rows_attention_source import ATTEND, HEADER, JOIN, SINK

THREADS = 128
HEADS = 8  # query heads that a block serves at most
SHARE = 256  # positions of a block, at least
LONGEST_SHARE = 1024  # and at most, while there are blocks to be had
BLOCKS = 264  # that keep the largest GPU of today busy: two for each of its processors
MOST_SPLITS = 64

WIDTHS = {16, 32, 64, 128, 256}
C_TYPES = {mx.bfloat16: "__nv_bfloat16", mx.float16: "__half", mx.float32: "float"}


class Shape(NamedTuple):
    """What a kernel is compiled for."""

    heads: int  # H
    kv_heads: int  # K
    width: int  # D
    dtype: mx.Dtype
    most: int  # rows
    window: int | None
    scale: float
    sinks: bool


def fits(row: Own) -> bool:
    """Whether the kernel is written for such keys and values."""
    widths = {row.keys.shape[-1], row.values.shape[-1]}
    return len(widths) == 1 and widths <= WIDTHS and row.keys.dtype in C_TYPES


def cuda(rows: Sequence[Own], window: int | None, most: int) -> RowsAttention:
    """One kernel for all rows."""
    padded = [*rows, *[rows[0]] * (most - len(rows))]
    own = [*(row.keys for row in padded), *(row.values for row in padded)]
    table = mx.array([[row.start, row.end, row.keys.shape[2]] for row in rows], mx.int32)
    kv_heads = rows[0].keys.shape[1]

    def attend(query: Query, lanes: Lanes) -> mx.array:
        batch, heads, _, width = query.queries.shape
        dtype, sinks = query.queries.dtype, [] if query.sinks is None else [query.sinks]
        shape = Shape(heads, kv_heads, width, dtype, most, window, query.scale, bool(sinks))
        splits = _splits(query.longest if window is None else min(query.longest, window), batch * kv_heads)
        found, unused = [batch, heads, 1, width], [1]
        shares = [[batch, heads, splits, width], [batch, heads, splits, 2]]
        outputs = _attend_kernel(shape)(
            inputs=[query.queries, *own, table, *lanes, query.places, *sinks],
            grid=(THREADS * splits, heads // _served(shape), batch),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[found, unused, unused] if splits == 1 else [unused, *shares],
            output_dtypes=[dtype, mx.float32, mx.float32],
        )
        if splits == 1:
            return outputs[0]
        joined = _join_kernel(shape)(
            inputs=[*outputs[1:], *sinks],
            grid=(width, heads, batch),
            threadgroup=(width, 1, 1),
            output_shapes=[found],
            output_dtypes=[dtype],
        )
        return joined[0]

    return attend


CUDA = AtOnce(fits, cuda)


def _splits(longest: int, blocks: int) -> int:
    """Over how many blocks the positions of a row are split; `blocks` there are without."""
    for_speed = min(math.ceil(BLOCKS / blocks), longest // SHARE)
    return max(1, min(MOST_SPLITS, max(for_speed, math.ceil(longest / LONGEST_SHARE))))


def _served(shape: Shape) -> int:
    """Query heads of a block: all that share a key/value head, or a divisor of them."""
    shared = shape.heads // shape.kv_heads
    return max(count for count in range(1, HEADS + 1) if shared % count == 0)


@cache
def _attend_kernel(shape: Shape) -> Callable[..., list[mx.array]]:
    numbers = range(shape.most)
    cases = " ".join(f"case {row}: own_keys = k{row}; own_values = v{row}; break;" for row in numbers if row)
    words = _words(shape) | {
        "G": _served(shape),
        "SHARED": shape.heads // shape.kv_heads,
        "cases": cases,
        "sink": SINK if shape.sinks else "",
    }
    own = [*(f"k{row}" for row in numbers), *(f"v{row}" for row in numbers)]
    sinks = ["sinks"] if shape.sinks else []
    return mx.fast.cuda_kernel(  # type: ignore[return-value]  # the stub says object
        name=_name("rows_attend", shape),
        input_names=["queries", *own, "table", "lane_keys", "lane_values", "places", *sinks],
        output_names=["out", "share_found", "share_sums"],
        source=ATTEND % words,
        header=HEADER % words,
    )


@cache
def _join_kernel(shape: Shape) -> Callable[..., list[mx.array]]:
    words = _words(shape) | {"sink": SINK if shape.sinks else ""}
    return mx.fast.cuda_kernel(  # type: ignore[return-value]  # the stub says object
        name=_name("rows_join", shape),
        input_names=["share_found", "share_sums", *(["sinks"] if shape.sinks else [])],
        output_names=["out"],
        source=JOIN % words,
    )


def _words(shape: Shape) -> dict[str, Any]:
    """What the sources' placeholders become."""
    log2_e = math.log2(math.e)
    return {
        "D": shape.width,
        "H": shape.heads,
        "K": shape.kv_heads,
        "WINDOW": shape.window or 0,
        "LANE": LANE,
        "SHARE": SHARE,
        "THREADS": THREADS,
        "kind": _kind(shape.dtype),
        "type": C_TYPES[shape.dtype],
        "scale": f"{shape.scale * log2_e!r}f",
    }


def _kind(dtype: mx.Dtype) -> str:
    return str(dtype).rsplit(".", 1)[-1]


def _name(operation: str, shape: Shape) -> str:
    """MLX keeps compiled kernels by name, so everything that the source depends on is in it."""
    scale = shape.scale.hex().translate(str.maketrans(".-+", "_mp"))
    parts = (*shape[:3], _kind(shape.dtype), shape.most, shape.window or 0, scale, int(shape.sinks))
    return "_".join([operation, *map(str, parts)])
