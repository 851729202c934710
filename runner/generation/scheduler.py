"""Who does what in the next step.

All rows that decode take part in every step; of the prompts that are still to be fed, the one that came first gives
a chunk, and where chunks are packed those behind it fill it up. So a row that decodes waits for at most one chunk,
which is smaller than that of a prompt that is alone. A row whose reader does not read rests: it stays out of the
plan until there is room again. So does one for whose next step the memory is short, until others have ended
(`budget.py`).

A chunk is bounded in time too, since a cancel waits for it: behind a long context, or on a slow device, the usual
number of positions can take seconds. So a chunk that took too long halves the next ones, and a quick one doubles
them again.

Knows nothing about arrays, text or slots' storages.
"""

from __future__ import annotations

import logging

from runner.generation.budget import Budget, Entry
from runner.generation.generation import Generation
from runner.generation.plan import Begin, Checkpoint, RowPlan, StepPlan

log = logging.getLogger(__name__)

# Of a chunk; the next ones are then halved or doubled. In company half of it is the bound. Not less for a
# prompt that is alone: on a CPU, chunks of 128 positions are fed at 0.77 of the speed of 256, chunks of 64 at 0.63.
LONG_S, SHORT_S = 1.0, 0.25
SMALLEST = 16  # positions; below, a chunk costs nearly as much as a larger one
# A chunk is so many times smaller while others decode. With 4, all together got 0.8 of the tokens, on a CPU.
IN_COMPANY = 2
RESERVE_AT_MOST = 4096  # generated positions for which room is kept ahead; beyond, buffers grow by half


