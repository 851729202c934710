"""The MLX thread: the only place where arrays are made, evaluated and freed.

Rules, all of them because MLX's streams belong to the thread that made them (an array that is not evaluated
yet cannot be evaluated on another one):

1. Everything that touches an array is a job of this thread: loading, generating, freeing, asking for memory.
2. Jobs run one at a time, first in, first out. So two requests never share the cache, and a load begins
   when the request before it has ended.
3. The way in is a queue of jobs under one lock; the way out of a generate job is the `emit` it came with,
   of a load job its future. Nothing else leaves, except the Status snapshot, which is replaced as a whole.
4. At most `limit` generate jobs wait; the next one is refused with Busy. A job that is cancelled while it
   waits leaves the queue at once and costs the thread nothing.
5. A job ends with exactly one Done or Failed, whatever happens in it. The job loop is the project's only
   catch-all: it turns the exception into text, forgets it (a kept exception keeps its frames, and those keep
   arrays), drops the cache entry and takes the next job.
6. A model is replaced as a whole, after the new one is complete. A failed load changes nothing.
7. If the thread itself dies, `on_death` is called: a runner that answers /health but no prompt is worse than
   none.

Knows nothing about HTTP or asyncio.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from runner.errors import Busy, ModelNotLoaded, RunnerError, ShuttingDown
from runner.generation.pipeline import Emit, generate
from runner.loading.loaded_model import LoadedModel
from runner.loading.loader import load
from runner.machine import device
from runner.store.resolve import DEFAULT_STORE, open_model
from runner.text.tokenizer import Tokenizer
from runner.types import Failed, GenerateRequest, Status

log = logging.getLogger(__name__)


class GenerateJob:
    """A request on its way to the thread. `cancel` may be called from any thread, at any time, repeatedly."""

    def __init__(self, request: GenerateRequest, emit: Emit, leave: Callable[[GenerateJob], None]) -> None:
        self.request = request
        self.emit = emit
        self.cancelled = threading.Event()
        self._leave = leave

    def cancel(self) -> None:
        self.cancelled.set()
        self._leave(self)


@dataclass(frozen=True, slots=True)
class CallJob:
    """Something else to do between two requests."""

    call: Callable[[], None]
    result: Future[None]


Job = GenerateJob | CallJob


class Worker:
    """Owns the thread and, through it, the loaded model."""

    def __init__(
        self,
        limit: int,
        on_death: Callable[[str], None],
        store: Path = DEFAULT_STORE,
        *,
        packed: bool = False,  # see `loader.load`
    ) -> None:
        self._limit = limit
        self._on_death = on_death
        self._store = store
        self._packed = packed
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._running: GenerateJob | None = None
        self._loaded: LoadedModel | None = None
        self._status = Status()
        self._thread = threading.Thread(target=self._live, name="mlx", daemon=True)

    # Called from other threads.

    def start(self) -> None:
        self._thread.start()

    @property
    def status(self) -> Status:
        return self._status

    @property
    def tokenizer(self) -> Tokenizer:
        """The loaded model's tokenizer, safe on any thread. Raises ModelNotLoaded."""
        loaded = self._loaded
        if loaded is None:
            raise ModelNotLoaded
        return loaded.tokenizer

    def require_model(self) -> None:
        """Raises ModelNotLoaded."""
        if self._loaded is None:
            raise ModelNotLoaded

    def generate(self, request: GenerateRequest, emit: Emit) -> GenerateJob:
        """Queue a request. Raises Busy or ShuttingDown; every later trouble is a Failed through `emit`."""
        job = GenerateJob(request, emit, self._leave_queue)
        with self._changed:
            if self._stopping:
                raise ShuttingDown
            if sum(isinstance(waiting, GenerateJob) for waiting in self._jobs) >= self._limit:
                raise Busy(self._limit)
            self._put(job)
        return job

    def load(self, reference: str) -> Future[None]:
        """Load a model after the jobs before it; the future's exception says why it failed."""
        return self._call(lambda: self._load(reference))

    def unload(self) -> Future[None]:
        """Free the model after the jobs before it."""
        return self._call(self._unload)

    def stop(self) -> None:
        """Take no more jobs, refuse those that wait, cancel what runs, let the thread end after its step."""
        with self._changed:
            self._stopping = True
            waiting = list(self._jobs)
            self._jobs.clear()
            if self._running is not None:
                self._running.cancelled.set()
            self._changed.notify()
        for job in waiting:
            _refuse(job, ShuttingDown())

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; False if it did not."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _call(self, call: Callable[[], None]) -> Future[None]:
        job = CallJob(call, Future())
        with self._changed:
            if self._stopping:
                raise ShuttingDown
            self._put(job)
        return job.result

    def _put(self, job: Job) -> None:
        self._jobs.append(job)
        self._changed.notify()

    def _leave_queue(self, job: GenerateJob) -> None:
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)

    # The thread.

    def _live(self) -> None:
        try:
            device.prepare()
            while job := self._next():
                if isinstance(job, GenerateJob):
                    self._generate(job)
                else:
                    self._run_call(job)
            device.leave()
        except BaseException as error:  # rule 7; nobody is left who could handle it
            log.critical("MLX thread died", exc_info=True)
            self._on_death(f"the MLX thread died: {type(error).__name__}: {error}")

    def _next(self) -> Job | None:
        with self._changed:
            self._running = None
            while not self._jobs and not self._stopping:
                self._changed.wait()
            if self._stopping:
                return None
            job = self._jobs.popleft()
            if isinstance(job, GenerateJob):
                self._running = job
            return job

    def _generate(self, job: GenerateJob) -> None:
        try:
            if self._loaded is None:
                raise ModelNotLoaded
            generate(self._loaded, job.request, job.emit, job.cancelled, self._housekeep)
        except RunnerError as error:
            job.emit(Failed(str(error), error.status))
        except Exception as error:  # rule 5
            log.exception("Completion failed")
            job.emit(Failed(explain(error)))
            if self._loaded is not None:
                self._loaded.prefix.drop()
        self._housekeep()

    def _run_call(self, job: CallJob) -> None:
        if not job.result.set_running_or_notify_cancel():
            return
        try:
            job.call()
        except RunnerError as error:
            job.result.set_exception(_bare(error))
        except Exception as error:  # rule 5
            log.exception("Job failed")
            job.result.set_exception(RunnerError(explain(error)))
        else:
            job.result.set_result(None)
        self._housekeep()

    def _load(self, reference: str) -> None:
        try:
            loaded = load(
                open_model(reference, self._store),
                lambda share: self._publish(progress=int(100 * share)),
                packed=self._packed,
            )
        except Exception:
            self._publish(progress=100 if self._loaded else 0)
            raise
        self._loaded = loaded
        self._publish(ready=True, model=loaded.name, context_length=loaded.context_length)

    def _unload(self) -> None:
        self._loaded = None
        self._publish(ready=False, model="", context_length=0, progress=0)

    def _housekeep(self) -> None:
        device.release_buffers()
        self._publish(memory=device.memory_used())

    def _publish(self, **changes: object) -> None:
        self._status = replace(self._status, **changes)  # type: ignore[arg-type]  # names checked by replace


def _refuse(job: Job, error: RunnerError) -> None:
    if isinstance(job, GenerateJob):
        job.emit(Failed(str(error), error.status))
    elif job.result.set_running_or_notify_cancel():
        job.result.set_exception(error)


def _bare(error: RunnerError) -> RunnerError:
    """The same error without the frames and causes that would keep arrays alive."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


def explain(error: Exception) -> str:
    """An exception as one line. Hosts know memory trouble by its words, and MLX's own are not among them."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "malloc]" in text or "Resource limit exceeded" in text:
        return f"out of memory: {text}"
    return text
