"""Who does what in the next step.

All rows that decode take part in every step; of the prompts that are still to be fed, the one that came first gives
one chunk. So a row that decodes waits for at most one chunk of somebody's prompt. A row whose reader does not read
rests: it stays out of the plan until there is room again.

Knows nothing about arrays, text or slots' storages.
"""

from __future__ import annotations

import logging

from runner.generation.generation import Generation
from runner.generation.plan import Begin, RowPlan, StepPlan

log = logging.getLogger(__name__)

RESERVE_AT_MOST = 4096  # generated positions for which room is kept ahead; beyond, buffers grow by half


class Scheduler:
    """The live generations in the order in which they came."""

    def __init__(self, chunk: int) -> None:
        """chunk: positions that a prefill forward may have."""
        self._chunk = chunk
        self.rows: list[Generation] = []

    def gone(self) -> list[Generation]:
        """Those whose answers nobody wants any more."""
        return [row for row in self.rows if row.cancelled.is_set()]

    def plan(self) -> tuple[list[Generation], StepPlan]:
        """The next step, and whose rows it has; none if all that are live rest or have their last token drawn."""
        rows: list[Generation] = []
        feeding: Generation | None = None
        for row in self.rows:
            if not row.outlet.has_room():
                continue
            if row.is_prefilling:
                feeding = feeding or row
            elif row.wants_draw:
                rows.append(row)
        plans = [_decode(row) for row in rows]
        if feeding is not None:
            rows.append(feeding)
            plans.append(self._feed(feeding))
        return rows, StepPlan(tuple(plans))

    def _feed(self, row: Generation) -> RowPlan:
        """The next chunk of a prompt; its tail goes alone, since only behind it logits are wanted."""
        start, end = row.fed, len(row.prompt)
        last = start + row.tail >= end
        if not last:
            end = min(start + self._chunk, end - row.tail)
            _log_progress(row, self._chunk)
        begin = Begin(row.matched, len(row.prompt) + min(row.limit, RESERVE_AT_MOST))
        first = start == row.matched
        row.fed = end
        row.drawn += last
        return RowPlan(
            slot=row.slot,
            ids=tuple(row.prompt[start:end]),
            logits=last,
            begin=begin if first else None,
            checkpoint=first or last,
        )


def _decode(row: Generation) -> RowPlan:
    row.drawn += 1
    return RowPlan(slot=row.slot, ids=row.take_unfed(), logits=True)


def _log_progress(row: Generation, chunk: int) -> None:
    """A line for each chunk of a prompt that has several."""
    total = len(row.prompt) - row.matched
    if total - row.tail > chunk:
        log.info("Prompt processing progress", extra={"processed": row.fed - row.matched, "total": total})
