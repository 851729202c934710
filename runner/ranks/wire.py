"""A plan as a message has it: lists of numbers, and back.

Knows nothing about sockets or arrays.
"""

from __future__ import annotations

from typing import Any

from runner.generation.plan import Begin, Checkpoint, RowPlan, StepPlan


def written(plan: StepPlan) -> list[list[Any]]:
    return [[*row._replace(checkpoint=row.checkpoint.value)] for row in plan.rows]  # type: ignore[arg-type]  # a number


def read(rows: list[list[Any]]) -> StepPlan:
    return StepPlan(tuple(_row(*row) for row in rows))


def _row(
    slot: int,
    ids: list[int] | None,
    logits: bool,
    begin: list[int] | None,
    checkpoint: int,
    room: int | None,
) -> RowPlan:
    return RowPlan(
        slot,
        None if ids is None else tuple(ids),
        logits,
        None if begin is None else Begin(*begin),
        Checkpoint(checkpoint),
        room,
    )
