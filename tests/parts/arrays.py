"""Arrays that tests make and compare."""

from __future__ import annotations

import mlx.core as mx


def noise(*shape: int, seed: int) -> mx.array:
    """Normal numbers, the same for the same seed."""
    return mx.random.normal(shape, key=mx.random.key(seed))


def difference(a: mx.array, b: mx.array) -> float:
    """The largest |a - b| of float32 arrays. Not-a-number anywhere makes it infinite."""
    assert a.shape == b.shape
    assert a.dtype == b.dtype == mx.float32
    worst = mx.max(mx.abs(a - b)).item()
    assert isinstance(worst, float)
    return worst if worst == worst else float("inf")
