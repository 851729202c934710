"""Attention of rows that decode together as one CUDA kernel.

Why: with a loop over rows each pays 9 us of dispatch in each layer; with a mask over a pool of rows MLX leaves its
fast attention, and all rows cost what the longest one costs. Turning heads and writing what is new to its place are
in the kernel, since each would be an operation, or several, that a step waits for.

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

from runner.kernels.rotation import Turning, speeds
from runner.kernels.rows_attention import LANE, AtOnce, Joint, Lanes, Own, Query, RowsAttention
from runner.kernels.rows_attention_source import (
    ATTEND,
    HEAD_NORM,
    HEADER,
    JOINT_NEW,
    JOINT_QUERY,
    NEW,
    QUERY,
    SINK,
    TURN,
    UNLESS_NEW,
    WRITE,
)

HEADS = 8  # query heads that a block serves at most
WIDEST = 1024  # numbers of those heads, with which a block of 256 threads has shared memory left
LONGEST_SHARE = 1024  # positions of a block at most, while there are blocks to be had
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
    sinks: bool = False
    form: str = "new"  # new: one position comes with the queries; look: none does; joint: all come joined
    dims: int = 0  # of a head that are turned
    eps: float | None = None  # of the heads' norms

    @property
    def served(self) -> int:
        """Query heads of a block: all that share a key/value head, or a divisor of them."""
        shared = self.heads // self.kv_heads
        return max(count for count in range(1, HEADS + 1) if shared % count == 0)

    @property
    def threads(self) -> int:
        """Of a block: a single row has few blocks, which should be large."""
        return 256 if self.most == 1 and self.served * self.width <= WIDEST else 128

    @property
    def share(self) -> int:
        """Positions of a block at least."""
        return 128 if self.most == 1 else 256


def fits(row: Own) -> bool:
    """Whether the kernel is written for such keys and values."""
    widths = {row.keys.shape[-1], row.values.shape[-1]}
    return len(widths) == 1 and widths <= WIDTHS and row.keys.dtype in C_TYPES


def turns(turning: Turning) -> bool:
    """Whether the kernel is written for such a rotation."""
    return (
        turning.magnitude == 1.0 and not turning.traditional and turning.dims > 0 and turning.dims % 16 == 0
    )


def cuda(rows: Sequence[Own], window: int | None, most: int) -> RowsAttention:
    """One kernel for all rows; one row alone has one of its own."""
    if len(rows) == 1:
        most = 1
    padded = [*rows, *[rows[0]] * (most - len(rows))]
    own = [*(row.keys for row in padded), *(row.values for row in padded)]
    table = mx.array([[row.start, row.end, row.keys.shape[2]] for row in rows], mx.int32)
    kv_heads, width = rows[0].keys.shape[1], rows[0].keys.shape[3]
    shapes: dict[
        mx.Dtype, Shape
    ] = {}  # of what comes joined; to hash one takes as long as to ask for a kernel

    def run(
        shape: Shape, first: Sequence[mx.array], lanes: Lanes, places: mx.array, longest: int, out: list[int]
    ) -> mx.array:
        batch = out[0]
        seen = longest if window is None else min(longest, window)
        splits = _splits(seen, batch * shape.heads // shape.served, shape.share)
        shares = [[batch, shape.heads, splits, width], [batch, shape.heads, splits, 2]]
        found = _kernel(shape)(
            inputs=[*first, *own, table, *lanes, places],
            grid=(shape.threads * splits, shape.heads // shape.served, batch),
            threadgroup=(shape.threads, 1, 1),
            output_shapes=[out, *(shares if splits > 1 else ([1], [1]))],
            output_dtypes=[shape.dtype, mx.float32, mx.float32],
        )
        return found[0]

    def attend(query: Query, lanes: Lanes) -> mx.array:
        batch, heads, _, _ = query.queries.shape
        dtype, sinks = query.queries.dtype, () if query.sinks is None else (query.sinks,)
        form = "look" if query.new is None else "new"
        shape = Shape(heads, kv_heads, width, dtype, most, window, query.scale, bool(sinks), form)
        first = [query.queries, *(query.new or ()), *sinks]
        return run(shape, first, lanes, query.places, query.longest, [batch, heads, 1, width])

    def attend_joint(joint: Joint, lanes: Lanes) -> mx.array:
        heads, dtype = joint.heads, joint.joined.dtype
        shape = shapes.get(dtype)
        if shape is None:
            eps = None if heads.norms is None else heads.eps
            sizes = heads.heads, kv_heads, width
            shapes[dtype] = shape = Shape(
                *sizes, dtype, most, window, joint.scale, False, "joint", heads.turning.dims, eps
            )
        first = [joint.joined, _speeds(heads.turning), *(heads.norms or ())]
        out = [joint.joined.shape[0], 1, heads.heads * width]
        return run(shape, first, lanes, joint.places, joint.longest, out)

    return RowsAttention(attend, attend_joint)


CUDA = AtOnce(fits, cuda)


@cache
def _speeds(turning: Turning) -> mx.array:
    """[dims/2] float32: radians a position."""
    found = speeds(turning) * turning.scale
    mx.eval(found)  # or only the thread that asks first could use it
    return found


def _splits(longest: int, blocks: int, share: int) -> int:
    """Over how many blocks the positions of a row are split; `blocks` there are without."""
    for_speed = min(math.ceil(BLOCKS / blocks), longest // share)
    return max(1, min(MOST_SPLITS, max(for_speed, math.ceil(longest / LONGEST_SHARE))))


@cache
def _kernel(shape: Shape) -> Callable[..., list[mx.array]]:
    numbers = range(shape.most)
    own = [*(f"k{row}" for row in numbers), *(f"v{row}" for row in numbers)]
    first = {
        "new": ["queries", "new_keys", "new_values"],
        "look": ["queries"],
        "joint": ["joined", "speeds"],
    }[shape.form]
    extra = ["sinks"] if shape.sinks else [] if shape.eps is None else ["query_norm", "key_norm"]
    return mx.fast.cuda_kernel(  # type: ignore[return-value]  # the stub says object
        name=_name(shape),
        input_names=[*first, *extra, *own, "table", "lane_keys", "lane_values", "waiting", "places"],
        output_names=["out", "share_found", "share_sums"],
        source=source(shape),
        header=HEADER % _words(shape),
    )


def source(shape: Shape) -> str:
    """The kernel's body."""
    words, is_joint = _words(shape), shape.form == "joint"
    normed = shape.eps is not None
    words |= (
        {"query_norm": "query_norm", "key_norm": "key_norm"}
        if normed
        else {
            "query_norm": "nullptr",
            "key_norm": "nullptr",
        }
    )
    words["head_norm"] = HEAD_NORM % words if normed else ""
    words["made"] = (JOINT_NEW if is_joint else NEW) % words
    is_new = shape.form != "look"
    return ATTEND % (
        words
        | {
            "turn": TURN % words if is_joint else "",
            "query": (JOINT_QUERY if is_joint else QUERY) % words,
            "new": WRITE % words if is_new else "",
            "unless_new": UNLESS_NEW if is_new else "",
            "sink": SINK if shape.sinks else "",
        }
    )


