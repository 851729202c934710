"""Rotary positions: the pairs of a head's first numbers are turned by angles that grow with the position.

On a CPU MLX's rotation is a chain of some fifteen operations, angles, cosines and sines among them, in every layer
for queries and keys. Here cosines and sines are made once a forward, and a number's partner comes by a product with
a matrix of 0, 1 and -1. Unless there is a magnitude, not one bit of the result differs.

    B  rows     H  heads     L  positions     D  width of a head
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx


@dataclass(frozen=True)
class Turning:
    """How to rotate: the angle of pair i at position p is p * scale / period[i]."""

    width: int  # D
    dims: int  # how many of the D numbers are rotated, from the first on; at least 2
    base: float
    scale: float = 1.0
    periods: tuple[float, ...] | None = None  # [dims/2]; None for base^(2i/dims)
    magnitude: float = 1.0  # a factor of what is rotated
    traditional: bool = False  # pairs of neighbours instead of halves


Positions = tuple[mx.array, ...]
"""What a rotation needs to know of a forward's positions."""


class Rotation(Protocol):
    def at(self, starts: mx.array, length: int) -> Positions:
        """Of `length` positions from `starts` on, a scalar or [B]; to be made once a forward."""

    def __call__(self, x: mx.array, positions: Positions) -> mx.array:
        """[B,H,L,D] -> the same, rotated."""


class Plain:
    """MLX's own."""

    def __init__(self, turning: Turning) -> None:
        self._turning = turning
        self._base = None if turning.periods else turning.base
        self._periods = mx.array(turning.periods, mx.float32) if turning.periods else None  # [dims/2]
        self._magnitudes: mx.array | None = None  # [D]
        if turning.magnitude != 1.0:
            rest = turning.width - turning.dims
            factors = [turning.magnitude] * turning.dims + [1.0] * rest
            self._magnitudes = mx.array(factors, mx.float32)

    def at(self, starts: mx.array, length: int) -> Positions:
        return (starts,)

    def __call__(self, x: mx.array, positions: Positions) -> mx.array:
        if self._magnitudes is not None:
            x = x * self._magnitudes.astype(x.dtype)
        turning = self._turning
        return mx.fast.rope(
            x,
            turning.dims,
            traditional=turning.traditional,
            base=self._base,
            scale=turning.scale,
            offset=positions[0],
            freqs=self._periods,
        )


class OnCpu:
    """x * cosine + partner * sine."""

    def __init__(self, turning: Turning) -> None:
        self._turning = turning
        self._plain = Plain(turning)
        self._partners = mx.array(_partners(turning), mx.float32)  # [D,D]
        self._speeds = speeds(turning)
        mx.eval(self._speeds)  # or only the thread that loads a model could use it

    def at(self, starts: mx.array, length: int) -> Positions:
        """`starts`, cosines and sines [B,1,L,D]."""
        turning = self._turning
        positions = (starts.reshape(-1, 1, 1) + mx.arange(length)).astype(mx.float32)  # [B,1,L]
        angles = (positions * turning.scale)[..., None] * self._speeds  # [B,1,L,dims/2]
        cosines = self._spread(turning.magnitude * mx.cos(angles), 1.0)
        return starts, cosines, self._spread(turning.magnitude * mx.sin(angles), 0.0)

    def __call__(self, x: mx.array, positions: Positions) -> mx.array:
        if x.dtype != mx.float32:
            return self._plain(x, positions)
        _, cosines, sines = positions
        return x * cosines + (x @ self._partners) * sines

    def _spread(self, pairs: mx.array, rest: float) -> mx.array:
        """Of each pair [..,dims/2] -> of each number of a head [..,D]. rest: of what is not rotated."""
        turning = self._turning
        both = (
            mx.repeat(pairs, 2, axis=-1) if turning.traditional else mx.concatenate([pairs, pairs], axis=-1)
        )
        still = mx.full((*pairs.shape[:-1], turning.width - turning.dims), rest)
        return mx.concatenate([both, still], axis=-1)


def speeds(turning: Turning) -> mx.array:
    """Of each pair [dims/2] float32, unevaluated: 1 / period."""
    half = turning.dims // 2
    if turning.periods:
        return mx.reciprocal(mx.array(turning.periods, mx.float32))
    # In MLX's order of operations: a last bit is much at a far position.
    return mx.exp(mx.arange(0, -half, -1, mx.float32) * (math.log(turning.base) / half))


def _partners(turning: Turning) -> list[list[float]]:
    """The matrix that puts -b in the place of a and a in the place of b for each pair (a, b), else nothing."""
    half = turning.dims // 2
    matrix = [[0.0] * turning.width for _ in range(turning.width)]
    for pair in range(half):
        a, b = (2 * pair, 2 * pair + 1) if turning.traditional else (pair, pair + half)
        matrix[b][a], matrix[a][b] = -1.0, 1.0
    return matrix
