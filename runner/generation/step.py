"""A plan becomes logits: the only place that calls a model.

The forward and the draw are two things. A row without a grammar is drawn at once, one step ahead of the token that
is read; a row with one is drawn when that token was read, while its forward is under way. What was drawn stays
here, on the device, until a later plan feeds it.

Knows nothing about requests, options or text.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import mlx.core as mx

from runner.cache.base import LayerMemory
from runner.cache.company import Company
from runner.cache.memory import Memory
from runner.cache.packed import Packed
from runner.cache.slots import Slots
from runner.generation.masks import Masks
from runner.generation.plan import Checkpoint, RowPlan, StepPlan
from runner.generation.sampling import Draw, Drawn, Sampler, arrays, draw
from runner.kernels.rows_attention import AtOnce
from runner.models.base import Model


class Logits(NamedTuple):
    """The raw logits of one row, among those of the rows [B,V] that it shared a forward with; unevaluated."""

    rows: mx.array
    row: int


class Wanted(NamedTuple):
    """A draw that a row wants. allowed: a bit for each token, set if it may come; None: all may."""

    slot: int
    logits: Logits
    sampler: Sampler
    allowed: bytes | None = None


class Stepper:
    """Carries out plans over the slots of one model."""

    def __init__(
        self, model: Model, slots: Slots, at_once: AtOnce | None = None, *, packs: bool = True
    ) -> None:
        """at_once: how rows that decode together attend at once; None: one by one. packs: whether chunks of prompts
        may share a forward with others, in models that can.
        """
        self._model = model
        self._slots = slots
        self._packs = packs and slots.may_pack
        self._company = Company(slots.count, at_once)
        self._masks = Masks(model.vocab_size)
        self._packed: dict[int, Memory] = {}  # the chunks that the last forward had beside its rows
        self._fed: list[mx.array] = []  # what is being computed for rows that want no logits
        self._drawn: dict[int, Draw] = {}  # by slot: the token that the next plan may feed

    def forward(self, plan: StepPlan) -> dict[int, Logits]:
        """The logits, unevaluated, of each slot whose row wants them. Rows of one position go together, and chunks
        of prompts with them where they can.
        """
        wanting = [row for row in plan.rows if row.logits]
        chunks = [row for row in plan.rows if not row.logits]
        memories = {row.slot: self._memory(row) for row in wanting}
        joint = [row for row in wanting if self._may_join(row, memories[row.slot])]
        if not self._packs or len(joint) + len(chunks) < 2:
            chunks = []
        memories |= {row.slot: self._memory(row) for row in chunks}
        logits: dict[int, Logits] = {}
        if chunks or self._company.takes({row.slot: memories[row.slot] for row in joint}):
            logits = self._together(joint, chunks, memories)
        if not logits:
            self._company.part()
        for row in wanting:
            if row.slot not in logits:
                hidden = self._hidden(row, memories[row.slot])
                logits[row.slot] = Logits(self._model.logits(hidden[:, -1:, :])[:, 0, :], 0)
        self._packed = {row.slot: memories[row.slot] for row in chunks}
        return logits

    def feed(self, plan: StepPlan) -> bool:
        """Start computing the rows that want no logits; whether there are any."""
        for row in plan.rows:
            if not row.logits:
                memory = self._packed.get(row.slot)
                if memory is None:
                    memory = self._memory(row)
                    self._hidden(row, memory)
                self._fed += memory.arrays()
        mx.async_eval(self._fed)  # type: ignore[no-untyped-call]  # the stub has no types
        return bool(self._fed)

    def wait(self) -> None:
        """Until what was fed is computed: a request that is cancelled behind it leaves whole chunks."""
        fed, self._fed = self._fed, []
        mx.eval(fed)

    def draw(self, wanted: Sequence[Wanted]) -> list[Draw]:
        """Choose for these rows; a plan may then feed the tokens to their slots."""
        groups: dict[Hashable, list[Wanted]] = {}
        for one in wanted:
            groups.setdefault((id(one.logits.rows), one.sampler.kind, one.allowed), []).append(one)
        for group in groups.values():
            logits, allowed = _rows([one.logits for one in group]), group[0].allowed
            mask = None if allowed is None else self._masks.array(allowed)
            for one, drawn in zip(group, draw([one.sampler for one in group], logits, mask), strict=True):
                self._drawn[one.slot] = drawn
        return [self._drawn[one.slot] for one in wanted]

    def enter(self, drawn: Mapping[int, Draw]) -> None:
        """Somebody else drew for these slots; a plan may then feed the tokens to them."""
        self._drawn.update(drawn)

    def begin(self, draws: Iterable[Draw], waiting: Iterable[Logits] = ()) -> None:
        """Start computing draws, and logits whose draw has to wait; whoever reads one of them waits."""
        mx.async_eval(arrays(draws), [logits.rows for logits in waiting])  # type: ignore[no-untyped-call]  # the stub has no types

    def read(self, draw: Draw) -> Drawn:
        """Wait for the draw. Raises RunnerError if its logits were no numbers."""
        return draw.read()

    def forget(self, slot: int) -> None:
        """The slot's request is over."""
        self._drawn.pop(slot, None)

    def part(self) -> None:
        """Nobody decodes: let go of the memories of the last step."""
        self._company.part()
        self._packed = {}

    def fail(self) -> None:
        """A step did not come to its end; its requests are over."""
        self._company.dissolve()
        self._fed, self._packed = [], {}
        self._masks = Masks(self._model.vocab_size)  # some may not have been computed

    def _memory(self, row: RowPlan) -> Memory:
        """Of a row, ready to be fed."""
        begin = row.begin
        if begin is None:
            memory = self._slots.memory(row.slot)
        else:
            memory = self._slots.begin(row.slot, begin.matched, begin.total)
        if row.room is not None:
            memory.reserve(row.room)
        if row.checkpoint is not Checkpoint.NONE:
            memory.checkpoint(marked=row.checkpoint is Checkpoint.LIKELY)
        return memory

    def _may_join(self, row: RowPlan, memory: Memory) -> bool:
        single = row.ids is None or len(row.ids) == 1
        return single and memory.offset > 0 and self._slots.may_join

    def _together(
        self, rows: Sequence[RowPlan], chunks: Sequence[RowPlan], memories: Mapping[int, Memory]
    ) -> dict[int, Logits]:
        """One forward of rows that are fed one position each, and of chunks."""
        together = self._company.of({row.slot: memories[row.slot] for row in rows}) if rows else None
        tokens = [] if together is None else [self._tokens(rows)]
        if together is not None and together.size > len(rows):
            tokens.append(mx.zeros(together.size - len(rows), mx.uint32))
        tokens += [mx.array(row.ids or (), mx.uint32) for row in chunks]
        memory: LayerMemory
        if chunks:
            packed = Packed(together, [(memories[row.slot], len(row.ids or ())) for row in chunks])
            memory, span = packed, packed.span()
        else:
            assert together is not None
            memory, span = together, together.span()
        all_tokens = tokens[0] if len(tokens) == 1 else mx.concatenate(tokens)
        hidden = self._model(all_tokens[:, None], span, memory)
        if together is None:
            return {}
        logits = self._model.logits(hidden[: together.size])[:, 0, :]  # [B,V]; the first are of these rows
        return {row.slot: Logits(logits, number) for number, row in enumerate(rows)}

    def _hidden(self, row: RowPlan, memory: Memory) -> mx.array:
        """One forward of one row: [1,L,E]."""
        tokens = self._drawn[row.slot].token[None] if row.ids is None else mx.array([row.ids])  # [1,L]
        return self._model(tokens, memory.span(tokens.shape[1]), memory)

    def _tokens(self, rows: Sequence[RowPlan]) -> mx.array:
        """The token of each row [B]. Tokens that the last step drew together are fed as they are."""
        if all(row.ids is None for row in rows):
            draws = [self._drawn[row.slot] for row in rows]
            first = draws[0].tokens
            if len(draws) == len(first) and all(
                one.tokens is first and one.row == number for number, one in enumerate(draws)
            ):
                return first.array
        return mx.concatenate(
            [self._drawn[row.slot].token if row.ids is None else mx.array(row.ids, mx.uint32) for row in rows]
        )


def _rows(logits: Sequence[Logits]) -> mx.array:
    """The logits [B,V] of these rows, which shared a forward."""
    rows, numbers = logits[0].rows, [one.row for one in logits]
    if numbers == [*range(len(numbers))]:
        return rows if len(numbers) == rows.shape[0] else rows[: len(numbers)]
    return rows[mx.array(numbers)]
