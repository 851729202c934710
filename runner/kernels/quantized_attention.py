"""Scaled dot-product attention over quantized keys and values (`quantized_rows.py`), by blocks of them.

Of one block there are floats at a time. A softmax goes on behind a block where it stopped, if it knows of each
query the highest score and the sum of the weights until then. A sink is what it begins with.

The products with a block are found in one of two ways, which are the same but for their last bits:

    Floats    its rows become floats by MLX's own operation
    Scaled    for a CPU, where that operation takes longer than all the rest. A row is scale * number + bias for
              each group: the first product is made for every number, biases meet sums over groups

    B rows      L queries     S  keys     D  width     H  query heads     K  heads of keys and values
    R  H/K * L, the queries of one head of keys and values                G  groups of a row

Knows nothing about storages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import mlx.core as mx

from runner.kernels.attention import Attention, Mask
from runner.kernels.exponential import LOG2_E, two_to
from runner.kernels.quantized_rows import GROUP, dequantized, parts

# Of a block. On a CPU behind 8,192 keys, blocks of 512 keys took 64 queries 1.4 times as long, and 1.7 times the
# memory; 128 queries were as fast.
QUERIES, KEYS = 64, 256
# Of a block that one query looks at. What counts there is the number of operations, until arrays become so large,
# at 4 times as many numbers, that the allocator asks the system for each of them.
NUMBERS = 2**19
HIDDEN = -1e30  # is added to a score that does not count: finite, since a block may have no other for a query


class Block(Protocol):
    """Keys or values of a block."""

    def scores(self, queries: mx.array) -> mx.array:
        """[B,K,R,D] -> the product with each row [B,K,R,S]."""

    def sums(self, weights: mx.array) -> mx.array:
        """[B,K,R,S] -> the sum of the rows, each so often [B,K,R,D]."""


class Floats(NamedTuple):
    """rows [B,K,S,D]."""

    rows: mx.array

    @classmethod
    def of(cls, rows: mx.array, bits: int, dtype: mx.Dtype) -> Floats:
        return cls(dequantized(rows, bits, dtype).astype(mx.float32))

    def scores(self, queries: mx.array) -> mx.array:
        return queries @ self.rows.swapaxes(-1, -2)

    def sums(self, weights: mx.array) -> mx.array:
        return weights @ self.rows


class Scaled(NamedTuple):
    """planes: numbers times their scales. Those that stand in the same place of a byte are together: of 8 bits one
    plane [B,K,S,D], of 4 bits two [B,K,S,D/2]. biases [B,K,S,G].
    """

    planes: list[mx.array]
    biases: mx.array

    @classmethod
    def of(cls, rows: mx.array, bits: int, dtype: mx.Dtype) -> Scaled:
        numbers, scales, biases = parts(rows, bits, dtype)
        whole = numbers.view(mx.uint8)
        planes = [whole] if bits == 8 else [whole & 15, whole >> 4]
        scales, biases = scales.astype(mx.float32)[..., None], biases.astype(mx.float32)
        return cls([(plane.reshape(*biases.shape, -1) * scales).flatten(-2) for plane in planes], biases)

    def scores(self, queries: mx.array) -> mx.array:
        groups = queries.reshape(*queries.shape[:-1], -1, GROUP).sum(axis=-1)  # [B,K,R,G]
        found = groups @ self.biases.swapaxes(-1, -2)
        for place, plane in enumerate(self.planes):
            found = mx.addmm(found, queries[..., place :: len(self.planes)], plane.swapaxes(-1, -2))
        return found

    def sums(self, weights: mx.array) -> mx.array:
        found = mx.stack([weights @ plane for plane in self.planes], axis=-1).flatten(-2)
        return found + mx.repeat(weights @ self.biases, GROUP, axis=-1)


Blocks = Callable[[mx.array, int, mx.Dtype], Block]
"""Of rows, their bits, and the type of their scales."""


class Found(NamedTuple):
    """Behind some keys: the weighted sum of their values [B,K,R,D], the sum of the weights and the highest score
    [B,K,R,1], in units of powers of 2.
    """

    values: mx.array
    total: mx.array
    highest: mx.array


def by_blocks(bits: int, blocks: Blocks) -> Attention:
    """An Attention over keys and values of so many bits."""

    def attend(
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        *,
        scale: float,
        mask: Mask = None,
        sinks: mx.array | None = None,
    ) -> mx.array:
        dtype, length, shown = queries.dtype, queries.shape[2], keys.shape[2]
        size = keys_of_block(length, keys.shape[1], queries.shape[3])
        queries = queries.astype(mx.float32) * (scale * LOG2_E)
        whole = []
        for first in range(0, length, QUERIES):
            asked = Asked(queries[:, :, first : first + QUERIES], keys.shape[1], mask, first - length + shown)
            found, end = asked.begun(sinks), asked.reach(shown)
            for start in range(0, end, size):
                stop = min(start + size, end)
                rows = [keys[:, :, start:stop], values[:, :, start:stop]]
                if found is not None:  # or all blocks would be made before the first one is let go of
                    rows = mx.depends(rows, [found.values, found.total])
                key_block, value_block = (blocks(part, bits, dtype) for part in rows)
                found = asked.behind(found, key_block, value_block, asked.bias(start, stop))
            assert found is not None
            whole.append((found.values / found.total).reshape(*asked.queries.shape[:3], -1))
        return (whole[0] if len(whole) == 1 else mx.concatenate(whole, axis=2)).astype(dtype)

    return attend


def keys_of_block(length: int, shared: int, width: int) -> int:
    """For so many queries, and K heads of keys [S,D]."""
    return KEYS if length > 1 else max(KEYS, NUMBERS // (shared * width))


class Asked(NamedTuple):
    """A block of queries [B,H,L,D], in units of powers of 2, of which the first one stands at a `place` among the
    keys. shared: K.
    """

    queries: mx.array
    shared: int
    mask: Mask
    place: int

    @property
    def length(self) -> int:
        return self.queries.shape[2]

    def reach(self, shown: int) -> int:
        """How many of the keys its queries see together, from the first one on."""
        return self.place + self.length if self.mask == "causal" else shown

    def bias(self, start: int, stop: int) -> mx.array | None:
        """What is added to the scores of the keys [start, stop): [L,S]; None: nothing."""
        if isinstance(self.mask, mx.array):
            first = self.place - self.mask.shape[1] + self.mask.shape[0]
            seen = self.mask[first : first + self.length, start:stop]
        elif self.mask is None or stop <= self.place + 1:
            return None
        else:
            seen = mx.arange(start, stop) <= mx.arange(self.place, self.place + self.length)[:, None]
        return mx.where(seen, 0.0, HIDDEN)

    def begun(self, sinks: mx.array | None) -> Found | None:
        """Before the first key; None: nothing was found."""
        if sinks is None:
            return None
        logits = mx.repeat(sinks.astype(mx.float32) * LOG2_E, self.length).reshape(1, self.shared, -1, 1)
        highest = mx.repeat(logits, self.queries.shape[0], axis=0)
        return Found(mx.zeros_like(highest), mx.ones_like(highest), highest)

    def behind(self, found: Found | None, keys: Block, values: Block, bias: mx.array | None) -> Found:
        """One block further."""
        batch, heads, length, width = self.queries.shape
        scores = keys.scores(self.queries.reshape(batch, self.shared, -1, width))
        if bias is not None:
            scores = (scores.reshape(batch, heads, length, -1) + bias).reshape(scores.shape)
        highest = scores.max(axis=-1, keepdims=True)
        if found is not None:
            highest = mx.maximum(highest, found.highest)
        weights = two_to(scores - highest)
        sums, total = values.sums(weights), weights.sum(axis=-1, keepdims=True)
        if found is None:
            return Found(sums, total, highest)
        share = two_to(found.highest - highest)
        return Found(found.values * share + sums, found.total * share + total, highest)
