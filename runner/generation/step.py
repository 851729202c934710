"""A plan becomes logits: the only place that calls a model.

The forward and the draw are two things. A row without a grammar is drawn at once, one step ahead of the token that
is read; a row with one is drawn when that token was read, while its forward is under way. What was drawn stays
here, on the device, until a later plan feeds it.

Knows nothing about requests, options or text.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import mlx.core as mx

from runner.cache.slots import Slots
from runner.cache.together import Company
from runner.errors import RunnerError
from runner.generation.masks import Masks
from runner.generation.plan import RowPlan, StepPlan
from runner.generation.sampling import Draw, Drawn, Sampler, draw
from runner.kernels.rows_attention import AtOnce
from runner.models.base import Model


class Logits(NamedTuple):
    """The raw logits of one row, among those of the rows [B,V] that it shared a forward with; unevaluated."""

    rows: mx.array
    row: int


class Pending(NamedTuple):
    """A draw on its way. finite: whether all logits were, where somebody wants to know."""

    draw: Draw
    finite: mx.array | None = None

    def read(self) -> Drawn:
        """Wait for the device. Raises RunnerError if the logits were not finite: broken weights would talk nonsense
        for ever.
        """
        if self.finite is not None and not self.finite.item():
            raise RunnerError("the model's logits are not finite: its weights are broken")
        return self.draw.read()

    def arrays(self) -> list[mx.array]:
        """What to evaluate."""
        return [*self.draw.arrays(), *([] if self.finite is None else [self.finite])]


class Wanted(NamedTuple):
    """A draw that a row wants. check: whether the logits are finite. allowed: a bit for each token, set if it may
    come; None: all may.
    """

    slot: int
    logits: Logits
    sampler: Sampler
    check: bool
    allowed: bytes | None = None


class Stepper:
    """Carries out plans over the slots of one model."""

    def __init__(self, model: Model, slots: Slots, at_once: AtOnce | None = None) -> None:
        """at_once: how rows that decode together attend at once; None: one by one."""
        self._model = model
        self._slots = slots
        self._company = Company(slots.count, at_once)
        self._masks = Masks(model.vocab_size)
        self._drawn: dict[int, Draw] = {}  # by slot: the token that the next plan may feed

    def forward(self, plan: StepPlan) -> dict[int, Logits]:
        """The logits, unevaluated, of each slot whose row wants them.

        Rows that decode go together, each prompt goes alone. A row that wants none is evaluated before this
        returns, so that a request which is cancelled after it leaves whole chunks behind.
        """
        joint = [row for row in plan.rows if row.ids is None and self._slots.may_join]
        logits = self._together(joint) if len(joint) > 1 else {}
        for row in plan.rows:
            if row.slot not in logits and (found := self._row(row)) is not None:
                logits[row.slot] = found
        return logits

    def draw(self, wanted: Sequence[Wanted]) -> list[Pending]:
        """Choose for these rows; a plan may then feed the tokens to their slots."""
        pending: dict[int, Pending] = {}
        groups: dict[Hashable, list[Wanted]] = {}
        for one in wanted:
            groups.setdefault((id(one.logits.rows), one.sampler.kind, one.allowed), []).append(one)
        for group in groups.values():
            logits, allowed = _rows([one.logits for one in group]), group[0].allowed
            mask = None if allowed is None else self._masks.array(allowed)
            for one, drawn in zip(group, draw([one.sampler for one in group], logits, mask), strict=True):
                self._drawn[one.slot] = drawn
                finite = mx.isfinite(one.logits.rows[one.logits.row]).all() if one.check else None
                pending[one.slot] = Pending(drawn, finite)
        return [pending[one.slot] for one in wanted]

    def begin(self, pending: Iterable[Pending], waiting: Iterable[Logits] = ()) -> None:
        """Start computing draws, and logits whose draw has to wait; whoever reads one of them waits."""
        arrays = [one.arrays() for one in pending]
        mx.async_eval(arrays, [logits.rows for logits in waiting])  # type: ignore[no-untyped-call]  # the stub has no types

    def forget(self, slot: int) -> None:
        """The slot's request is over."""
        self._drawn.pop(slot, None)

    def fail(self) -> None:
        """A step did not come to its end; its requests are over."""
        self._company.dissolve()

    def _together(self, rows: Sequence[RowPlan]) -> dict[int, Logits]:
        """One forward of rows that are fed the token drawn for them last."""
        memory = self._company.of({row.slot: self._slots.memory(row.slot) for row in rows})
        tokens = _tokens([self._drawn[row.slot] for row in rows])[:, None]  # [B,1]
        hidden = self._model(tokens, memory.span(), memory)
        logits = self._model.logits(hidden)[:, 0, :]  # [B,V]
        return {row.slot: Logits(logits, number) for number, row in enumerate(rows)}

    def _row(self, row: RowPlan) -> Logits | None:
        begin = row.begin
        if begin is None:
            memory = self._slots.memory(row.slot)
        else:
            memory = self._slots.begin(row.slot, begin.matched, begin.total)
        if row.checkpoint:
            memory.checkpoint()
        tokens = self._drawn[row.slot].token[None] if row.ids is None else mx.array([row.ids])  # [1,L]
        hidden = self._model(tokens, memory.span(tokens.shape[1]), memory)
        if row.logits:
            return Logits(self._model.logits(hidden[:, -1:, :])[:, 0, :], 0)
        mx.eval(memory.arrays())
        return None


def _rows(logits: Sequence[Logits]) -> mx.array:
    """Some rows of those that shared a forward."""
    rows, numbers = logits[0].rows, [one.row for one in logits]
    return rows if numbers == [*range(rows.shape[0])] else rows[mx.array(numbers)]


def _tokens(draws: Sequence[Draw]) -> mx.array:
    """[B]; without an operation, if these are the rows that were drawn together the last time."""
    first = draws[0].tokens
    size = len(first)
    if len(draws) == size and all(one.tokens is first and one.row == row for row, one in enumerate(draws)):
        return first.array
    return mx.concatenate([one.token for one in draws])
