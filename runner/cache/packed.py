"""Rows that decode and chunks of prompts in one forward, so that its weights are read once for all of them.

To everything but attention a position is a position, whoever's it is. So the batch has a row for each: first come
those of the rows that decode, then the positions of each chunk. Attention takes them apart again: the rows attend
as they do together, and each chunk with its own storage.

    T positions     R of rows that decode     H heads     L positions of a chunk     D width

Only for memories that hold nothing but attention's storages: a recurrent state needs its positions in order.

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import mlx.core as mx

from runner.cache.base import Attending, Latents, States
from runner.cache.memory import Memory
from runner.cache.span import Span
from runner.cache.together import Together


class Packed:
    """The memories of some rows that decode, or of none, and of prompts with the length of each one's chunk."""

    def __init__(self, rows: Together | None, prompts: Sequence[tuple[Memory, int]]) -> None:
        self._rows = rows
        self._row_span = None if rows is None else rows.span()
        self._spans = [memory.span(length) for memory, length in prompts]
        first = 0 if rows is None else rows.size
        ends = [first]
        for _, length in prompts:
            ends.append(ends[-1] + length)
        self._cuts = list(pairwise(ends))
        memories = [memory for memory, _ in prompts]
        self.attention: Mapping[int, Attending] = {
            layer: PackedAttending(
                None if rows is None else rows.attention[layer],
                self._row_span,
                first,
                [memory.attention[layer] for memory in memories],
                self._spans,
                self._cuts,
            )
            for layer in memories[0].attention
        }
        self.latent: Mapping[int, Latents] = {}
        self.recurrent: Mapping[int, States] = {}
        self.borrowed = None

    def span(self) -> Span:
        """One position of each of T rows."""
        offsets = [] if self._row_span is None else [row.offset for row in self._row_span.rows]
        for span in self._spans:
            offsets += range(span.offset, span.offset + span.length)
        return Span.scattered(offsets)


class PackedAttending:
    """One layer: Attending for [T,H,1,D], of which the first R are rows that decode."""

    def __init__(
        self,
        rows: Attending | None,
        row_span: Span | None,
        first: int,
        chunks: Sequence[Attending],
        spans: Sequence[Span],
        cuts: Sequence[tuple[int, int]],
    ) -> None:
        """first: R. cuts: where each chunk begins and ends among the T."""
        self._rows = rows
        self._row_span = row_span
        self._first = first
        self._chunks = list(zip(chunks, spans, cuts, strict=True))

    def attend(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        span: Span,
        *,
        scale: float,
        sinks: mx.array | None = None,
    ) -> mx.array:
        def attend(storage: Attending, span: Span, parts: Sequence[mx.array]) -> mx.array:
            queries, keys, values = parts
            return storage.attend(queries, keys, values, span, scale=scale, sinks=sinks)

        return self._each(attend, [queries, keys, values])

    def look(self, queries: mx.array, span: Span, *, scale: float, sinks: mx.array | None = None) -> mx.array:
        def look(storage: Attending, span: Span, parts: Sequence[mx.array]) -> mx.array:
            return storage.look(parts[0], span, scale=scale, sinks=sinks)

        return self._each(look, [queries])

    def _each(
        self, find: Callable[[Attending, Span, Sequence[mx.array]], mx.array], arrays: Sequence[mx.array]
    ) -> mx.array:
        """What the rows find, then what each chunk finds, as [T,H,1,D]."""
        found = []
        if self._rows is not None and self._row_span is not None:
            found.append(find(self._rows, self._row_span, [array[: self._first] for array in arrays]))
        for storage, span, (start, end) in self._chunks:
            parts = [array[start:end].transpose(2, 1, 0, 3) for array in arrays]  # [1,H,L,D]
            found.append(find(storage, span, parts).transpose(2, 1, 0, 3))
        return mx.concatenate(found)
