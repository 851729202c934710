"""How a storage keeps keys and values, and how queries attend to them as they are kept: as they were computed, or
quantized.

A storage that keeps them quantized is like any other: it writes rows, moves, saves and forgets them, whatever they
are. What becomes of a position depends on nothing but its own keys and values, so chunks, edits and restorations
leave the same rows as one forward over all of it. A position attends to itself as it is kept, too.

Knows nothing about positions, tokens or models.
"""

from __future__ import annotations

from typing import Protocol

import mlx.core as mx

from runner.kernels import choice
from runner.kernels.attention import Attention, Mask
from runner.kernels.quantized_rows import divides, is_quantized, quantized


class Keeping(Protocol):
    @property
    def attention(self) -> Attention:
        """Over keys and values as they are kept."""

    def kept(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keys and values [B,K,L,D] as they are kept, [B,K,L,...]."""


class AsComputed:
    """A Keeping."""

    def __init__(self) -> None:
        self.attention = choice.attention()

    def kept(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return keys, values


class Quantized:
    """A Keeping. Where heads do not consist of whole groups, it keeps them as they were computed."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._plain = choice.attention()
        self._quantized = choice.quantized_attention(bits)

    def kept(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        if not (divides(keys.shape[-1]) and divides(values.shape[-1])):
            return keys, values
        return quantized(keys, self._bits), quantized(values, self._bits)

    def attention(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        /,
        *,
        scale: float,
        mask: Mask = None,
        sinks: mx.array | None = None,
    ) -> mx.array:
        attend = self._quantized if is_quantized(keys) else self._plain
        return attend(queries, keys, values, scale=scale, mask=mask, sinks=sinks)
