"""Runs: keys and values of consecutive positions, copied out of a buffer that is about to lose them.

Checkpoints that are close share their rows: each adds only what the runs of the others lack. So many of them hold
hardly more than all positions once.

K key/value heads, L positions of a run, D head width.

Knows nothing about tokens, models or requests.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import mlx.core as mx


class Run(NamedTuple):
    """Positions [start, end): keys and values [1,K,L,D], of which the first end - start count."""

    start: int
    end: int
    keys: mx.array
    values: mx.array


Runs = tuple[Run, ...]
"""In order, none over another. A new one is made for every change."""


def missing(runs: Runs, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of [start, end) that no run has."""
    for run in runs:
        if run.end > start and run.start < end:
            if start < run.start:
                yield start, run.start
            start = run.end
    if start < end:
        yield start, end


def stretches(runs: Runs) -> list[tuple[int, int]]:
    """What runs cover without a gap, as [start, end)."""
    covered: list[tuple[int, int]] = []
    for run in runs:
        if covered and covered[-1][1] == run.start:
            covered[-1] = covered[-1][0], run.end
        else:
            covered.append((run.start, run.end))
    return covered


def read(runs: Runs, start: int, end: int) -> tuple[mx.array, mx.array]:
    """Keys and values [1,K,end-start,D] of positions that are covered."""
    parts = [
        (run, slice(max(start, run.start) - run.start, min(end, run.end) - run.start))
        for run in runs
        if run.end > start and run.start < end
    ]
    keys = mx.concatenate([run.keys[..., part, :] for run, part in parts], axis=2)
    return keys, mx.concatenate([run.values[..., part, :] for run, part in parts], axis=2)


def cut(runs: Runs, to: int) -> Runs:
    """Without the positions from `to` on."""
    return tuple(run._replace(end=min(run.end, to)) for run in runs if run.start < to)


def kept(runs: Runs, ends: Sequence[int], reach: int) -> Runs:
    """Those that have one of the `reach` positions before one of `ends`, which are in order."""

    def is_wanted(run: Run) -> bool:
        nearest = bisect_right(ends, run.start)  # the first end behind the run's beginning
        return nearest < len(ends) and ends[nearest] - reach < run.end

    return tuple(filter(is_wanted, runs))
