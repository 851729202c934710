"""The CUDA kernel that `rows_attention_cuda.py` starts, as text for each shape.

Shapes: see `rows_attention.py`.

Knows nothing about storages, spans or requests.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import mlx.core as mx

from runner.kernels import rows_attention_heads_source as heads
from runner.kernels import rows_attention_mma_source as mma
from runner.kernels import rows_attention_source as common
from runner.kernels import rows_attention_threads_source as threads
from runner.kernels.program import C_TYPES, Array, Program
from runner.kernels.rows_attention import LANE
from runner.kernels.tensor_cores import TENSOR_CORES

HEADS, MOST_HEADS = 4, 8  # query heads that a block serves at most, and where it would be one alone
WIDEST = 1024  # numbers of those heads, with which a block of 256 threads has shared memory left
AT_ONCE = 4  # positions of a group of threads under way
LONE_SHARE = 256 * 8 * AT_ONCE  # numbers of keys that a block of a lone row has at least
MOST_SPLITS = 64  # a multiple of a warp's threads
MMA_WIDTHS = {64, 128, 256}


class Shape(NamedTuple):
    """What a kernel is compiled for."""

    heads: int  # H
    kv_heads: int  # K
    width: int  # D
    dtype: mx.Dtype
    most: int  # rows
    window: int | None
    scale: float
    given: mx.Dtype | None = None  # of the sinks, or of the heads' norms, where there are any
    form: str = "new"  # new: one position comes with the queries; look: none does; joint: all come joined
    dims: int = 0  # of a head that are turned
    eps: float | None = None  # of the heads' norms
    is_gated: bool = False  # joint: a gate stands behind each query

    @property
    def has_sinks(self) -> bool:
        return self.given is not None and self.eps is None

    @property
    def is_for_tensor_cores(self) -> bool:
        return self.dtype in TENSOR_CORES and self.width in MMA_WIDTHS

    @property
    def served(self) -> int:
        """Query heads of a block: all that share a key/value head, or a divisor of them."""
        shared = self.heads // self.kv_heads
        divisors = [count for count in range(1, MOST_HEADS + 1) if shared % count == 0]
        if self.is_for_tensor_cores:
            return max(divisors)
        few = [count for count in divisors if count <= HEADS]
        return max(few) if max(few) > 1 else max(divisors)

    @property
    def threads(self) -> int:
        """Of a block: a single row has few blocks, which should be large."""
        return 256 if self.most == 1 and self.served * self.width <= WIDEST else 128

    @property
    def share(self) -> int:
        """Positions of a block at least."""
        return LONE_SHARE // self.width if self.most == 1 else 256


def program(shape: Shape) -> Program:
    dtype, rows = shape.dtype, range(shape.most)
    first = {
        "new": ["queries", "new_keys", "new_values"],
        "look": ["queries"],
        "joint": ["joined"],
    }[shape.form]
    inputs = [Array(name, dtype) for name in first]
    if shape.form == "joint":
        inputs.append(Array("speeds", mx.float32))
    if shape.given is not None:
        names = ("sinks",) if shape.eps is None else ("query_norm", "key_norm")
        inputs += [Array(name, shape.given) for name in names]
    inputs += [Array(f"{letter}{row}", dtype) for letter in "kv" for row in rows]
    if shape.most > 1:
        inputs.append(Array("table", mx.int32))
    inputs += [Array("lane_keys", dtype), Array("lane_values", dtype), Array("waiting", mx.int32)]
    outputs = Array("out", dtype), Array("share_found", mx.float32), Array("share_sums", mx.float32)
    numbers = ("step",) if shape.most > 1 else ("start", "end", "room", "place")
    header = common.HEADER % _words(shape)
    if shape.is_for_tensor_cores:
        header += TENSOR_CORES[dtype] + mma.HEADER
    return Program(f"rows_attend_{shape.form}", tuple(inputs), outputs, source(shape), header, numbers)


def source(shape: Shape) -> str:
    """The kernel's body."""
    form = mma if shape.is_for_tensor_cores else threads
    is_joint, is_new, is_normed = shape.form == "joint", shape.form != "look", shape.eps is not None
    words = _words(shape) | {
        "query_norm": "query_norm" if is_normed else "nullptr",
        "key_norm": "key_norm" if is_normed else "nullptr",
        "norm_type": C_TYPES[shape.given or shape.dtype],
    }
    words["head_norm"] = heads.HEAD_NORM % words if is_normed else ""
    words["made"] = (heads.JOINT_NEW if is_joint else heads.NEW) % words
    words |= {
        **(common.AHEAD if shape.most == 1 or form is mma else common.NOW),
        "newest": form.NEWEST if is_new else "",
    }
    return common.ATTEND % (
        words
        | {
            "which": common.OF_SEVERAL % words if shape.most > 1 else "",
            "ask": form.ASK % words,
            "turn": heads.TURN % words if is_joint else "",
            "query": (heads.JOINT_QUERY if is_joint else heads.QUERY) % words,
            "new": heads.WRITE % words if is_new else "",
            "rounds": form.ROUNDS % words,
            "sink": common.SINK if shape.has_sinks else "",
            "gate": common.GATE % words if shape.is_gated else "",
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
        "each": 2 if shape.is_gated else 1,  # times D numbers of a query head
        "G": shape.served,
        "shared": shape.heads // shape.kv_heads,
        "window": shape.window or 0,
        "lane": LANE,
        "at_once": AT_ONCE,
        "tiles": max(1, 128 // shape.width),
        "share": shape.share,
        "most_splits": MOST_SPLITS,
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
