"""Rotary positions: pairs of a head's numbers are turned by angles that grow with the position.

Angles and where they come from stand in `config/rope.py`.

Knows nothing about caches or layers.
"""

from __future__ import annotations

import mlx.core as mx

from runner.cache.span import Span
from runner.config.rope import RopeConfig


class Rope:
    """One rotation, shared by all layers of a model."""

    def __init__(self, config: RopeConfig, head_dim: int) -> None:
        self._dims = config.dims
        self._traditional = config.traditional
        self._scale = config.scale
        self._base = None if config.periods else config.theta
        self._periods = mx.array(config.periods, mx.float32) if config.periods else None  # [dims/2]
        self._magnitudes: mx.array | None = None  # [D]
        # Scores are products of a rotated query and a rotated key. If the whole head is rotated, yarn's
        # magnitude is a factor of every score, and free as part of the attention scale.
        self.score_scale = 1.0
        if config.dims == head_dim:
            self.score_scale = config.magnitude**2
        elif config.magnitude != 1.0:
            rest = head_dim - config.dims
            self._magnitudes = mx.array([config.magnitude] * config.dims + [1.0] * rest, mx.float32)

    def __call__(self, x: mx.array, span: Span) -> mx.array:
        """[B,H,L,D] at the span's positions -> the same, rotated."""
        if self._dims == 0:
            return x
        if self._magnitudes is not None:
            x = x * self._magnitudes.astype(x.dtype)
        return mx.fast.rope(
            x,
            self._dims,
            traditional=self._traditional,
            base=self._base,
            scale=self._scale,
            offset=span.starts,
            freqs=self._periods,
        )
