"""Attention of rows that decode together: one query position each, behind as many keys and values as each row has.

    queries [B,H,1,D]          H/K query heads share a key/value head
    keys, values               of each row its own buffers [1,K,R,D], whose first rows are the positions
                               [start, end), and behind those positions its lane
    lanes [N*W,K,D]            the last positions of N rows, with room for W of each, all in one array
    place                      where in the lanes a query's own position stands: at first that of its row, a step
                               later one more; what stands before it in the same lane belongs to the same row
    found [B,H,1,D]

A position that is new is written to its place. It comes as keys and values [B,K,1,D], or joined with its queries as
a projection left them, [B,1,(H+2K)*D]; then heads are normed and turned first.

This is the plain form: it cuts, joins, and asks MLX row by row. `rows_attention_cuda.py` has the kernel.

Knows nothing about storages, spans or requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import mlx.core as mx

from runner.kernels.rotation import Plain, Turning

LANE = 64  # W


class Own(NamedTuple):
    """A row's own buffers. place: where in the lanes its next position will stand."""

    keys: mx.array
    values: mx.array
    start: int
    end: int
    place: int = 0


class Lanes(NamedTuple):
    """The lanes of one layer. waiting [N*H] int32: zeros between two steps; a kernel counts its blocks there."""

    keys: mx.array
    values: mx.array
    waiting: mx.array


class Query(NamedTuple):
    """What a layer asks in one step. step: how many there were before it since the attention was made. sinks [H]:
    for each head the logit of looking at nothing. longest: positions of the longest row, the new one included. new:
    its keys and values; None: they stand in their places.
    """

    queries: mx.array
    step: int
    scale: float
    sinks: mx.array | None
    longest: int
    new: tuple[mx.array, mx.array] | None = None


class Heads(NamedTuple):
    """What is done to heads before they attend: queries and keys are normed, where there are weights [D] for it,
    and turned. is_gated: behind each query stands a gate [D], whose sigmoid multiplies what the head finds.
    """

    heads: int  # H
    kv_heads: int  # K
    turning: Turning
    norms: tuple[mx.array, mx.array] | None = None
    eps: float = 0.0
    is_gated: bool = False

    @property
    def each(self) -> int:
        """How many times D numbers there are for a query head."""
        return 2 if self.is_gated else 1

    @property
    def joined(self) -> int:
        """How many times D numbers there are together."""
        return self.each * self.heads + 2 * self.kv_heads


class Joint(NamedTuple):
    """What a layer asks in one step, queries, keys and values in one [B,1,(H+2K)*D], or (2H+2K)*D where there are
    gates. The rest as in `Query`.
    """

    joined: mx.array
    heads: Heads
    step: int
    scale: float
    longest: int


class RowsAttention(NamedTuple):
    """Made for some rows as they are, and of use until one of their own buffers changes. Both write what is new."""

    attend: Callable[[Query, Lanes], mx.array]
    """[B,H,1,D]"""
    attend_joint: Callable[[Joint, Lanes], mx.array]
    """[B,1,H*D]"""


class AtOnce(NamedTuple):
    """A way to attend for rows at once.

    fits: whether it is there for buffers like these. make: of rows, the window (how far back a query sees, itself
    included; None: to the beginning), and how many rows there may be at most.
    """

    fits: Callable[[Own], bool]
    make: Callable[[Sequence[Own], int | None, int], RowsAttention]


def plain(rows: Sequence[Own], window: int | None, most: int) -> RowsAttention:
    """Row by row."""

    def attend(query: Query, lanes: Lanes) -> mx.array:
        places = [row.place + query.step for row in rows]
        if query.new is not None:
            keys, values = query.new
            lanes.keys[mx.array(places)] = keys.squeeze(2)
            lanes.values[mx.array(places)] = values.squeeze(2)
        parts = zip(rows, places, apart(query.queries), strict=True)
        return mx.concatenate(
            [
                mx.fast.scaled_dot_product_attention(
                    queries,
                    _shown(row, row.keys, lanes.keys, place, window),
                    _shown(row, row.values, lanes.values, place, window),
                    scale=query.scale,
                    mask=None,
                    sinks=query.sinks,
                )
                for row, place, queries in parts
            ]
        )

    def attend_joint(joint: Joint, lanes: Lanes) -> mx.array:
        starts = mx.array([row.end + (row.place + joint.step) % LANE for row in rows])
        queries, keys, values, gates = heads_of(joint.joined, joint.heads, starts)
        new = (keys, values)
        found = attend(Query(queries, joint.step, joint.scale, None, joint.longest, new), lanes)
        if gates is not None:
            found = found * mx.sigmoid(gates)
        return found.reshape(found.shape[0], 1, -1)

    return RowsAttention(attend, attend_joint)


def heads_of(
    joined: mx.array, heads: Heads, starts: mx.array
) -> tuple[mx.array, mx.array, mx.array, mx.array | None]:
    """`Joint.joined`, each row at its position -> queries [B,H,1,D], keys and values [B,K,1,D], gates [B,H,1,D]."""
    batch, queried = joined.shape[0], heads.each * heads.heads
    parts = joined.reshape(batch, heads.joined, 1, -1)
    queries, keys, values = mx.split(parts, [queried, queried + heads.kv_heads], axis=1)
    gates = None
    if heads.is_gated:
        queries, gates = mx.split(queries.reshape(batch, heads.heads, 1, -1), 2, axis=-1)
    if heads.norms is not None:
        dtype = queries.dtype
        queries = mx.fast.rms_norm(queries, heads.norms[0], heads.eps).astype(dtype)
        keys = mx.fast.rms_norm(keys, heads.norms[1], heads.eps).astype(dtype)
    turn = Plain(heads.turning)
    return turn(queries, turn.at(starts, 1)), turn(keys, turn.at(starts, 1)), values, gates


def _shown(row: Own, own: mx.array, lanes: mx.array, place: int, window: int | None) -> mx.array:
    """The keys or values that a row's query sees [1,K,S,D], oldest first."""
    lane, end = place - place % LANE, place + 1
    total = row.end + end - lane
    first = 0 if window is None else max(0, total - window)
    far = own[:, :, max(0, min(first, row.end) - row.start) : row.end - row.start]
    near = lanes[lane + max(0, first - row.end) : end]
    return mx.concatenate([far, near.transpose(1, 0, 2)[None]], axis=2)


PLAIN = AtOnce(lambda row: True, plain)


def apart(batch: mx.array) -> list[mx.array]:
    """[B,...] as B times [1,...]."""
    return [batch[number : number + 1] for number in range(batch.shape[0])]