class Scheduler:
    """The live generations in the order in which they came."""

    def __init__(self, chunk: int, *, packs: bool = False) -> None:
        """chunk: positions that a prefill forward may have. packs: whether those may be several prompts'."""
        self._packs = packs
        self.budget: Budget | None = None  # of the memory; None: whatever there is
        self._granted = 0  # bytes by which slots grow in the plan
        self._short: list[Generation] = []  # who has no part in the plan for want of memory
        self._largest = self._chunk = self._fed = chunk
        self.rows: list[Generation] = []

    def took(self, seconds: float) -> None:
        """How long the last chunk of a prompt took; in company a smaller one, which counts as the whole."""
        seconds *= self._chunk / self._fed
        if seconds > LONG_S:
            self._chunk = max(self._chunk // 2, min(SMALLEST, self._largest))
        elif seconds < SHORT_S:
            self._chunk = min(self._chunk * 2, self._largest)

    def gone(self) -> list[Generation]:
        """Those whose answers nobody wants any more."""
        return [row for row in self.rows if row.cancelled.is_set()]

    def plan(self) -> tuple[list[Generation], StepPlan]:
        """The next step, and whose rows it has; none if all that are live rest or have their last token drawn."""
        ready = [row for row in self.rows if row.outlet.has_room()]
        self._short, self._granted = [], 0
        prompts = [row for row in ready if row.is_prefilling and not row.is_at_last]
        rows = [row for row in ready if row not in prompts and (row.is_prefilling or row.wants_draw)]
        rows = [row for row in rows if self._has_room(row)]
        plans = [self._feed(row, 1) if row.is_prefilling else self._decode(row) for row in rows]
        left = self._fitting(prompts, self._size(in_company=bool(plans)), len(rows))
        self._fed = 0
        for row in prompts if self._packs else prompts[:1]:
            if self._fed < left:
                plans.append(self._feed(row, left - self._fed, whole=len(prompts) == 1 and not rows))
                rows.append(row)
        self._fed = max(self._fed, SMALLEST)
        return rows, StepPlan(tuple(plans))

    def stuck(self) -> Generation | None:
        """The last one of those for whom the memory is short, if no other is there to end."""
        waits = self._short and len(self._short) == len(self.rows)
        return self._short[-1] if waits else None

    def room(self, prompt: int, limit: int, entry: Entry) -> int:
        """For how many positions a request gets room at first; 0 if it has to wait. Raises PromptTooLarge."""
        wanted = prompt + min(limit, RESERVE_AT_MOST)
        if self.budget is None:
            return wanted
        return self.budget.admit(prompt, limit, wanted, entry, self._promised(), len(self.rows))

    def capacity(self, entry: Entry) -> int:
        """Positions for which a slot has room without growing."""
        return 0 if self.budget is None else self.budget.capacity(entry)

    def fits(self, positions: int) -> bool:
        """Whether there is memory for another slot of so many positions, as it is."""
        return self.budget is None or self.budget.limits.kept(positions) <= self.budget.left

    def halved(self, plan: StepPlan) -> int:
        """Positions of the chunks of those with whom a step did not fit into the memory."""
        fed = max((len(row.ids) for row in plan.rows if row.ids is not None), default=0)
        return max(1, (fed if fed > 1 else self._chunk) // 2)

    def _promised(self) -> int:
        """By how many bytes slots grow in this plan, and those of who is yet to grow."""
        if self.budget is None:
            return 0
        coming = (self.budget.growth(row.room, row.entry) for row in self.rows if not row.has_grown)
        return self._granted + sum(coming)

    def _fitting(self, prompts: list[Generation], size: int, rows: int) -> int:
        """How many of these positions the next step can feed."""
        size = min([size, *(row.largest for row in prompts if row.largest is not None)])
        if self.budget is None or not prompts:
            return size
        longest = max(min(row.fed + size, len(row.prompt)) for row in prompts)
        most = min(size, sum(len(row.prompt) - row.fed for row in prompts))
        size = self.budget.chunk(most, longest, rows, self._promised())
        self._short += [] if size else prompts
        return size

    def _has_room(self, row: Generation) -> bool:
        """Whether the slot of a row that decodes has room for the next position, or gets it."""
        if self.budget is None or row.is_prefilling or row.written <= row.room:
            return True
        held = self.budget.limits.kept(row.room)
        row.room = self.budget.grow(row.room, row.written, row.total, len(self.rows), self._promised())
        row.grows = row.written <= row.room
        self._granted += self.budget.moved(row.room, held)
        self._short += [] if row.grows else [row]
        return row.grows

    def _size(self, in_company: bool) -> int:
        """Positions of a chunk; in company: others decode."""
        return max(self._chunk // IN_COMPANY, min(SMALLEST, self._chunk)) if in_company else self._chunk

    def _feed(self, row: Generation, size: int, *, whole: bool = False) -> RowPlan:
        """The next chunk of a prompt, behind whose tail logits are wanted.

        A tail of several tokens goes alone, behind a checkpoint. A tail of one goes with the rows that decode or,
        with `whole`, at the end of the last chunk, which saves a forward. Before the last turn a chunk ends.
        """
        start, end = row.fed, len(row.prompt)
        stop = row.turn if start < row.turn else end - row.tail
        last = start + row.tail >= end or (
            whole and row.tail == 1 and end - start <= size and start >= row.turn
        )
        if not last:
            end = min(start + size, stop)
            self._fed += end - start
            _log_progress(row, size)
        begin = Begin(row.matched, row.room)
        first = start == row.matched
        checkpoint = _checkpoint(row, last=last)
        row.fed = end
        row.drawn += last
        return RowPlan(
            slot=row.slot,
            ids=tuple(row.prompt[start:end]),
            logits=last,
            begin=begin if first else None,
            checkpoint=checkpoint,
        )

    def _decode(self, row: Generation) -> RowPlan:
        """Behind a prompt's last token there is a checkpoint, unless there is one before its tail: to save the tail
        is not worth another state.
        """
        checkpoint = Checkpoint.NONE if row.decodes or row.tail > 1 else Checkpoint.LIKELY
        row.decodes = True
        row.drawn += 1
        room, row.grows = row.room if row.grows else None, False
        return RowPlan(slot=row.slot, ids=row.take_unfed(), logits=True, checkpoint=checkpoint, room=room)


def _checkpoint(row: Generation, *, last: bool) -> Checkpoint:
    """Before the next chunk of a prompt. Behind a tail of one there is another."""
    if row.fed in (row.matched, row.turn) or (last and row.tail > 1):
        return Checkpoint.LIKELY
    return Checkpoint.NONE if last else Checkpoint.PASSING


def _log_progress(row: Generation, chunk: int) -> None:
    """A line for each chunk of a prompt that has several."""
    total = len(row.prompt) - row.matched
    if total - row.tail > chunk:
        log.info("Prompt processing progress", extra={"processed": row.fed - row.matched, "total": total})
