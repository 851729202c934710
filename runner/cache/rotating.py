"""Bounded storage for a layer whose attention reaches back only `window` positions.

Rows hold the positions [start, offset), oldest first, in buffers of about two windows. When they are full, the rows
that are still needed move to the front of new ones, so a step copies a few rows on average and what attention sees
is one slice in order, as in `windowed.py`, whose masks are right here too. (A ring of exactly one window would save
the other half, but every chunk would have to be put in order first, and no rewind could ever be exact.)

A query at position i needs [i - window + 1, i], so after `rewind(to)` the last window - 1 positions before `to`
count; the answer is False if one of them is gone. What moves is more than attention needs, by half a window: so far
back from the furthest position ever written, and often further, a rewind is always possible. Further back it is at
checkpoints: the rows that count there are copied out, a few more with them (`runs.py`).

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import mlx.core as mx

from runner.cache import runs
from runner.cache.buffer import Buffer
from runner.cache.need import Need
from runner.cache.points import BOUND
from runner.cache.runs import Run, Runs
from runner.cache.saved import Saved, cut, starts
from runner.cache.windowed import WindowedKVCache

LEEWAY = 16  # positions before a checkpoint that are in reach too; more than a template writes anew


class RotatingKVCache(WindowedKVCache):
    """A WindowedKVCache that forgets; its capacity is at most 2 * window + the longest chunk."""

    def __init__(self, window: int) -> None:
        super().__init__(window)
        # Rows kept beyond the window, and rows to write before the next move.
        self._spare = max(1, window // 2)
        self._runs: Runs = ()
        self._kept_bytes = 0

    @property
    def leeway(self) -> int:
        return min(LEEWAY, self._spare + 1)

    @property
    def nbytes(self) -> int:
        return super().nbytes + self.kept_bytes

    @property
    def kept_bytes(self) -> int:
        return self._kept_bytes

    def rewind(self, to: int) -> bool:
        if not 0 <= to <= self._held or self.restorable(to) != to:
            return False
        if not self._has(to):
            self._restore(to)
        self._start = min(self._start, to)  # where nothing is needed, nothing needs to be left
        self._held = to
        self._hold(runs.cut(self._runs, to))
        return True

    def restorable(self, to: int) -> int:
        to = min(to, self._held)
        if self._has(to):
            return to
        for start, end in reversed(runs.stretches(self._runs)):
            furthest = min(to, end)
            if self._first(furthest) >= start:
                return furthest
        return 0

    def checkpoint(self) -> list[mx.array]:
        """Contiguous copies, since a slice would hold on to the whole buffer."""
        held = self._runs
        first = max(self._start, self._first(self._held) - LEEWAY)
        for start, end in runs.missing(self._runs, first, self._held):
            rows = start - self._start, end - self._start
            keys, values = (mx.contiguous(buffer.read(*rows)) for buffer in (self._keys, self._values))
            held += (Run(start, end, keys, values),)
        fresh = [array for run in held[len(self._runs) :] for array in (run.keys, run.values)]
        self._hold(tuple(sorted(held, key=lambda run: run.start)))
        return fresh

    def keep(self, checkpoints: Iterable[int]) -> None:
        self._hold(runs.kept(self._runs, [*checkpoints], self.window - 1 + LEEWAY))

    def reserve(self, total: int) -> None:
        """The room is the same for every total."""

    def need(self) -> Need:
        """What the buffers hold, and copies for the least number of checkpoints."""
        row = (self._keys.nbytes + self._values.nbytes) // max(1, self.capacity)
        checkpoint = self.window + self.leeway
        return Need(row, most=self.window - 1 + 2 * self._spare + BOUND.least * checkpoint)

    def save(self) -> dict[str, mx.array]:
        saved = super().save()
        for run in self._runs:
            kept = slice(run.end - run.start)
            saved |= cut("run_keys", run.keys[..., kept, :], run.start)
            saved |= cut("run_values", run.values[..., kept, :], run.start)
        return saved

    def restore(self, saved: Saved, to: int) -> None:
        self._hold(runs.cut(tuple(_runs(saved, to)), to))
        first, needed = min(starts(saved, "keys"), default=to), self._first(to)
        if needed == to:
            self._start = self._held = to
        elif first <= needed:
            self._start = self._held = first
            super().restore(saved, to)
        elif any(start <= needed and to <= end for start, end in runs.stretches(self._runs)):
            self._restore(to)
        else:
            raise ValueError(f"nothing to go back to {to} with")

    def _write(self, keys: mx.array, values: mx.array, length: int) -> None:
        if self._used + length > self._keys.rows:
            self._move(length, keys, values)
        start, end = self._used, self._used + length
        self._keys.write(start, end, keys)
        self._values.write(start, end, values)
        self._held += length

    def _move(self, length: int, keys: mx.array, values: mx.array) -> None:
        """Take new buffers that begin with the rows that are still needed and have room for `length` more."""
        used = self._used
        kept = min(used, self.window - 1 + self._spare)
        rows = kept + length + self._spare
        self._keys.resize(rows, keys, slice(used - kept, used))
        self._values.resize(rows, values, slice(used - kept, used))
        self._start = self._held - kept

    def _shown(self, length: int) -> tuple[int, int]:
        return self._used - self._reach(length), self._used

    def _first(self, to: int) -> int:
        """The first position that a query at `to` needs beside itself; `to` if none."""
        return max(0, to - self.window + 1)

    def _has(self, to: int) -> bool:
        """Whether the buffers hold what a query at `to` needs."""
        # If what `to` needs is gone, so is what any position before it needs; only 0 needs nothing.
        return self._start <= self._first(to) or self._first(to) == to

    def _restore(self, to: int) -> None:
        """Take new buffers that begin with what a query at `to` needs."""
        first = self._first(to)
        keys, values = runs.read(self._runs, first, to)
        self._keys, self._values = Buffer(), Buffer()
        self._start = self._held = first
        self._write(keys, values, to - first)

    def _hold(self, held: Runs) -> None:
        self._runs = held
        self._kept_bytes = sum(run.keys.nbytes + run.values.nbytes for run in held)

    @property
    def _used(self) -> int:
        return self._held - self._start


def _runs(saved: Saved, to: int) -> Iterator[Run]:
    """Those that begin before a position."""
    for start in starts(saved, "run_keys"):
        if start < to:
            keys, values = saved[f"run_keys.{start}"], saved[f"run_values.{start}"]
            yield Run(start, start + keys.shape[2], keys, values)
