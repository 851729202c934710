"""The choice itself: the largest, or a draw with a key that comes from the seed and the number of the draw.

V vocabulary, N candidates.

Knows nothing about options.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import mlx.core as mx

from runner.generation.filters import PROBABILITY_FLOOR, Candidates

_U64 = 2**64 - 1
_WEYL = 0x9E3779B97F4A7C15


def largest(logits: mx.array) -> mx.array:
    """The id [1] of the largest logit, the lowest id among equals."""
    return mx.argmax(logits, keepdims=True)


def drawn(found: Candidates, key: mx.array) -> mx.array:
    """One id [1], each as often as its probability says."""
    logs = mx.where(found.p > 0, mx.log(mx.maximum(found.p, PROBABILITY_FLOOR)), -math.inf)
    return found.ids[mx.random.categorical(logs, key=key)].reshape(1)


def splitmix64(state: int) -> int:
    """The output of SplitMix64 at a state that was already advanced; 64 bits in and out."""
    z = state & _U64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _U64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _U64
    return z ^ (z >> 31)


def draw_keys(seed: int | None) -> Iterator[mx.array]:
    """A key for each draw: the seed's own sequence, whatever other requests draw. None: system entropy."""
    state = int.from_bytes(os.urandom(8), "little") if seed is None else seed
    while True:
        state += _WEYL
        yield mx.random.key(splitmix64(state))
