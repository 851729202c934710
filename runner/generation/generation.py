"""The state of one request between two steps: what it asked for, how far it is, and its way out.

    prompt   [0, matched) was kept | [matched, fed) was fed | [fed, len(prompt)) is to be fed
    answer   `generated` were read | up to one more is drawn and not read yet

With a grammar the next tokens may be certain: then they come without a draw, and are fed together.

It is fed numbers and emits events; it makes no array but through its sampler.

Knows nothing about other requests, slots' storages or models.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from runner.errors import EmptyPrompt, PromptTooLong
from runner.generation.budget import EMPTY, Entry
from runner.generation.meter import Meter, rate
from runner.generation.sampling import Drawn, Sampler
from runner.machine.levels import TRACE
from runner.text.output import Output
from runner.types import Cancelled, Chunk, Done, Failed, Outlet, Progress

if TYPE_CHECKING:  # llguidance is imported by the first grammar
    from runner.grammar.matcher import Matcher

log = logging.getLogger(__name__)

End = Literal["stop", "length", "cancelled"]

# Positions. To end a chunk costs about as much as to feed so many, on a CPU: chunks of 128 are fed at 0.77 of the
# speed of 256, chunks of 64 at 0.63.
NEAR = 40


class Context(NamedTuple):
    """Tokens that prompt and answer of a request may have together. set_by: what made it less than the model's."""

    length: int
    set_by: str = ""


