"""Several rows' memories as one, for a forward that all of them take part in, each with one position.

What a layer computes for itself (products, norms, experts) it computes for all rows at once, and reads its weights
once. What it remembers stays where it is: no row's keys are moved or padded, whoever joins or leaves. Attention has
two ways:

    one by one   each row's storage writes and attends for its row
    at once      where there is a kernel for it (`at_once.py`)

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import mlx.core as mx

from runner.cache.at_once import Steps
from runner.cache.base import Attending, KeyValues
from runner.cache.latent import LatentCache
from runner.cache.memory import Memory
from runner.cache.recurrent import Held, RecurrentCache, State
from runner.cache.span import Span
from runner.kernels.attention import Mask
from runner.kernels.rows_attention import apart

Storage = TypeVar("Storage")
Rows = TypeVar("Rows")


class Together:
    """The memories of several rows, in the order of the batch. Slots go on owning each."""

    def __init__(
        self, rows: Mapping[int, Memory], at_once: Mapping[int, Attending], steps: Steps, size: int
    ) -> None:
        """at_once: the layers whose rows attend at once. steps: of their lanes. size: of the batch, in which these
        rows come first.
        """
        memories = list(rows.values())
        one_by_one: dict[int, Attending] = {
            layer: RowsOneByOne([memory.attention[layer] for memory in memories])
            for layer in memories[0].attention
            if layer not in at_once
        }
        self.attention = one_by_one | dict(at_once)
        self.latent = _by_layer([memory.latent for memory in memories], LatentRows)
        self.recurrent = _by_layer([memory.recurrent for memory in memories], RecurrentRows)
        self.borrowed = None  # mlx-lm's models go row by row
        self._rows = list(rows.items())
        self._lanes = [memory.lane for memory in memories]
        self._steps = steps
        self.size = size

    def goes_on(self, rows: Mapping[int, Memory]) -> bool:
        """Whether the next step can have these rows: the same in the same order, with room in their lanes."""
        return list(rows.items()) == self._rows and all(
            memory.lane is lane and not (lane is not None and lane.is_full)
            for (_, memory), lane in zip(self._rows, self._lanes, strict=True)
        )

    def span(self) -> Span:
        """The next position of each row."""
        nobodys = [Span(0, 1)] * (self.size - len(self._rows))
        span = Span.together([*(Span(memory.offset, 1) for _, memory in self._rows), *nobodys])
        self._steps.advance(span)
        return span


class RowsOneByOne:
    """The storages of one layer: Attending, one by one."""

    def __init__(self, rows: Sequence[KeyValues]) -> None:
        self._rows = rows

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
        parts = zip(self._rows, span.rows, apart(queries), apart(keys), apart(values), strict=True)
        return mx.concatenate(
            [storage.attend(q, k, v, row, scale=scale, sinks=sinks) for storage, row, q, k, v in parts]
        )

    def look(self, queries: mx.array, span: Span, *, scale: float, sinks: mx.array | None = None) -> mx.array:
        parts = zip(self._rows, span.rows, apart(queries), strict=True)
        return mx.concatenate([storage.look(q, row, scale=scale, sinks=sinks) for storage, row, q in parts])


class LatentRows:
    """The storages of one layer of latent attention."""

    def __init__(self, rows: Sequence[LatentCache]) -> None:
        self._rows = rows

    @property
    def offset(self) -> int:
        """The largest of the rows'."""
        return max(row.offset for row in self._rows)

    def write(self, new: mx.array) -> None:
        for storage, part in zip(self._rows, apart(new), strict=True):
            storage.write(part)

    def look(self, queries: mx.array, span: Span, *, scale: float) -> mx.array:
        parts = zip(self._rows, span.rows, apart(queries), strict=True)
        return mx.concatenate([storage.look(q, row, scale=scale) for storage, row, q in parts])

    def kept(self) -> mx.array:
        raise NotImplementedError("rows of different lengths are no array; a layer absorbs one position")

    def mask(self, span: Span) -> Mask:
        raise NotImplementedError("see `kept`")


class RecurrentRows:
    """The storages of one recurrent layer: their states become one, and stay one while the same rows go on."""

    def __init__(self, rows: Sequence[RecurrentCache]) -> None:
        self._rows = rows

    @property
    def state(self) -> State:
        """Every row has one: its prompt was fed."""
        if len(self._rows) == 1:
            return self._rows[0].state or ()
        held = [row.held or Held(()) for row in self._rows]
        whole = held[0].whole
        if all(array.shape[0] == len(held) for array in whole) and all(
            one.whole is whole and one.row == number for number, one in enumerate(held)
        ):
            return whole
        states = [one.alone().whole for one in held]
        return tuple(mx.concatenate(list(parts)) for parts in zip(*states, strict=True))

    def replace(self, state: State, length: int) -> None:
        if len(self._rows) == 1:
            self._rows[0].replace(state, length)
            return
        for number, storage in enumerate(self._rows):
            storage.replace(state, length, number)


def _by_layer(
    rows: Sequence[Mapping[int, Storage]], make: Callable[[Sequence[Storage]], Rows]
) -> dict[int, Rows]:
    return {layer: make([row[layer] for row in rows]) for layer in rows[0]}
