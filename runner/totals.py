"""What was counted since the process began, of all requests together.

The MLX thread counts; for every token it adds twice and searches among a dozen numbers. Anyone may read, at any
time, and may find a number from which the last token is missing. Ends are counted on any thread.

Knows nothing about requests or who reads.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from runner.types import NS_PER_S

End = Literal["stop", "length", "cancelled", "error", "refused"]
"""refused: it had no room in the queue, or could not begin as it was."""

FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
GAP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Measured(NamedTuple):
    """What a Histogram has seen. counts: of each bound in seconds what was not longer, but longer than the bound
    before; one more for what was longer than all.
    """

    bounds_s: Sequence[float]
    counts: Sequence[int]
    total_s: float


class Histogram:
    """How many durations were how long."""

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self._bounds_s = bounds_s
        self._bounds_ns = [round(bound * NS_PER_S) for bound in bounds_s]
        self._counts = [0] * (len(bounds_s) + 1)
        self._total_ns = 0

    def add(self, duration_ns: int) -> None:
        self._counts[bisect_left(self._bounds_ns, duration_ns)] += 1
        self._total_ns += duration_ns

    def read(self) -> Measured:
        return Measured(self._bounds_s, tuple(self._counts), self._total_ns / NS_PER_S)


class Totals:
    """One for a process, whatever models it loads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends = dict.fromkeys(get_args(End), 0)
        self.hits = 0  # requests that found a part of their prompt in a slot
        self.misses = 0
        # Of prompts that were fed to their end:
        self.prompt_tokens = 0
        self.cached_tokens = 0  # of these, what was not fed since a slot had it
        self.prompt_ns = 0
        self.generated_tokens = 0  # end-of-sequence tokens left out, as everywhere
        self.first_token = Histogram(FIRST_TOKEN_S)  # since the request was queued
        self.gaps = Histogram(GAP_S)  # between two tokens of an answer

    def ended(self, end: End) -> None:
        """A request is over; once for each of them."""
        with self._lock:
            self._ends[end] += 1

    @property
    def ends(self) -> Mapping[str, int]:
        """Requests by their end."""
        return dict(self._ends)

    def matched(self, tokens: int) -> None:
        """A request found so many tokens of its prompt in a slot."""
        if tokens:
            self.hits += 1
        else:
            self.misses += 1