class Generation:
    """One request that has a slot."""

    def __init__(
        self,
        *,
        prompt: list[int],
        limit: int,
        eos_ids: Collection[int],
        sampler: Sampler,
        output: Output,
        outlet: Outlet,
        cancelled: Cancelled,
        meter: Meter,
        matcher: Matcher | None,
        forcing: bool,
        slot: int,
        matched: int,
        tail: int,
        progress: bool = False,
        turn: int | None = None,
        room: int = 0,
        entry: Entry = EMPTY,
        capacity: int = 0,
        resample: Callable[[Sequence[int], int], Sampler] | None = None,
    ) -> None:
        """limit: tokens that may be generated, at least one. tail: prompt tokens to feed with the first draw.
        forcing: whether tokens that the grammar makes certain come without a draw. progress: whether to tell how
        much of the prompt is fed. turn: where the prompt's last turn begins, if only checkpoints are gone back to.
        room: positions for which the slot has room, or will have. entry: what the slot holds before. capacity:
        positions for which it has room before it grows. resample: makes the sampler anew, behind tokens of which so
        many were drawn.
        """
        self.prompt = prompt
        self.limit = limit
        self.sampler = sampler
        self.outlet = outlet
        self.cancelled = cancelled
        self.meter = meter
        self.slot = slot
        self.room = room
        self.entry = entry
        self.capacity = capacity
        self.grows = False  # whether the slot takes more room in the next step
        self.largest: int | None = None  # positions of a chunk; set once one did not fit into the memory
        self.matched = matched
        self.tail = min(tail, len(prompt) - matched)
        # Where a chunk is to end, beside the tail; 0: nowhere.
        self._last_turn = turn
        self.turn = self._stop_before(turn)
        self.decodes = False  # whether a plan has fed what comes behind the prompt
        self.fed = matched  # prompt tokens that plans have fed, those that were kept included
        self.drawn = 0  # tokens that were drawn, read or not, or came without a draw
        self.generated: list[int] = []
        self.matcher = matcher
        self._forcing = forcing
        self._progress = progress
        self._asked = prompt
        self._tail = tail
        self._told = -1  # positions of the prompt, as its reader knows
        self._resample = resample
        self._draws = 0  # that were read
        self._unfed: tuple[int, ...] = ()
        self._eos_ids = eos_ids
        self._output = output
        meter.prompt, meter.cached = len(prompt), matched

    @property
    def known(self) -> list[int]:
        """The prompt and every token that was read: what the slot's storages hold, or one less than that."""
        return self._asked + self.generated

    @property
    def is_prefilling(self) -> bool:
        """Whether prompt tokens are left to feed."""
        return self.fed < len(self.prompt)

    @property
    def is_at_last(self) -> bool:
        """Whether one prompt token is left, which then goes as a drawn one does."""
        return self.fed == len(self.prompt) - 1 and self.tail == 1

    @property
    def wants_draw(self) -> bool:
        """Whether another token may be drawn."""
        return self.drawn < self.limit

    @property
    def has_grown(self) -> bool:
        """Whether the slot has taken its room."""
        return (self.fed if self.is_prefilling else self.written - 1) > self.capacity

    @property
    def written(self) -> int:
        """Positions that the slot has behind the next step, if that decodes."""
        return len(self._asked) + self.drawn

    @property
    def total(self) -> int:
        """Positions that prompt and answer may have."""
        return len(self._asked) + self.limit

    @property
    def is_second_try(self) -> bool:
        return self.largest is not None

    def again(self, largest: int) -> None:
        """The slot is empty, and draws that were not read are lost: feed all that is known once more, in chunks of
        `largest` positions at most.
        """
        assert self._resample is not None
        self.prompt, self.largest = self.known, largest
        self.matched = self.fed = 0
        self.entry, self.room, self.capacity = EMPTY, len(self.prompt) + 1, 0
        self.tail = min(self._tail, len(self.prompt))
        self.turn, self.decodes = self._stop_before(self._last_turn), False
        self.drawn, self._unfed = len(self.generated), ()
        self.sampler = self._resample(self.prompt, self._draws)

    def _stop_before(self, turn: int | None) -> int:
        """Where a chunk is to end for the last turn's sake."""
        wanted = turn is not None and self.matched + NEAR <= turn < len(self.prompt) - self.tail
        return turn if turn is not None and wanted else 0

    def report(self) -> None:
        """What was fed is computed: say so to who asked for it."""
        if self._progress and self.fed > self._told:
            self._told = self.fed
            usage = self.meter.usage()
            self.outlet.emit(Progress(len(self.prompt), self.matched, self.fed, usage.prompt_ns))

    def read(self, drawn: Drawn) -> End | None:
        """Take a token that was read from the device; the end that it means, None to go on."""
        self._draws += 1
        return self.feed(drawn)

    def feed(self, drawn: Drawn) -> End | None:
        """Take a token, drawn or certain."""
        self.meter.token_read()
        if not self.generated:
            self.report()
        self.generated.append(drawn.token)
        if self.matcher is not None:
            self.matcher.accept(drawn.token)
        if log.isEnabledFor(TRACE):
            log.log(TRACE, "Token", extra={"slot": self.slot, "id": drawn.token})
        if drawn.token in self._eos_ids:
            return "stop"
        self.meter.token_generated()
        text, logprobs = self._output.feed(drawn.token, drawn.logprob, drawn.top)
        if text:
            self.outlet.emit(Chunk(text, drawn.token, self.meter.usage(), logprobs))
        if self._output.stopped or (self.matcher is not None and self.matcher.is_over):
            return "stop"
        return "length" if len(self.generated) == self.limit else None

    def force(self) -> tuple[bool, End | None]:
        """Take the tokens that the grammar makes certain; whether there were any, and the end that they mean."""
        certain = self.matcher.forced() if self.matcher is not None and self._forcing else []
        for token in certain:
            if (end := self.feed(Drawn(token))) is not None:
                return True, end
        if certain:
            self._unfed = tuple(certain)
            self.sampler.add(certain)
            self.drawn += len(certain) - 1  # the plan counted the draw that is not needed now
        return bool(certain), None

    def take_unfed(self) -> tuple[int, ...] | None:
        """Tokens that came without a draw, for the next step to feed; None if it feeds the one drawn last."""
        unfed, self._unfed = self._unfed, ()
        return unfed or None

    def finish(self, end: End) -> None:
        """Send what was held back, then the one end. The slot is given by now: a client may leave on Done."""
        usage = self.meter.usage()
        if end == "cancelled":
            self.meter.ended(end)
            self.outlet.emit(Failed("request cancelled", 499))
        else:
            text, logprobs = self._output.flush()
            if self._output.stopped:  # a longer stop string had to be ruled out first
                end = "stop"
            if text or logprobs:
                self.outlet.emit(Chunk(text, self.generated[-1], usage, logprobs))
            self.meter.ended(end)
            self.outlet.emit(Done(end, usage))
        log.info(
            "Completion finished",
            extra={
                "end": end,
                "prompt": usage.prompt_tokens,
                "cached": usage.cached_tokens,
                "prompt_rate": rate(usage.prompt_tokens - usage.cached_tokens, usage.prompt_ns),
                "generated": usage.generated_tokens,
                "generate_rate": rate(usage.generated_tokens, usage.generate_ns),
            },
        )


def token_limit(prompt_tokens: int, max_tokens: int | None, context: Context) -> int:
    """How many tokens may be generated, at least one. Raises EmptyPrompt or PromptTooLong."""
    if prompt_tokens == 0:
        raise EmptyPrompt
    if prompt_tokens >= context.length:
        raise PromptTooLong(prompt_tokens, *context)
    room = context.length - prompt_tokens
    return room if max_tokens is None else min(max_tokens, room)


def context_of(possible: int, allowed: int, asked: int | None) -> Context:
    """The least of what the model can, what is allowed since it was loaded, and what the request asks for."""
    if asked is not None and asked < allowed:
        return Context(asked, "num_ctx")
    return Context(allowed, "--context-length or OLLAMA_CONTEXT_LENGTH" if allowed < possible else "")