def _words(shape: Shape) -> dict[str, Any]:
    """What the sources' placeholders become."""
    log2_e = math.log2(math.e)
    numbers = range(1, shape.most)
    return {
        "D": shape.width,
        "H": shape.heads,
        "K": shape.kv_heads,
        "G": shape.served,
        "shared": shape.heads // shape.kv_heads,
        "window": shape.window or 0,
        "lane": LANE,
        "share": shape.share,
        "threads": shape.threads,
        "dims": shape.dims,
        "eps": f"{shape.eps!r}f",
        "kind": _kind(shape.dtype),
        "type": C_TYPES[shape.dtype],
        "scale": f"{shape.scale * log2_e!r}f",
        "cases": " ".join(f"case {row}: own_keys = k{row}; own_values = v{row}; break;" for row in numbers),
    }


def _kind(dtype: mx.Dtype) -> str:
    return str(dtype).rsplit(".", 1)[-1]


def _name(shape: Shape) -> str:
    """MLX keeps compiled kernels by name, so everything that the source depends on is in it."""
    numbers = (*shape[:3], _kind(shape.dtype), shape.most, shape.window or 0, int(shape.sinks), shape.dims)
    exact = (value.hex().translate(str.maketrans(".-+", "_mp")) for value in (shape.scale, shape.eps or 0.0))
    return "_".join(["rows_attend", shape.form, *map(str, numbers), *exact])
