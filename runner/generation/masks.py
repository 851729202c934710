"""What grammars allow, on the device: bits become an array to be added to logits, once for each set of tokens.

An answer comes back to the same sets again and again (inside a string, for one), and bringing a new one to a GPU
takes longer than all other work of the draw. So the last ones stay there.

V vocabulary.

Knows nothing about grammars.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import mlx.core as mx

KEPT = 32
WORD = 32  # bits


class Masks:
    """The sets of one vocabulary."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._bits = mx.arange(WORD, dtype=mx.uint32)
        self._kept: OrderedDict[bytes, mx.array] = OrderedDict()

    def array(self, bits: bytes) -> mx.array:
        """A bit for each token, in words of 32, lowest first -> [V] float32: 0 if set, else minus infinity."""
        known = self._kept.get(bits)
        if known is None:
            known = self._kept[bits] = self._expanded(bits)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(bits)
        return known

    def _expanded(self, bits: bytes) -> mx.array:
        words = mx.array(memoryview(bits).cast("I"))  # type: ignore[arg-type]  # the stub has no buffers
        flat = ((words[:, None] >> self._bits) & 1).reshape(-1)
        return mx.where(flat[: self._vocab_size], 0.0, -math.inf)
