"""The way to the MLX thread: a queue of jobs under one lock.

Jobs come out in their order, when the thread says that the first one may begin. At most `limit` requests wait; the
next one is refused with Busy. A request that is cancelled while it waits leaves the queue at once and costs the
thread nothing.

Knows nothing about models or arrays.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from runner.errors import Busy, RunnerError, ShuttingDown
from runner.totals import Totals
from runner.types import Failed, GenerateRequest, Outlet


class GenerateJob:
    """A request on its way to the thread. Its methods may be called from any thread, at any time, repeatedly."""

    def __init__(self, request: GenerateRequest, outlet: Outlet, jobs: Jobs) -> None:
        self.request = request
        self.outlet = outlet
        self.cancelled = threading.Event()
        self.arrived_ns = time.perf_counter_ns()
        self._jobs = jobs

    def cancel(self) -> None:
        """Nobody wants the answer any more."""
        self.cancelled.set()
        self._jobs.leave(self)

    def resume(self) -> None:
        """The outlet has room again."""
        self._jobs.wake()


@dataclass(frozen=True, slots=True)
class CallJob:
    """Something else to do between two requests, or between two steps."""

    call: Callable[[], object]
    result: Future[Any]
    between_steps: bool = False


Job = GenerateJob | CallJob


class Jobs:
    """Only `next`, `put_back` and `put_first` belong to the thread."""

    def __init__(self, limit: int, totals: Totals) -> None:
        self._limit = limit
        self._totals = totals
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._woken = False  # since the last job: something may be possible that was not

    @property
    def stopping(self) -> bool:
        """Whether no more jobs are taken."""
        return self._stopping

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        with self._changed:
            return self._waiting()

    def generate(self, request: GenerateRequest, outlet: Outlet) -> GenerateJob:
        """Queue a request. Raises Busy or ShuttingDown."""
        job = GenerateJob(request, outlet, self)
        with self._changed:
            if self._stopping:
                raise ShuttingDown
            if self._waiting() >= self._limit:
                self._totals.ended("refused")
                raise Busy(self._limit)
            self._jobs.append(job)
            self._notify()
        return job

    def call(self, call: Callable[[], object], *, between_steps: bool = False) -> Future[Any]:
        """Queue something else. between_steps: before all others. Raises ShuttingDown."""
        job = CallJob(call, Future(), between_steps)
        with self._changed:
            if self._stopping:
                raise ShuttingDown
            if between_steps:
                self._jobs.appendleft(job)
            else:
                self._jobs.append(job)
            self._notify()
        return job.result

    def stop(self) -> None:
        """Take no more jobs, and refuse the requests that wait."""
        with self._changed:
            self._stopping = True
            waiting = list(self._jobs)
            self._jobs.clear()
            self._notify()
        for job in waiting:
            _refuse(job, ShuttingDown())

    def leave(self, job: GenerateJob) -> None:
        """Take a cancelled job out of the queue, if it is still there."""
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
                self._totals.ended("cancelled")
            self._notify()

    def wake(self) -> None:
        """Something may be possible that was not."""
        with self._changed:
            self._notify()

    def next(
        self, may_begin: Callable[[Job], bool], has_work: Callable[[], bool], patience_s: float | None
    ) -> Job | None:
        """Wait for a job that may begin; None if there is other work since somebody woke us, at the end, or when
        nothing came for so long. patience_s: None for any time.
        """
        with self._changed:
            while not (self._may_begin(may_begin) or self._stopping or (self._woken and has_work())):
                if not self._changed.wait(patience_s):
                    return None
            self._woken = False
            return self._jobs.popleft() if self._may_begin(may_begin) else None

    def put_back(self, job: GenerateJob) -> None:
        """The request is the next one again, when another one has ended."""
        with self._changed:
            stopping, cancelled = self._stopping, job.cancelled.is_set()
            if not stopping and not cancelled:
                ahead = takewhile(
                    lambda other: isinstance(other, CallJob) and other.between_steps, self._jobs
                )
                self._jobs.insert(sum(1 for _ in ahead), job)
        if stopping:
            _refuse(job, ShuttingDown())
        elif cancelled:
            self._totals.ended("cancelled")

    def put_first(self, call: Callable[[], object]) -> None:
        """Something for which nobody waits, before all others."""
        with self._changed:
            self._jobs.appendleft(CallJob(call, Future()))

    def _may_begin(self, may_begin: Callable[[Job], bool]) -> bool:
        return bool(self._jobs) and may_begin(self._jobs[0])

    def _waiting(self) -> int:
        return sum(isinstance(job, GenerateJob) for job in self._jobs)

    def _notify(self) -> None:
        self._woken = True
        self._changed.notify()


def _refuse(job: Job, error: RunnerError) -> None:
    if isinstance(job, GenerateJob):
        job.outlet.emit(Failed(str(error), error.status))
    elif job.result.set_running_or_notify_cancel():
        job.result.set_exception(error)
