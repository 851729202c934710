"""Long prompts through the layers of a model, with what few layers make in memory at a time.

MLX prepares operations for a GPU of NVIDIA's far ahead of it, and makes room for what each of them leaves. A prompt
of 8,192 positions through a model of 8 billion parameters takes 9 GB so, beside its weights and its keys and
values. So whoever prepares the next layers waits here until the GPU is near.

Knows nothing about what layers do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from runner.kernels import choice
from runner.kernels.product import MOST

AHEAD = 1 << 28  # bytes that are made before somebody waits
TIMES = 16  # what a layer makes, in sizes of what it is given: reckoned from the widths of a Llama


class Pace:
    """Of one forward."""

    def __init__(self, positions: int, floats: int) -> None:
        """floats: bytes that a layer's packed weights become for more than MOST positions (`floats_of`)."""
        self._waits = positions > MOST and choice.prepares_ahead()
        self._floats = floats
        self._bytes = 0
        self._before: mx.array | None = None

    def __call__(self, x: mx.array) -> None:
        """x: what the next layer is given. May wait for what an earlier one was given. Nobody comes here behind the
        last layer, of which a chunk that wants no logits needs the keys and values alone.
        """
        if not self._waits:
            return
        if self._bytes >= AHEAD:
            mx.async_eval(x)  # type: ignore[no-untyped-call]  # the stub has no types
            if self._before is not None:
                mx.eval(self._before)
            self._before, self._bytes = x, 0
        self._bytes += TIMES * x.nbytes + self._floats


def floats_of(layers: Sequence[Any]) -> int:
    """Of a layer, in the mean."""
    modules = [module for layer in layers for module in layer.modules()]
    return sum(getattr(module, "dense_bytes", 0) for module in modules) // max(1, len(layers))
