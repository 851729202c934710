"""Counts and durations of one request, from a clock that no change of the wall time moves.

Knows nothing about what is counted.
"""

from __future__ import annotations

import time

from runner.types import NS_PER_S, Usage


class Meter:
    """Starts when it is made. Prompt time ends, and generation time begins, with the first token read."""

    def __init__(self) -> None:
        self._start = time.perf_counter_ns()
        self._first: int | None = None
        self.prompt = 0
        self.cached = 0
        self.generated = 0

    def token_read(self) -> None:
        """A token came back from the device, EOS included."""
        if self._first is None:
            self._first = time.perf_counter_ns()

    def usage(self) -> Usage:
        now = time.perf_counter_ns()
        first = now if self._first is None else self._first
        return Usage(self.prompt, self.cached, first - self._start, self.generated, now - first)


def rate(tokens: int, duration_ns: int) -> float:
    """Tokens per second; 0.0 where no time passed."""
    return round(tokens * NS_PER_S / duration_ns, 1) if duration_ns > 0 else 0.0
