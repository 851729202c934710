"""What ends a runner that is stuck: a thread that looks at the MLX thread, and a process that looks at that thread.

The thread sees an MLX thread that waits for a device or a disk, or computes without an end. Python runs on
then, and open answers are told. What stops Python itself is seen by the process beside (`watcher.py`): the thread
writes a byte to it each time that it looks.

Stuck is what stays at one beat for so many looks. Looks are counted and no clock is read, so that a process or a
machine that stood still for a night does not seem stuck in the morning.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from runner.types import Pulse

log = logging.getLogger(__name__)

SILENCE_S = 600  # of a GIL that is held; a large tokenizer.json was seen to take 0.9 s
LOOK_S = 5.0
LOOKS = 4  # at least, within anybody's patience
NOT_OURS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
PROGRAM = Path(__file__).with_name("watcher.py")


class Watched(Protocol):
    """The worker, as far as this file knows it."""

    @property
    def pulse(self) -> Pulse: ...

    def where(self) -> str: ...


class Watcher:
    """Our end of the pipe to the process beside."""

    def __init__(self, process: int, pipe: int) -> None:
        self.process = process
        self.is_forming = False  # from here on, a group of processes
        self._pipe: int | None = pipe
        os.set_blocking(pipe, False)

    def form(self, *, over: bool = False) -> None:
        """A group begins to form, or it is there."""
        self.is_forming = not over
        self.beat()

    def beat(self) -> None:
        """Say that Python runs; notice that nobody is there to hear it."""
        if self._pipe is None:
            return
        try:
            with contextlib.suppress(BlockingIOError):  # it is stopped, and will find enough to read
                os.write(self._pipe, b"!" if self.is_forming else b".")
        except BrokenPipeError:
            os.close(self._pipe)
            self._pipe = None
            with contextlib.suppress(ChildProcessError):  # our parent ignores SIGCHLD, and so do we then
                os.waitpid(self.process, 0)
            log.warning("The process that watches this one is gone; threads watch on")


def start_watcher(patience_s: int | None, *, hosted: bool) -> Watcher | None:
    """The process beside; None where there is none.

    A child of process 1 has none. It ends with its host anyway, since that is the end of its container or machine.
    And process 1 of a container may be a host that never asks after children of others: each watcher that outlived
    its runner for a millisecond would stay there as a zombie.
    """
    host = os.getppid()
    if host <= 1:
        return None
    silence_s = SILENCE_S if patience_s is None else patience_s
    reading, writing = os.pipe()
    # With all else: Python may find its own library by LD_LIBRARY_PATH.
    environment = {name: value for name, value in os.environ.items() if name != "MLX_RUNNER_TOKEN"}
    arguments = [sys.executable, "-I", "-S", str(PROGRAM)]
    arguments += [str(os.getpid()), str(host if hosted else 0), str(silence_s)]
    actions = [(os.POSIX_SPAWN_DUP2, reading, 0), (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    try:
        process = os.posix_spawn(
            sys.executable,
            arguments,
            environment,
            file_actions=actions,
            setsigmask=NOT_OURS,
            setsigdef=NOT_OURS,
        )
    except OSError as error:
        os.close(writing)
        log.warning("No process watches this one; threads do", extra={"reason": error.strerror})
        return None
    finally:
        os.close(reading)
    return Watcher(process, writing)


class Watchdog:
    """The thread. patience_s: None for the worker's own, 0 for any."""

    def __init__(
        self,
        worker: Watched,
        watcher: Watcher | None,
        patience_s: int | None,
        on_stuck: Callable[[str], None],
    ) -> None:
        self._worker = worker
        self._watcher = watcher
        self._patience_s = patience_s
        self._on_stuck = on_stuck
        self._beats = -1
        self._stuck_s = 0.0
        self.look_s = min(LOOK_S, (patience_s or SILENCE_S) / LOOKS)

    def start(self) -> None:
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def _run(self) -> None:
        while True:
            self.look()
            time.sleep(self.look_s)

    def look(self) -> None:
        """One look; `on_stuck` is called with what is wrong."""
        if self._watcher is not None:
            self._watcher.beat()
        work, beats, patience_s = self._worker.pulse
        if self._patience_s is not None:
            patience_s = self._patience_s or float("inf")
        self._stuck_s = self._stuck_s + self.look_s if work and beats == self._beats else 0.0
        self._beats = beats
        if self._stuck_s >= patience_s:
            self._stuck_s = 0.0
            log.critical("The MLX thread is stuck", extra={"work": work, "where": self._worker.where()})
            self._on_stuck(
                f"the MLX thread is stuck: {work} came no further for {patience_s:g} s (MLX_RUNNER_WATCHDOG)"
            )
