"""From logits to what may be drawn: top_k, temperature, typical_p, top_p, min_p.

B rows, V vocabulary, N candidates. A single row may come without B.

Knows nothing about penalties, seeds or draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import mlx.core as mx

from runner.types import SamplingOptions

PROBABILITY_FLOOR = 1e-20  # the host's: below it a logarithm is of no use


class Candidates(NamedTuple):
    """What may be drawn: ids [B,N] uint32, or [N] of all rows, and their probabilities [B,N] float32; 0 is out."""

    ids: mx.array
    p: mx.array

    def ordered(self, order: mx.array) -> Candidates:
        """The candidates at these places [B,N] of each row."""
        ids = mx.broadcast_to(self.ids, self.p.shape)
        return Candidates(*(mx.take_along_axis(array, order, axis=-1) for array in (ids, self.p)))


Filter = Callable[[Candidates], Candidates]


def largest_ids(logits: mx.array, count: int) -> mx.array:
    """The ids [B,count] of the largest logits, in no order: a partition is less than a sort of all V."""
    return mx.argpartition(-logits, kth=count - 1, axis=-1)[..., :count]


def tempered(logits: mx.array, temperature: float) -> mx.array:
    """softmax(l / T); shifted by the largest logit first, so that no temperature overflows."""
    shifted = logits - mx.max(logits, axis=-1, keepdims=True)
    return mx.softmax(shifted / temperature, axis=-1, precise=True)


def typical(found: Candidates, mass: float) -> Candidates:
    """The tokens whose surprise -log p is nearest to its mean, up to a mass (Meister et al. 2022).

    Ordered by |-log p - H|, H = -sum p log p; kept while the mass before a token is < `mass`; renormalised.
    """
    surprise = -mx.log(mx.maximum(found.p, PROBABILITY_FLOOR))
    mean = mx.sum(found.p * surprise, axis=-1, keepdims=True)
    order = mx.argsort(mx.where(found.p > 0, mx.abs(surprise - mean), math.inf), axis=-1)
    kept = _up_to_mass(found.ordered(order), mass)
    return Candidates(kept.ids, kept.p / mx.sum(kept.p, axis=-1, keepdims=True))


def nucleus(found: Candidates, mass: float) -> Candidates:
    """top_p: most probable first, kept while the mass before a token is < `mass`."""
    return _up_to_mass(found.ordered(mx.argsort(-found.p, axis=-1)), mass)


def above_share(found: Candidates, share: float) -> Candidates:
    """min_p: p >= share * max p."""
    least = share * mx.max(found.p, axis=-1, keepdims=True)
    return Candidates(found.ids, mx.where(found.p < least, 0.0, found.p))


def _up_to_mass(ordered: Candidates, mass: float) -> Candidates:
    before = mx.cumsum(ordered.p, axis=-1, inclusive=False)
    return Candidates(ordered.ids, mx.where(before < mass, ordered.p, 0.0))


# --- options -> filters ----------------------------------------------------------------------------------


def narrowing(options: SamplingOptions, vocab_size: int) -> Callable[[mx.array], Candidates]:
    """Adjusted logits [B,V] -> what may be drawn. Not for a temperature <= 0."""
    everything = mx.arange(vocab_size, dtype=mx.uint32)
    top_k = options.top_k if 0 < options.top_k < vocab_size else None
    filters = _filters(options)

    def narrow(logits: mx.array) -> Candidates:
        ids = everything
        if top_k is not None:
            ids = largest_ids(logits, top_k)
            logits = mx.take_along_axis(logits, ids, axis=-1)
        found = Candidates(ids, tempered(logits, options.temperature))
        for keep in filters:
            found = keep(found)
        return found

    return narrow


def _filters(options: SamplingOptions) -> list[Filter]:
    filters: list[Filter] = []
    if 0 < options.typical_p < 1:
        filters.append(partial(typical, mass=options.typical_p))
    if 0 < options.top_p < 1:
        filters.append(partial(nucleus, mass=options.top_p))
    if 0 < options.min_p <= 1:
        filters.append(partial(above_share, share=options.min_p))
    return filters
