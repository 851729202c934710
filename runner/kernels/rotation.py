"""Rotary positions: the pairs of a head's first numbers are turned by angles that grow with the position.

On a CPU MLX's rotation is a chain of some fifteen operations, angles, cosines and sines among them, in every layer
for queries and keys. Here cosines and sines are made once a forward. A number's partner comes by a product with a
matrix of 0 and 1, or, where there is one position, by slices: a product of a few rows is shared out among a BLAS's
threads, which then keep all cores busy. Unless there is a magnitude, not one bit of the result differs.

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
    """x * cosine + partner * sine, where a pair's first sine is a negative one."""

    def __init__(self, turning: Turning) -> None:
        self._turning = turning
        self._plain = Plain(turning)
        self._partners = mx.array(_partners(turning), mx.float32)  # [D,D]
        self._signs = mx.array(_signs(turning), mx.float32)  # [D]
        self._speeds = speeds(turning)
        mx.eval(self._speeds)  # or only the thread that loads a model could use it

    def at(self, starts: mx.array, length: int) -> Positions:
        """`starts`, cosines and sines [B,1,L,D]."""
        turning = self._turning
        positions = (starts.reshape(-1, 1, 1) + mx.arange(length)).astype(mx.float32)  # [B,1,L]
        angles = (positions * turning.scale)[..., None] * self._speeds  # [B,1,L,dims/2]
        cosines = self._spread(turning.magnitude * mx.cos(angles), 1.0)
        return starts, cosines, self._spread(turning.magnitude * mx.sin(angles), 0.0) * self._signs

    def __call__(self, x: mx.array, positions: Positions) -> mx.array:
        if x.dtype != mx.float32:
            return self._plain(x, positions)
        _, cosines, sines = positions
        partners = _swapped(x, self._turning) if x.shape[2] == 1 else x @ self._partners
        return x * cosines + partners * sines

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
    """The matrix that puts b in the place of a and a in the place of b for each pair (a, b), else nothing."""
    matrix = [[0.0] * turning.width for _ in range(turning.width)]
    for a, b in _pairs(turning):
        matrix[b][a] = matrix[a][b] = 1.0
    return matrix


def _signs(turning: Turning) -> list[float]:
    """-1 for the first of each pair, else 1."""
    first = {a for a, _ in _pairs(turning)}
    return [-1.0 if place in first else 1.0 for place in range(turning.width)]


def _pairs(turning: Turning) -> list[tuple[int, int]]:
    half = turning.dims // 2
    if turning.traditional:
        return [(2 * pair, 2 * pair + 1) for pair in range(half)]
    return [(pair, pair + half) for pair in range(half)]


def _swapped(x: mx.array, turning: Turning) -> mx.array:
    """The same as the product with `_partners`, but for what is not rotated: that stays."""
    half, dims = turning.dims // 2, turning.dims
    if turning.traditional:
        pairs = x[..., :dims].reshape(*x.shape[:-1], half, 2)
        parts = [pairs[..., ::-1].flatten(-2)]
    else:
        parts = [x[..., half:dims], x[..., :half]]
    if dims < turning.width:
        parts.append(x[..., dims:])
    return mx.concatenate(parts, axis=-1)
