"""What rank 0 waits for in a step, and whether it waits in vain: a follower's part of a sum may never come.

A step that takes long is not one that hangs. What tells the two apart differs with the device:

- On a CPU a process that computes, or waits for a sum in a ring, has a processor or waits for one; one that hangs
  does not. So there a wait is in vain after PATIENCE_S, if a follower is still (`life.py`).
- A GPU computes without the process. There a wait is in vain after TIMES what waits of its kind took before, and
  PATIENCE_S at least. The first one of a kind may compile kernels for a minute: nothing is foretold of it. What it
  took is forgotten by and by.

Looks are counted, as in `life.py`.

Knows nothing about sockets, plans or arrays.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Hashable, Iterator

LOOK_S = 0.25
PATIENCE_S = 3.5
TIMES = 10
FORGOTTEN = 0.9  # of what the slowest one took there is left behind each next one
KINDS = 256


class Wait:
    """One of them."""

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s


class Waits:
    """`on` belongs to the thread that computes, `look` to another one."""

    def __init__(self, *, foretells: bool) -> None:
        """foretells: a wait is in vain only beside others of its kind."""
        self.foretells = foretells
        self._slowest: dict[Hashable, float] = {}
        self._wait: Wait | None = None
        self._looked_at: Wait | None = None
        self._stuck_s = 0.0

    @contextlib.contextmanager
    def on(self, kind: Hashable) -> Iterator[None]:
        """While something is waited for. kind: None for what is like nothing else."""
        self._wait = Wait(self.patience_s(kind))
        started = time.monotonic()
        try:
            yield
        finally:
            self._wait = None
            self.took(kind, time.monotonic() - started)

    def patience_s(self, kind: Hashable) -> float:
        """How long a wait of this kind may last."""
        if not self.foretells:
            return PATIENCE_S
        slowest = None if kind is None else self._slowest.get(kind)
        return math.inf if slowest is None else max(PATIENCE_S, TIMES * slowest)

    def took(self, kind: Hashable, seconds: float) -> None:
        """So long a wait of this kind lasted."""
        if len(self._slowest) >= KINDS and kind not in self._slowest:
            self._slowest.clear()
        self._slowest[kind] = max(seconds, FORGOTTEN * self._slowest.get(kind, 0.0))

    def look(self) -> float:
        """For how long the same thing has been waited for in vain; 0 for not yet. Called every LOOK_S."""
        wait = self._wait
        self._stuck_s = self._stuck_s + LOOK_S if wait is not None and wait is self._looked_at else 0.0
        self._looked_at = wait
        return self._stuck_s if wait is not None and self._stuck_s >= wait.patience_s else 0.0
