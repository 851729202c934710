"""Tokens told in pairs, as a kernel does it."""

from __future__ import annotations

import mlx.core as mx

from runner.kernels.choosing import PLAIN, Choosing, Chosen


def in_pairs(tokens: mx.array) -> list[mx.array]:
    """What stands behind the last one belongs to nobody."""
    padded = mx.concatenate([tokens, mx.full(2 + tokens.size % 2, 77, mx.uint32)])
    return [*padded.reshape(-1, 2)]


def largest(logits: mx.array) -> Chosen:
    tokens, told = PLAIN.largest(logits)
    return Chosen(tokens, in_pairs(told[0]))


PAIRS = Choosing(largest, in_pairs)
