"""Rank 0's stepper and slots: what they do the followers are told, before it is done.

Everything that is dispatched is begun at once, forward by forward: so all processes add up in the same order.

Wherever the device is waited for, or may be, `waits.py` is told: a follower may never do its part.

Knows nothing about sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

import mlx.core as mx

from runner.cache.slots import Slots
from runner.generation.plan import RowPlan, StepPlan
from runner.generation.sampling import Draw, Drawn
from runner.generation.step import Logits, Stepper, Wanted
from runner.generation.tokens import Tokens
from runner.kernels.rows_attention import AtOnce
from runner.loading.loaded_model import LoadedModel
from runner.ranks import wire
from runner.ranks.waits import Waits
from runner.sharding.group import Group

Tell = Callable[..., None]


class LeadingSlots(Slots):
    """Whoever takes, gives back or empties a slot does so everywhere."""

    def __init__(self, slots: Slots, tell: Tell) -> None:
        super().__init__(slots.fresh_memory, slots.count, slots.bound)
        self._tell = tell

    def take(self, number: int) -> None:
        self._tell("take", number)
        super().take(number)

    def give(self, number: int, known: Sequence[int]) -> None:
        self._tell("give", number)
        super().give(number, known)

    def drop(self, number: int) -> None:
        self._tell("drop", number)
        super().drop(number)


class LeadingStepper(Stepper):
    """What is drawn goes to everybody's device."""

    def __init__(
        self,
        loaded: LoadedModel,
        group: Group,
        tell: Tell,
        waits: Waits,
        at_once: AtOnce | None,
        *,
        packs: bool,
    ) -> None:
        super().__init__(loaded.model, loaded.slots, at_once, packs=packs)
        self._group = group
        self._tell = tell
        self._waits = waits
        self._shape: Shape | None = None  # of the plan that is carried out
        self._chosen: Hashable = None  # what its draws are like

    def forward(self, plan: StepPlan) -> dict[int, Logits]:
        self._shape = self._shape_of(plan)
        self._tell("step", wire.written(plan))
        with self._waits.on(("forward", self._shape)):
            logits = super().forward(plan)
            begin(logits)
        return logits

    def draw(self, wanted: Sequence[Wanted]) -> list[Draw]:
        self._chosen = len(wanted), frozenset(_drawn_by(one) for one in wanted)
        with self._waits.on(("draw", self._chosen)):
            return self._draw(wanted)

    def begin(self, draws: Iterable[Draw], waiting: Iterable[Logits] = ()) -> None:
        with self._waits.on(("begin", self._shape, self._chosen)):
            super().begin(draws, waiting)

    def read(self, draw: Draw) -> Drawn:
        if draw.tokens.is_read:
            return super().read(draw)
        with self._waits.on(("read", self._shape)):
            return super().read(draw)

    def _draw(self, wanted: Sequence[Wanted]) -> list[Draw]:
        draws = super().draw(wanted)
        groups: dict[int, tuple[Tokens, dict[int, int]]] = {}
        for one, draw in zip(wanted, draws, strict=True):
            groups.setdefault(id(draw.tokens), (draw.tokens, {}))[1][draw.row] = one.slot
        if groups:
            self._tell("drawn", [[slots[row] for row in sorted(slots)] for _, slots in groups.values()])
        for tokens, _ in groups.values():
            tokens.array = shared(self._group, tokens.array)
        return draws

    def feed(self, plan: StepPlan) -> bool:
        if any(not row.logits for row in plan.rows):
            self._tell("feed")
        with self._waits.on(("feed", self._shape)):
            return super().feed(plan)

    def wait(self) -> None:
        with self._waits.on(("wait", self._shape)):
            super().wait()

    def part(self) -> None:
        self._tell("part")
        super().part()

    def _shape_of(self, plan: StepPlan) -> Shape:
        fed = {row.slot: len(row.ids or (0,)) for row in plan.rows}
        ends = [self._start(row) + fed[row.slot] for row in plan.rows]
        chunks = sum(fed[row.slot] for row in plan.rows if not row.logits)
        rows = sum(row.logits for row in plan.rows)
        return Shape(rows, chunks.bit_length(), max(ends, default=0).bit_length())

    def _start(self, row: RowPlan) -> int:
        return self._slots.memory(row.slot).offset if row.begin is None else row.begin.matched


class Shape(NamedTuple):
    """Plans that are alike run the same kernels: as many rows, and positions of the same order of magnitude, in
    their chunks and in what they look back at.
    """

    rows: int
    chunks: int
    longest: int


def _drawn_by(one: Wanted) -> Hashable:
    return one.sampler.kind, one.sampler.top_logprobs, one.allowed is None


def begin(logits: dict[int, Logits]) -> None:
    """Start computing forwards, one behind the other."""
    for rows in {id(one.rows): one.rows for one in logits.values()}.values():
        mx.async_eval(rows)  # type: ignore[no-untyped-call]  # the stub has no types


def shared(group: Group, tokens: mx.array) -> mx.array:
    """The tokens that rank 0 drew, on everybody's device; all others come with zeros."""
    everywhere = group.sum(tokens.astype(mx.uint32))
    mx.async_eval(everywhere)  # type: ignore[no-untyped-call]  # the stub has no types
    return everywhere
