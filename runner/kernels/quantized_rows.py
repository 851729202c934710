"""Rows of numbers, quantized: each becomes a row of uint32 that holds all there is to know of it.

    [D] floats -> D numbers of 8 or 4 bits | a scale for each group | a bias for each group

A number is worth scale * number + bias. A group is 32 numbers that follow one another in a row, so what becomes of
a row depends on nothing but the row. Scales and biases have the type that the row had. Whoever keeps, moves or
writes such rows treats them as any others.

    D width      G groups of a row      W words of its numbers

Knows nothing about keys, values or storages.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

GROUP = 32
WORD = 32  # bits of a uint32


class Parts(NamedTuple):
    """numbers [...,W] uint32, scales and biases [...,G]."""

    numbers: mx.array
    scales: mx.array
    biases: mx.array


def divides(width: int) -> bool:
    """Whether rows of this width can be quantized."""
    return width % GROUP == 0


def is_quantized(rows: mx.array) -> bool:
    """Rows that were not are floats."""
    return rows.dtype == mx.uint32


def quantized(rows: mx.array, bits: int) -> mx.array:
    """[...,D] -> [...,words] uint32."""
    numbers, scales, biases = mx.quantize(rows, group_size=GROUP, bits=bits)
    return mx.concatenate([numbers, mx.concatenate([scales, biases], axis=-1).view(mx.uint32)], axis=-1)


def width_of(rows: mx.array, bits: int, dtype: mx.Dtype) -> int:
    """D. dtype: of scales and biases."""
    return rows.shape[-1] * WORD * GROUP // (bits * GROUP + 2 * 8 * dtype.size)


def parts(rows: mx.array, bits: int, dtype: mx.Dtype) -> Parts:
    """What a row holds."""
    words = width_of(rows, bits, dtype) * bits // WORD
    scales, biases = mx.split(rows[..., words:].view(dtype), 2, axis=-1)
    return Parts(rows[..., :words], scales, biases)


def dequantized(rows: mx.array, bits: int, dtype: mx.Dtype) -> mx.array:
    """[...,words] -> [...,D]."""
    return mx.dequantize(*parts(rows, bits, dtype), group_size=GROUP, bits=bits)
