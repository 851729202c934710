"""Counts and durations of one request, from a clock that no change of the wall time moves, and their part of all.

Knows nothing about what is counted.
"""

from __future__ import annotations

import time

from runner.totals import End, Totals
from runner.types import NS_PER_S, Usage


class Meter:
    """Starts when it is made. Prompt time ends, and generation time begins, with the first token read."""

    def __init__(self, totals: Totals, arrived_ns: int | None = None) -> None:
        """arrived_ns: when the request was queued, on the same clock; None: now."""
        self._totals = totals
        self._start = time.perf_counter_ns()
        self._arrived = self._start if arrived_ns is None else arrived_ns
        self._first: int | None = None
        self._last = 0  # when the last token was read
        self.prompt = 0
        self.cached = 0
        self.generated = 0

    def token_read(self) -> None:
        """A token came back from the device, EOS included."""
        now = time.perf_counter_ns()
        if self._first is None:
            self._first = now
            self._prompt_over(now)
        else:
            self._totals.gaps.add(now - self._last)
        self._last = now

    def token_generated(self) -> None:
        """The token that was read is one of the answer."""
        self.generated += 1
        self._totals.generated_tokens += 1

    def ended(self, end: End) -> None:
        self._totals.ended(end)

    def usage(self) -> Usage:
        now = time.perf_counter_ns()
        first = now if self._first is None else self._first
        return Usage(self.prompt, self.cached, first - self._start, self.generated, now - first)

    def _prompt_over(self, now: int) -> None:
        totals = self._totals
        totals.prompt_tokens += self.prompt
        totals.cached_tokens += self.cached
        totals.prompt_ns += now - self._start
        totals.first_token.add(now - self._arrived)


def rate(tokens: int, duration_ns: int) -> float:
    """Tokens per second; 0.0 where no time passed."""
    return round(tokens * NS_PER_S / duration_ns, 1) if duration_ns > 0 else 0.0
