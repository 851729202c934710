"""Whether the threads of this process do anything, on a machine that may be busy with others.

Knows nothing about what they do.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

TASKS = Path("/proc/self/task")
BUSY = ("R", "D")  # has a processor or waits for one; waits for a disk, as who is paged in does
IDLE_S = 0.005  # of a processor, in a second or so


class Work:
    """Belongs to one thread, which does not count."""

    def __init__(self) -> None:
        self._claimed: dict[str, float] = {}

    def goes_on(self) -> bool:
        """Whether any thread had a processor, or waited for one, since this was asked last."""
        states, before = {}, self._claimed
        self._claimed = {}
        for task, claimed_s, state in _tasks():
            self._claimed[task], states[task] = claimed_s, state
        return any(
            state in BUSY or self._claimed[task] - before.get(task, 0.0) > IDLE_S
            for task, state in states.items()
        )


def _tasks() -> list[tuple[str, float, str]]:
    """Of each other thread its seconds on or before a processor, and its state; where no system tells, of all
    together those on one.
    """
    own, found = str(threading.get_native_id()), []
    for task in os.listdir(TASKS) if TASKS.exists() else ():
        with contextlib.suppress(OSError):  # it ended
            had, waited, _ = (TASKS / task / "schedstat").read_text().split()
            state = (TASKS / task / "stat").read_text().rpartition(")")[2].split()[0]
            if task != own:
                found.append((task, (int(had) + int(waited)) / 1e9, state))
    return found or [("", time.process_time(), "")]
