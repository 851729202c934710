"""Rank 0's stepper and slots: what they do the followers are told, before it is done.

Everything that is dispatched is begun at once, forward by forward: so all processes add up in the same order.

Knows nothing about sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx

from runner.cache.slots import Slots
from runner.generation.plan import StepPlan
from runner.generation.sampling import Draw, Tokens
from runner.generation.step import Logits, Stepper, Wanted
from runner.kernels.rows_attention import AtOnce
from runner.loading.loaded_model import LoadedModel
from runner.ranks import wire
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
        self, loaded: LoadedModel, group: Group, tell: Tell, at_once: AtOnce | None, *, packs: bool
    ) -> None:
        super().__init__(loaded.model, loaded.slots, at_once, packs=packs)
        self._group = group
        self._tell = tell

    def forward(self, plan: StepPlan) -> dict[int, Logits]:
        self._tell("step", wire.written(plan))
        logits = super().forward(plan)
        begin(logits)
        return logits

    def draw(self, wanted: Sequence[Wanted]) -> list[Draw]:
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
        return super().feed(plan)

    def part(self) -> None:
        self._tell("part")
        super().part()


def begin(logits: dict[int, Logits]) -> None:
    """Start computing forwards, one behind the other."""
    for rows in {id(one.rows): one.rows for one in logits.values()}.values():
        mx.async_eval(rows)  # type: ignore[no-untyped-call]  # the stub has no types


def shared(group: Group, tokens: mx.array) -> mx.array:
    """The tokens that rank 0 drew, on everybody's device; all others come with zeros."""
    everywhere = group.sum(tokens.astype(mx.uint32))
    mx.async_eval(everywhere)  # type: ignore[no-untyped-call]  # the stub has no types
    return everywhere
