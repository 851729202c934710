"""The MLX thread: the only place where arrays are made, evaluated and freed.

Rules, all of them because MLX's streams belong to the thread that made them (an array that is not evaluated
yet cannot be evaluated on another one):

1. Everything that touches an array is a job of this thread: loading, generating, freeing, asking for memory.
2. Jobs begin in their order, first in, first out. A request begins when a slot is free; then it takes its part in
   each step until it ends. Anything else, a load above all, waits until the requests before it have ended, and
   the jobs behind it wait for it. Only the cache is emptied between two steps, since what a request has stays.
3. The way in is a queue of jobs (`jobs.py`); the way out of a request is the outlet that it came with, of
   another job its future. Nothing else leaves, except the Status snapshot, which is replaced as a whole, and the
   two numbers of what MLX holds, which any thread may read.
4. A request ends with exactly one Done or Failed, whatever happens to it. This thread's loop is one of three
   catch-alls (the others guard the tokenizers library and the translation of GBNF): it turns the exception
   into text, forgets it (a kept exception keeps its frames, and those keep
   arrays), fails the requests that took part in the step, and goes on.
5. The thread never waits for a reader: a request whose outlet has no room rests, and `wake` says that it has some.
6. A model is replaced as a whole, after the new one is complete. A failed load changes nothing.
7. If the thread itself dies, `on_death` is called: a runner that answers /health but no prompt is worse than
   none. So is one without a device: `on_lost_device` is called when a GPU failed at what it was given, and after
   SHORTAGES requests in a row that ran out of memory.
8. Whatever may take long is announced in `pulse` before it begins, so that another thread can see it stuck.

Knows nothing about HTTP or asyncio.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from runner.disk.folder import Folder
from runner.errors import (
    ModelNotLoaded,
    RunnerError,
    explain,
    is_lost_device,
    is_out_of_memory,
)
from runner.generation.engine import Engine
from runner.jobs import CallJob, GenerateJob, Job, Jobs
from runner.machine import device, memory
from runner.serving import Around, Serving, Terms
from runner.store.resolve import DEFAULT_STORE
from runner.text.tokenizer import Tokenizer
from runner.totals import Totals
from runner.types import (
    AS_COMPUTED,
    Failed,
    GenerateRequest,
    Grammar,
    KVType,
    Outlet,
    Pulse,
    SlotStatus,
    Status,
)

if TYPE_CHECKING:  # imported by who has any
    from runner.ranks.leader import Leader

log = logging.getLogger(__name__)

REST_AFTER_S = 5.0
SHORTAGES = 3


class DeviceLost(Exception):
    """Its memory does not come back, or it failed at what it was given."""


class Worker:
    """Owns the thread and, through it, the loaded model."""

    def __init__(
        self,
        limit: int,
        on_death: Callable[[str], None],
        store: Path = DEFAULT_STORE,
        *,
        packed: bool = False,  # see `loader.load`
        parallel: int = 1,  # requests answered at once
        context_length: int | None = None,  # tokens that a request may have, where the model has more
        kv_type: KVType = AS_COMPUTED,  # see `loader.load`
        on_lost_device: Callable[[str], None] | None = None,  # None: as on_death
        memory_budget: int | None = None,  # bytes that MLX may hold; None: a share of what there is
        cache_folder: Folder | None = None,  # where slots are saved
        ranks: Leader | None = None,  # other processes, which have a part of each model
        rest_after_s: float = REST_AFTER_S,  # without anything to do: then buffers are given back, slots saved
    ) -> None:
        self._on_death = on_death
        self._on_lost_device = on_lost_device or on_death
        self._memory_budget = memory_budget
        self._saves = cache_folder is not None
        self._ranks = ranks
        self._rest_after_s = rest_after_s
        self._is_rested = True  # every buffer that no array uses was given back
        self._shortages = 0  # since an answer was complete
        self._answered = 0  # by then
        self._status = Status()
        self._work, self._beats, self._patience_s = "", 0, math.inf
        self.totals = Totals()
        self._jobs = Jobs(limit, self.totals)
        self._serving = Serving(
            Terms(store, packed, parallel, context_length, kv_type, cache_folder),
            Around(self._load_progress, self._housekeep, self._jobs.wake),
            self.totals,
            ranks,
        )
        self._thread = threading.Thread(target=self._run, name="mlx", daemon=True)

    # Called from other threads.

    def start(self) -> None:
        self._thread.start()

    @property
    def status(self) -> Status:
        return replace(self._status, memory=memory.used())

    @property
    def pulse(self) -> Pulse:
        return Pulse(self._work, self._beats, self._patience_s)

    def where(self) -> str:
        """Where the thread is in our code, as a traceback shows it."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame is not None else ""

    @property
    def saves(self) -> bool:
        """Whether the thread may take a while to end."""
        return self._saves

    @property
    def tokenizer(self) -> Tokenizer:
        """The loaded model's tokenizer, safe on any thread. Raises ModelNotLoaded."""
        loaded = self._serving.loaded
        if loaded is None:
            raise ModelNotLoaded
        return loaded.tokenizer

    @property
    def waiting(self) -> int:
        """Requests that no slot was free for yet."""
        return self._jobs.waiting

    def require_model(self) -> None:
        """Raises ModelNotLoaded."""
        if self._serving.loaded is None:
            raise ModelNotLoaded

    def compile(self, grammar: Grammar) -> None:
        """Have a grammar ready for the loaded model, on the calling thread: up to two seconds. Raises BadGrammar,
        GrammarUnavailable or ModelNotLoaded.
        """
        loaded = self._serving.loaded
        if loaded is None:
            raise ModelNotLoaded
        loaded.grammars.compile(grammar)

    def generate(self, request: GenerateRequest, outlet: Outlet) -> GenerateJob:
        """Queue a request. Raises Busy or ShuttingDown; every later trouble is a Failed in the outlet."""
        return self._jobs.generate(request, outlet)

    def load(self, reference: str) -> Future[None]:
        """Load a model after the jobs before it; the future's exception says why it failed."""
        return self._jobs.call(lambda: self._load(reference))

    def unload(self) -> Future[None]:
        """Free the model after the jobs before it."""
        return self._jobs.call(self._unload)

    def empty_cache(self) -> Future[tuple[SlotStatus, ...]]:
        """Forget what slots hold that no request has, behind the step that is under way; what that was."""
        return self._jobs.call(self._serving.empty_cache, between_steps=True)

    def stop(self) -> None:
        """Take no more jobs, refuse those that wait, cancel what is live, let the thread end after its step."""
        self._jobs.stop()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; False if it did not."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # The thread.

    def _run(self) -> None:
        try:
            device.prepare()
            self._patience_s = device.patience_s()
            memory.allow(self._memory_budget)
            if self._ranks is not None:
                self._join(self._ranks)
            while self._turn():
                pass
            self._serving.save_all()
            device.leave()
        except DeviceLost as error:
            self._on_lost_device(str(error))
        except BaseException as error:  # rule 7; nobody is left who could handle it
            log.critical("MLX thread died", exc_info=True)
            self._on_death(f"the MLX thread died: {type(error).__name__}: {error}")

    def _join(self, ranks: Leader) -> None:
        self._beat("a group")
        memory.allow(ranks.share_of(memory.budget()))
        with self._serving.in_step():
            ranks.join(memory.budget())

    def _turn(self) -> bool:
        """Begin a job if one may begin, and take a step if any request is live; False when it is time to end."""
        self._beat("")
        job = self._next()
        self._beat("a rest" if job is None else "a job")
        if job is not None:
            self._serving.stop_saving()
        if isinstance(job, GenerateJob):
            self._admit(job)
        elif job is not None:
            self._run_call(job)
        elif not self._is_live and not self._jobs.stopping:
            self._rest()
        engine = self._serving.engine
        if engine is not None and engine.is_live:
            self._beat("a step")
            self._advance(engine)
        return self._is_live or not self._jobs.stopping

    def _beat(self, work: str) -> None:
        self._work = work
        self._beats += 1

    @property
    def _is_live(self) -> bool:
        engine = self._serving.engine
        return engine is not None and engine.is_live

    def _next(self) -> Job | None:
        """The next job that may begin; None for a step of what is live, for a rest, or at the end."""
        patience_s = None if self._is_rested or self._is_live else self._rest_after_s
        job = self._jobs.next(self._may_begin, lambda: self._is_live or self._serving.has_leisure, patience_s)
        self._is_rested = False
        return job

    def _may_begin(self, first: Job) -> bool:
        """Whether the first job of the queue can begin now."""
        if isinstance(first, GenerateJob):
            engine = self._serving.engine
            return engine is None or engine.has_room
        return first.between_steps or not self._is_live

    def _admit(self, job: GenerateJob) -> None:
        try:
            engine = self._serving.engine
            if engine is None:
                raise ModelNotLoaded
            if not engine.admit(job.request, job.outlet, job.cancelled, job.arrived_ns):
                self._jobs.put_back(job)
            self._publish(slots=self._serving.slots())
        except RunnerError as error:
            self.totals.ended("refused")
            job.outlet.emit(Failed(str(error), error.status))
        except Exception as error:  # rule 4
            log.exception("Completion failed")
            self.totals.ended("error")
            job.outlet.emit(Failed(explain(error)))

    def _advance(self, engine: Engine) -> None:
        try:
            if self._jobs.stopping:
                engine.cancel()
            elif not engine.advance():
                return  # until somebody wakes us
        except Exception as error:  # rule 4
            self._serving.end_all(error)
            if is_out_of_memory(error):
                why = explain(error)
                if engine.out_of_memory(why):
                    self._note_shortage(engine.answered, why)
            else:
                log.exception("Step failed")
                engine.fail(explain(error))
                if is_lost_device(error):
                    raise DeviceLost(f"the GPU failed: {explain(error)}") from error
        self._jobs.wake()

    def _note_shortage(self, answered: int, why: str) -> None:
        self._shortages = self._shortages + 1 if answered == self._answered else 1
        self._answered = answered
        if self._shortages == SHORTAGES:
            raise DeviceLost(f"{SHORTAGES} times in a row: {why}")

    def _run_call(self, job: CallJob) -> None:
        if not job.result.set_running_or_notify_cancel():
            return
        outcome = _outcome(job.call)
        self._housekeep()  # first, so that whoever has the result reads a status that knows of it
        if isinstance(outcome, RunnerError):
            job.result.set_exception(outcome)
        else:
            job.result.set_result(outcome)

    def _load(self, reference: str) -> None:
        try:
            later = self._serving.load(reference)
        except Exception:
            self._publish(progress=100 if self._serving.loaded else 0)
            raise
        self._tell_served()
        self._jobs.put_first(later)

    def _tell_served(self) -> None:
        """What is served now is another model."""
        loaded = self._serving.loaded
        assert loaded is not None
        self._shortages = self._answered = 0
        self._publish(
            ready=True,
            model=loaded.name,
            context_length=loaded.context_length,
            slots=self._serving.slots(),
            kv_type=loaded.kv_type,
        )

    def _load_progress(self, share: float) -> None:
        self._beat("a load")
        self._publish(progress=int(100 * share))

    def _unload(self) -> None:
        self._serving.unload()
        self._publish(ready=False, model="", context_length=0, progress=0, slots=(), kv_type=AS_COMPUTED)

    def _housekeep(self) -> None:
        memory.tidy_up()
        memory.wire_active()
        self._publish(slots=self._serving.slots(), disk=self._serving.disk_status())

    def _rest(self) -> None:
        """Nobody has wanted anything for a while, or what is done meanwhile has more pieces."""
        if self._serving.rehearse():
            return
        self._serving.save_some()
        memory.release_buffers()
        self._publish(disk=self._serving.disk_status())
        self._is_rested = True

    def _publish(self, **changes: object) -> None:
        self._status = replace(self._status, **changes)  # type: ignore[arg-type]  # names checked by replace


def _outcome(call: Callable[[], object]) -> object:
    """What a call returns, or its RunnerError without the frames and causes that would keep arrays alive."""
    try:
        return call()
    except RunnerError as error:
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return error
    except Exception as error:  # rule 4
        log.exception("Job failed")
        return RunnerError(explain(error))
