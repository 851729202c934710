"""What changes logits before anything is chosen: suppressed tokens, logit_bias, and penalties for what was said.

The tokens that penalties remember stay arrays, so the next draw can be queued before the last one is known.

B rows, V vocabulary. A single row may come without B.

Knows nothing about probabilities, filters or draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial

import mlx.core as mx

from runner.errors import BadRequest
from runner.types import SamplingOptions

Step = Callable[[mx.array], mx.array]  # logits [B,V] -> logits [B,V]
Penalty = Callable[[mx.array, mx.array], mx.array]  # logits [B,V], occurrences [B,V] -> logits [B,V]


ROOM = 256  # tokens, of a ring at first


class History:
    """How often each token occurs among the last `size` ones of one row.

    counts [V+1]   occurrences; row V collects the slots that were never filled
    ring [R]       the tokens themselves, V where there is none yet

    The ring doubles when it is full, until R is `size`, which may be a context that nobody will ever fill.
    """

    def __init__(self, vocab_size: int, size: int, prompt: Sequence[int]) -> None:
        tail = [token for token in prompt[-size:] if 0 <= token < vocab_size]
        self._nothing = vocab_size
        self._size = size
        self._room = min(size, len(tail) + ROOM)
        self._ring = mx.concatenate([mx.array(tail, mx.int32), self._empty(self._room - len(tail))])
        self._slot = len(tail) % size
        self._in_and_out = mx.array([1.0, -1.0])
        self._counts = mx.zeros((vocab_size + 1,)).at[self._ring].add(mx.array(1.0))

    @property
    def counts(self) -> mx.array:
        """Occurrences [V] float32."""
        return self._counts[:-1]

    def add(self, token: mx.array) -> None:
        """Remember a token [1], which may be unevaluated, and forget the oldest."""
        if self._slot == self._room:
            more = min(self._room, self._size - self._room)
            self._ring = mx.concatenate([self._ring, self._empty(more)])
            self._room += more
        slot = slice(self._slot, self._slot + 1)
        # Taking out the oldest at every step also keeps the ring from becoming a long unevaluated chain.
        changed = mx.concatenate([token.astype(mx.int32), self._ring[slot]])
        self._counts = self._counts.at[changed].add(self._in_and_out)
        self._ring[slot] = token
        self._slot = (self._slot + 1) % self._size

    def _empty(self, room: int) -> mx.array:
        """[room]."""
        return mx.full((room,), self._nothing, mx.int32)


# --- formulas --------------------------------------------------------------------------------------------


def biased(logits: mx.array, ids: mx.array, values: mx.array) -> mx.array:
    """l[id] + value."""
    return logits.at[..., ids].add(values)


def repeat_penalised(logits: mx.array, counts: mx.array, factor: float) -> mx.array:
    """Of tokens seen: l * factor if l < 0, else l / factor."""
    return mx.where(counts > 0, mx.where(logits < 0, logits * factor, logits / factor), logits)


def presence_penalised(logits: mx.array, counts: mx.array, amount: float) -> mx.array:
    """Of tokens seen: l - amount, once."""
    return logits - amount * (counts > 0)


def frequency_penalised(logits: mx.array, counts: mx.array, amount: float) -> mx.array:
    """l - amount for each occurrence."""
    return logits - amount * counts


# --- options -> steps ------------------------------------------------------------------------------------


def suppression(suppressed: Collection[int], vocab_size: int) -> Step | None:
    """Minus infinity for these tokens; ids outside the vocabulary count for nothing. None: nothing to do."""
    known = sorted(token for token in suppressed if token < vocab_size)
    if not known:
        return None
    return partial(biased, ids=mx.array(known, mx.int32), values=mx.full(len(known), -math.inf))


def bias(options: SamplingOptions, vocab_size: int) -> Step | None:
    """Raises BadRequest for an id outside the vocabulary. None: nothing to do."""
    for token, _ in options.logit_bias:
        if not 0 <= token < vocab_size:
            raise BadRequest(f"logit_bias: no token {token} in a vocabulary of {vocab_size} tokens")
    if not options.logit_bias:
        return None
    ids = mx.array([token for token, _ in options.logit_bias], mx.int32)
    return partial(biased, ids=ids, values=mx.array([value for _, value in options.logit_bias], mx.float32))


def penalties(options: SamplingOptions) -> list[Penalty]:
    """Those that are in use, in the host's order."""
    used: list[Penalty] = []
    if options.repeat_penalty != 1:
        used.append(partial(repeat_penalised, factor=options.repeat_penalty))
    if options.presence_penalty != 0:
        used.append(partial(presence_penalised, amount=options.presence_penalty))
    if options.frequency_penalty != 0:
        used.append(partial(frequency_penalised, amount=options.frequency_penalty))
    return used


def history(options: SamplingOptions, vocab_size: int, prompt: Sequence[int], total: int) -> History | None:
    """The last tokens of the prompt, `repeat_last_n` at most. None: the penalties look at no token.

    total: tokens that prompt and answer may have together.
    """
    last_n = options.repeat_last_n
    size = total if last_n < 0 else min(last_n, total)
    return History(vocab_size, size, prompt) if size > 0 else None
