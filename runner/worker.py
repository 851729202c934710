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

import contextlib
import logging
import math
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.disk.disk_cache import DiskCache
from runner.disk.folder import Folder
from runner.disk.opening import open_disk_cache
from runner.errors import (
    ModelNotLoaded,
    RunnerError,
    explain,
    is_lost_device,
    is_out_of_memory,
)
from runner.generation.budget import Limits
from runner.generation.engine import Engine
from runner.generation.probe import measured
from runner.generation.rehearsal import rehearse
from runner.generation.trial import kernels_agree
from runner.jobs import CallJob, GenerateJob, Job, Jobs
from runner.kernels import compiled
from runner.kernels.choice import rows_attention
from runner.loading.loaded_model import LoadedModel
from runner.loading.loader import load
from runner.machine import device, memory
from runner.store.files import ModelFiles
from runner.store.resolve import DEFAULT_STORE, open_model
from runner.text.tokenizer import Tokenizer
from runner.totals import Totals
from runner.types import (
    AS_COMPUTED,
    DiskStatus,
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
SAVE_AT_END_S = 2.0  # of the three that a forced exit leaves; hosts wait five


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
        self._store = store
        self._packed = packed
        self._parallel = parallel
        self._context_length = context_length
        self._kv_type = kv_type
        self._memory_budget = memory_budget
        self._cache_folder = cache_folder
        self._ranks = ranks
        self._rest_after_s = rest_after_s
        self._is_rested = True  # every buffer that no array uses was given back
        self._loaded: LoadedModel | None = None
        self._engine: Engine | None = None
        self._disk: DiskCache | None = None
        self._rehearsal: Iterator[str] | None = None  # what is left of it
        self._shortages = 0  # since an answer was complete
        self._answered = 0  # by then
        self._status = Status()
        self._work, self._beats, self._patience_s = "", 0, math.inf
        self.totals = Totals()
        self._jobs = Jobs(limit, self.totals)
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
        return self._cache_folder is not None

    @property
    def tokenizer(self) -> Tokenizer:
        """The loaded model's tokenizer, safe on any thread. Raises ModelNotLoaded."""
        loaded = self._loaded
        if loaded is None:
            raise ModelNotLoaded
        return loaded.tokenizer

    @property
    def waiting(self) -> int:
        """Requests that no slot was free for yet."""
        return self._jobs.waiting

    def require_model(self) -> None:
        """Raises ModelNotLoaded."""
        if self._loaded is None:
            raise ModelNotLoaded

    def compile(self, grammar: Grammar) -> None:
        """Have a grammar ready for the loaded model, on the calling thread: up to two seconds. Raises BadGrammar,
        GrammarUnavailable or ModelNotLoaded.
        """
        loaded = self._loaded
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
        return self._jobs.call(self._empty_cache, between_steps=True)

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
            self._save_all()
            device.leave()
        except DeviceLost as error:
            self._on_lost_device(str(error))
        except BaseException as error:  # rule 7; nobody is left who could handle it
            log.critical("MLX thread died", exc_info=True)
            self._on_death(f"the MLX thread died: {type(error).__name__}: {error}")

    def _join(self, ranks: Leader) -> None:
        self._beat("a group")
        memory.allow(ranks.share_of(memory.budget()))
        with self._in_step():
            ranks.join(memory.budget())

    def _turn(self) -> bool:
        """Begin a job if one may begin, and take a step if any request is live; False when it is time to end."""
        self._beat("")
        job = self._next()
        self._beat("a rest" if job is None else "a job")
        if job is not None and self._disk is not None:
            self._disk.abandon()
        if isinstance(job, GenerateJob):
            self._admit(job)
        elif job is not None:
            self._run_call(job)
        elif not self._is_live and not self._jobs.stopping:
            self._rest()
        if self._engine is not None and self._engine.is_live:
            self._beat("a step")
            self._advance(self._engine)
        return self._is_live or not self._jobs.stopping

    def _beat(self, work: str) -> None:
        self._work = work
        self._beats += 1

    @property
    def _is_live(self) -> bool:
        return self._engine is not None and self._engine.is_live

    @property
    def _has_leisure(self) -> bool:
        """Whether there is something to do while nobody wants anything."""
        return self._rehearsal is not None or (self._disk is not None and self._disk.is_saving)

    def _next(self) -> Job | None:
        """The next job that may begin; None for a step of what is live, for a rest, or at the end."""
        patience_s = None if self._is_rested or self._is_live else self._rest_after_s
        job = self._jobs.next(self._may_begin, lambda: self._is_live or self._has_leisure, patience_s)
        self._is_rested = False
        return job

    def _may_begin(self, first: Job) -> bool:
        """Whether the first job of the queue can begin now."""
        if isinstance(first, GenerateJob):
            return self._engine is None or self._engine.has_room
        return first.between_steps or not self._is_live

    def _admit(self, job: GenerateJob) -> None:
        try:
            if self._engine is None:
                raise ModelNotLoaded
            if not self._engine.admit(job.request, job.outlet, job.cancelled, job.arrived_ns):
                self._jobs.put_back(job)
            self._publish(slots=self._slots())
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
            self._end_all(error)
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
            files = open_model(reference, self._store)
            loaded = self._brought(reference, files)
            rehearsal = rehearse(loaded, rows_attention()) if device.compiles_kernels() else None
            if rehearsal is not None:
                with self._in_step("rehearse"):
                    next(rehearsal)
        except Exception:
            self._publish(progress=100 if self._loaded else 0)
            raise
        self._save_all()
        self._take(loaded)
        self._rehearsal = rehearsal
        # Behind the load, which nobody waits for any longer, and before all requests.
        self._jobs.put_first(lambda: self._probe(loaded, files))

    def _brought(self, reference: str, files: ModelFiles) -> LoadedModel:
        """With kernels of ours if they are right here."""
        loaded = self._bring(reference, files)
        tries = device.compiles_kernels() and self._ranks is None
        if not tries or kernels_agree(loaded, rows_attention()):
            return loaded
        log.warning("Decoding is slower: kernels of ours are wrong on this device")
        compiled.distrust()
        del loaded
        return self._bring(reference, files)

    def _bring(self, reference: str, files: ModelFiles) -> LoadedModel:
        """In this process, or our part of it here and the others elsewhere."""
        how: Any = {"packed": self._packed, "slots": self._parallel, "context_length": self._context_length}
        how["kv_type"] = self._kv_type
        if self._ranks is None:
            return load(files, self._load_progress, **how)
        group = self._ranks.group
        told = {"reference": reference, "store": str(self._store), **how}
        return self._ranks.bring(told, lambda: load(files, self._load_progress, **how, group=group))

    @contextlib.contextmanager
    def _in_step(self, kind: str = "") -> Iterator[None]:
        """Around what all processes do together. kind: what the others are told."""
        ranks = self._ranks
        try:
            with contextlib.nullcontext() if ranks is None or not kind else ranks.together(kind):
                yield
        except Exception as error:
            self._end_all(error)
            raise

    def _end_all(self, error: Exception) -> None:
        """What fails in one process leaves the others waiting for its part of a sum."""
        if self._ranks is not None:
            log.error("Failed in step with others", exc_info=error)
            self._ranks.fail(explain(error))

    def _load_progress(self, share: float) -> None:
        self._beat("a load")
        self._publish(progress=int(100 * share))

    def _probe(self, loaded: LoadedModel, files: ModelFiles) -> None:
        assert self._engine is not None
        folder, slots = self._cache_folder, loaded.slots
        agreed = bool if self._ranks is None else self._ranks.agreed
        with self._in_step("probe"):
            costs = measured(loaded.model, slots.fresh_memory(), agreed)
        self._engine.keep_to(Limits(memory.budget(), costs, loaded.prefill_chunk))
        if folder is not None:
            self._disk = open_disk_cache(folder, files, loaded.model, slots, device.kind(), self._jobs.wake)

    def _take(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._shortages = self._answered = 0
        at_once, packs = rows_attention(), device.packs_prompts()
        self._engine = Engine(
            loaded,
            self._housekeep,
            at_once,
            packs=packs,
            totals=self.totals,
            restore=self._restore,
            stepper=None if self._ranks is None else self._ranks.stepper(loaded, at_once, packs=packs),
        )
        loaded.grammars.prepare_ahead()
        self._publish(
            ready=True,
            model=loaded.name,
            context_length=loaded.context_length,
            slots=self._slots(),
            kv_type=loaded.kv_type,
        )

    def _restore(self, prompt: Sequence[int], total: int) -> None:
        if self._disk is not None:
            self._disk.restore(prompt, total)

    def _rehearse(self) -> None:
        assert self._rehearsal is not None
        try:
            with self._in_step("rehearse"):
                piece = next(self._rehearsal, None)
            if piece is None:
                self._rehearsal = None
                memory.release_buffers()
        except Exception:  # rule 4; requests may do without
            log.warning("Rehearsal ended early", exc_info=True)
            self._rehearsal = None
        self._jobs.wake()

    def _save_some(self) -> None:
        if self._disk is None:
            return
        try:
            self._disk.step()
        except Exception:  # rule 4
            log.exception("Nothing is saved any more")
            self._disk.abandon()
            self._disk = None

    def _save_all(self) -> None:
        if self._disk is not None:
            self._disk.finish(SAVE_AT_END_S)
        self._disk = None

    def _unload(self) -> None:
        self._save_all()
        self._loaded = self._engine = self._rehearsal = None
        if self._ranks is not None:
            self._ranks.tell("unload")
        self._publish(ready=False, model="", context_length=0, progress=0, slots=(), kv_type=AS_COMPUTED)

    def _empty_cache(self) -> tuple[SlotStatus, ...]:
        emptied = [] if self._engine is None else self._engine.empty()
        if self._disk is not None:
            self._disk.empty()
        memory.release_buffers()
        return tuple(SlotStatus(*held) for held in emptied)

    def _housekeep(self) -> None:
        memory.tidy_up()
        memory.wire_active()
        self._publish(slots=self._slots(), disk=self._disk_status())

    def _rest(self) -> None:
        """Nobody has wanted anything for a while, or what is done meanwhile has more pieces."""
        if self._rehearsal is not None:
            self._rehearse()
            return
        self._save_some()
        memory.release_buffers()
        self._publish(disk=self._disk_status())
        self._is_rested = True

    def _disk_status(self) -> DiskStatus | None:
        disk = self._disk
        return None if disk is None else DiskStatus(disk.entries, disk.nbytes, disk.hits)

    def _slots(self) -> tuple[SlotStatus, ...]:
        held = [] if self._loaded is None else self._loaded.slots.held()
        return tuple(SlotStatus(*one) for one in held)

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
