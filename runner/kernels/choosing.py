"""The largest logit of each row, and how the host learns which one it is.

    logits [B,V]           any float type; minus infinity is a token that may not come
    tokens [B] uint32      the ids of the largest, the lowest id among equals: what the next step may feed, in the
                           vocabulary whatever the logits were
    checked [B] uint32     the same, and BROKEN where a row's logits are no numbers, so that whoever reads a token
                           learns of it without a second look at the device
    told                   arrays for the host, whose numbers one after the other are `checked`; more may follow

The plain form tells all in one array. A sum over a row says whether it is broken: one pass, and where the sum of
finite logits overflows, they are as broken.

Knows nothing about models or requests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import mlx.core as mx

BROKEN = 2**32 - 1  # no token's id


class Chosen(NamedTuple):
    tokens: mx.array
    told: Sequence[mx.array]


class Choosing(NamedTuple):
    """largest: of logits. tell: checked tokens that were drawn in some other way -> told."""

    largest: Callable[[mx.array], Chosen]
    tell: Callable[[mx.array], Sequence[mx.array]]


def checked(tokens: mx.array, logits: mx.array) -> mx.array:
    """logits: float32, as the model left them."""
    return mx.where(mx.sum(logits, axis=-1) < math.inf, tokens, mx.array(BROKEN, mx.uint32))


def plain(logits: mx.array) -> Chosen:
    logits = logits.astype(mx.float32)
    tokens = mx.argmax(logits, axis=-1)
    return Chosen(tokens, [checked(tokens, logits)])


PLAIN = Choosing(plain, lambda tokens: [tokens])
