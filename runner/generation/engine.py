"""The live generations of one model, and the step that moves all of them.

    admit     a request becomes a generation (`admission.py`)
    advance   plan -> forward -> draw, one step ahead; then the tokens of the step before are read and emitted; then
              the rows with a grammar, which says by now what may come, are drawn

A token is read only after the forward that follows it was dispatched, so the device never waits for Python. A step
that feeds chunks of prompts is waited for, so that cancels find their way, and its tokens are read in it.

A fault of one row ends that row; an exception out of `advance` is everybody's who took part, and `fail` says so.

Knows nothing about threads, queues or HTTP.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

from runner.cache.slots import Held
from runner.errors import RunnerError
from runner.generation.admission import Admission
from runner.generation.budget import Budget, Limits
from runner.generation.generation import End, Generation
from runner.generation.plan import StepPlan
from runner.generation.sampling import Draw
from runner.generation.scheduler import Scheduler
from runner.generation.step import Logits, Stepper, Wanted
from runner.kernels.rows_attention import AtOnce
from runner.loading.loaded_model import LoadedModel
from runner.machine import memory
from runner.totals import Totals
from runner.types import Cancelled, Failed, GenerateRequest, Outlet

log = logging.getLogger(__name__)

RELEASE_EVERY = 256  # generated tokens between two returns of unused buffers


class Engine:
    """Belongs to the MLX thread."""

    def __init__(
        self,
        loaded: LoadedModel,
        housekeep: Callable[[], None],
        at_once: AtOnce | None = None,
        *,
        packs: bool = True,
        totals: Totals | None = None,
        restore: Callable[[Sequence[int], int], None] | None = None,
        stepper: Stepper | None = None,
    ) -> None:
        """housekeep: called between prefill chunks, now and then while decoding, and after each end; it may return
        unused buffers. at_once: see `Stepper`. packs: whether chunks of prompts may go with others.
        totals: where requests are counted. restore: called with a prompt, and how many positions may be needed in
        all, before a slot is looked for; it may put something into one. stepper: one that tells others what it
        does.
        """
        self._loaded = loaded
        self._housekeep = housekeep
        self._scheduler = Scheduler(loaded.prefill_chunk, packs=packs and loaded.slots.may_pack)
        self._admission = Admission(loaded, self._scheduler, totals or Totals(), restore)
        self._waits = False  # a request waits for another one to end
        self._plan = StepPlan(())
        self._stepper = stepper or Stepper(loaded.model, loaded.slots, at_once, packs=packs)
        self._unread: list[tuple[Generation, Draw]] = []  # draws that were begun
        self._fed: list[Generation] = []  # whom the last step fed: its trouble may show in the next one
        self._stepping: list[Generation] = []  # whom an exception now would hit
        self.answered = 0  # requests that came to a regular end

    @property
    def is_live(self) -> bool:
        """Whether any request is under way."""
        return bool(self._scheduler.rows)

    @property
    def has_room(self) -> bool:
        """Whether another request can be admitted."""
        return self._loaded.slots.is_free and not self._waits

    def keep_to(self, limits: Limits) -> None:
        """From now on take no more memory than this."""
        slots = self._loaded.slots
        self._scheduler.budget = Budget(limits, memory.active, lambda: slots.nbytes, slots.spare)

    def admit(
        self, request: GenerateRequest, outlet: Outlet, cancelled: Cancelled, arrived_ns: int | None = None
    ) -> bool:
        """Begin a request; False, and nothing was done, if the memory is too short for it until another one ends.
        Raises RunnerError, before anything was emitted, for a bad one. arrived_ns: when it was queued.
        """
        row = self._admission.begin(request, outlet, cancelled, arrived_ns)
        if row is None:
            self._waits = True
            return False
        self._scheduler.rows.append(row)
        row.report()
        return True

    def advance(self) -> bool:
        """One step of every row that can go; False if none could."""
        self._stepping = []
        for row in self._scheduler.gone():
            self._end(row, "cancelled")
        rows, plan = self._scheduler.plan()
        stuck = self._scheduler.stuck()
        if stuck is not None and not self._unread:
            self._fail(stuck, Failed("out of memory: the answer needs more than the memory budget allows"))
            return True
        self._plan, unread = plan, self._unread
        self._stepping = [*rows, *self._fed]
        self._fed = rows
        started = time.monotonic()
        logits = self._stepper.forward(plan)
        ready = [row for row in rows if row.slot in logits]
        bound = [row for row in ready if row.matcher is not None]
        free = [row for row in ready if row.matcher is None]
        drawn = self._stepper.draw([_wanted(row, logits[row.slot]) for row in free])
        self._unread = list(zip(free, drawn, strict=True))
        self._stepper.begin(drawn, [logits[row.slot] for row in bound])
        feeds = self._stepper.feed(plan)
        self._read(unread)
        for row in bound:
            if row in self._scheduler.rows:
                self._draw_bound(row, logits[row.slot])
        _flush(bound)
        if feeds:
            self._stepper.wait()
            for row, one in zip(rows, plan.rows, strict=True):
                if not one.logits:
                    row.report()
            self._scheduler.took(time.monotonic() - started)
            unread, self._unread = self._unread, []
            self._read(unread)  # the device has nothing to do in any case
            self._housekeep()
        return bool(self._stepping)

    def fail(self, message: str) -> None:
        """An exception came out of `advance`: every row that took part ends, and its slot is empty."""
        self._stepper.fail()
        for row in [row for row in self._scheduler.rows if row in self._stepping]:
            self._fail(row, Failed(message))

    def out_of_memory(self, message: str) -> bool:
        """So it came out of `advance`: what every row that took part has in memory is dropped, and each is fed once
        more in chunks of half the size; at the second time it ends. What no request has goes, too. Whether any
        ended.
        """
        self._stepper.fail()
        self._loaded.slots.empty()
        largest = self._scheduler.halved(self._plan)
        rows = [row for row in self._scheduler.rows if row in self._stepping]
        over = [row for row in rows if row.is_second_try]
        for row in rows:
            if row in over:
                self._fail(row, Failed(message))
            else:
                self._again(row, largest)
        self._housekeep()
        return bool(over)

    def cancel(self) -> None:
        """End every request."""
        self._stepping = []
        for row in list(self._scheduler.rows):
            self._end(row, "cancelled")

    def empty(self) -> list[Held]:
        """Forget what slots hold that no request has; what that was."""
        if not self.is_live:
            self._stepper.part()
        return self._loaded.slots.empty()

    def _again(self, row: Generation, largest: int) -> None:
        log.warning("Out of memory, once more", extra={"slot": row.slot, "chunk": largest})
        self._loaded.slots.drop(row.slot)
        self._loaded.slots.take(row.slot)
        self._stepper.forget(row.slot)
        self._unread = [one for one in self._unread if one[0] is not row]
        row.again(largest)

    def _draw_bound(self, row: Generation, logits: Logits) -> None:
        """Draw what the grammar allows behind the tokens that were read, or take what it makes certain."""
        assert row.matcher is not None
        try:
            forced, end = row.force()
            allowed = None if forced else row.matcher.allowed()
        except RunnerError as error:
            self._fail(row, Failed(str(error), error.status))
            return
        if end is not None:
            self._end(row, end)
        elif not forced:
            drawn = self._stepper.draw([_wanted(row, logits, allowed)])
            self._stepper.begin(drawn)
            self._unread.append((row, drawn[0]))

    def _read(self, unread: Sequence[tuple[Generation, Draw]]) -> None:
        """Tokens become text, and are on their way."""
        for row, draw in unread:
            self._read_one(row, draw)
        _flush(row for row, _ in unread)

    def _read_one(self, row: Generation, draw: Draw) -> None:
        try:
            end = row.read(self._stepper.read(draw))
        except RunnerError as error:
            self._fail(row, Failed(str(error), error.status))
            return
        if end is not None:
            self._end(row, end)
        elif row.meter.generated % RELEASE_EVERY == 1:  # after the first token, too: prefill's buffers
            self._housekeep()

    def _end(self, row: Generation, end: End) -> None:
        self._stepping.append(row)
        self._loaded.slots.give(row.slot, row.known)
        self._leave(row)
        self.answered += end != "cancelled"
        row.finish(end)

    def _fail(self, row: Generation, failed: Failed) -> None:
        self._loaded.slots.drop(row.slot)
        self._leave(row)
        row.meter.ended("error")
        row.outlet.emit(failed)

    def _leave(self, row: Generation) -> None:
        self._scheduler.rows.remove(row)
        self._waits = False
        self._stepper.forget(row.slot)
        self._unread = [one for one in self._unread if one[0] is not row]
        self._housekeep()


def _wanted(row: Generation, logits: Logits, allowed: bytes | None = None) -> Wanted:
    return Wanted(row.slot, logits, row.sampler, allowed)


def _flush(rows: Iterable[Generation]) -> None:
    for row in rows:
        row.outlet.flush()
