"""Rotary positions of a model's heads.

Angles and where they come from stand in `config/rope.py`, how heads are turned in `kernels/rotation.py`.

Knows nothing about caches or layers.
"""

from __future__ import annotations

import mlx.core as mx

from runner.cache.span import Span
from runner.config.rope import RopeConfig
from runner.kernels import choice
from runner.kernels.rotation import Turning


class Rope:
    """One rotation, shared by all layers of a model."""

    def __init__(self, config: RopeConfig, head_dim: int) -> None:
        # Scores are products of a rotated query and a rotated key. If the whole head is rotated, yarn's
        # magnitude is a factor of every score, and free as part of the attention scale.
        whole = config.dims == head_dim
        self.score_scale = config.magnitude**2 if whole else 1.0
        self.turning = Turning(
            width=head_dim,
            dims=config.dims,
            base=config.theta,
            scale=config.scale,
            periods=config.periods,
            magnitude=1.0 if whole else config.magnitude,
            traditional=config.traditional,
        )
        self._rotation = choice.rotation(self.turning) if config.dims else None

    def __call__(self, x: mx.array, span: Span) -> mx.array:
        """[B,H,L,D] at the span's positions -> the same, rotated."""
        rotation = self._rotation
        if rotation is None:
            return x
        return rotation(x, span.once(self, lambda: rotation.at(span.starts, span.length)))
