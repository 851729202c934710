"""From a request to a generation: tokenize, resolve the options, take a slot; Started.

Knows nothing about steps, threads or HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from runner.cache.slots import Match
from runner.errors import EmptyPrompt, PromptTooLong, RunnerError
from runner.generation.budget import EMPTY, Entry
from runner.generation.draws import fresh_seed
from runner.generation.generation import Generation, context_of, token_limit
from runner.generation.meter import Meter
from runner.generation.sampling import Sampler, make_sampler
from runner.generation.scheduler import RESERVE_AT_MOST, Scheduler
from runner.loading.loaded_model import LoadedModel
from runner.text.output import Output
from runner.text.turns import Turns
from runner.totals import Totals
from runner.types import Cancelled, GenerateRequest, Outlet, Started


class Admission:
    """Belongs to the MLX thread."""

    def __init__(
        self,
        loaded: LoadedModel,
        scheduler: Scheduler,
        totals: Totals,
        restore: Callable[[Sequence[int], int], None] | None,
    ) -> None:
        """scheduler: knows what the memory has room for. restore: see `Engine`."""
        self._loaded = loaded
        self._scheduler = scheduler
        self._totals = totals
        self._restore = restore
        self._turns = Turns(loaded.tokenizer)

    def begin(
        self, request: GenerateRequest, outlet: Outlet, cancelled: Cancelled, arrived_ns: int | None
    ) -> Generation | None:
        """None, and nothing was done, if the memory is too short for it until another one ends. Raises RunnerError,
        before anything was emitted, for a bad one. arrived_ns: when it was queued.
        """
        loaded, meter = self._loaded, Meter(self._totals, arrived_ns)
        if not request.prompt:
            raise EmptyPrompt
        context = context_of(loaded.model.context_length, loaded.context_length, request.context_length)
        if counted := loaded.tokenizer.counted_above(request.prompt, context.length):
            raise PromptTooLong(counted, *context, at_least=True)
        prompt = loaded.tokenizer.encode(request.prompt)
        loaded.tokenizer.require_rows_for(prompt, loaded.model.vocab_size)
        limit = token_limit(len(prompt), request.max_tokens, context)
        resample = self._sampling(request, len(prompt) + limit)
        sampler = resample(prompt, 0)
        matcher = None if request.grammar is None else loaded.grammars.matcher(request.grammar)
        taken = self._take(prompt, limit)
        if taken is None:
            return None
        match, entry, room = taken
        outlet.emit(Started(len(prompt)))
        self._totals.matched(match.matched)
        return Generation(
            prompt=prompt,
            limit=limit,
            eos_ids=loaded.tokenizer.eos_ids,
            sampler=sampler,
            output=Output(loaded.tokenizer, request.stop),
            outlet=outlet,
            cancelled=cancelled,
            meter=meter,
            matcher=matcher,
            # A logprob is asked of every token, and a bias may speak against one that is certain.
            forcing=not request.logprobs and not request.sampling.logit_bias,
            slot=match.slot,
            matched=match.matched,
            tail=loaded.slots.tail,
            progress=request.progress,
            turn=None if loaded.slots.goes_back_anywhere else self._turns.start(prompt),
            room=room,
            entry=entry,
            capacity=self._scheduler.capacity(entry),
            resample=resample,
        )

    def _sampling(self, request: GenerateRequest, total: int) -> Callable[[Sequence[int], int], Sampler]:
        """Makes the request's sampler behind some tokens, of which so many were drawn."""
        options, loaded = request.sampling, self._loaded
        if options.seed is None:
            options = replace(options, seed=fresh_seed())

        def sampler(tokens: Sequence[int], drawn: int) -> Sampler:
            return make_sampler(
                options,
                loaded.model.vocab_size,
                tokens,
                total,
                request.top_logprobs if request.logprobs else None,
                loaded.tokenizer.suppressed_ids,
                drawn,
            )

        return sampler

    def _take(self, prompt: list[int], limit: int) -> tuple[Match, Entry, int] | None:
        """Take a slot, for so many positions at first; None if the request has to wait. Raises PromptTooLarge."""
        slots, total = self._loaded.slots, len(prompt) + min(limit, RESERVE_AT_MOST)
        if self._restore is not None and self._scheduler.fits(total):
            self._restore(prompt, total)
        match = slots.match(prompt)
        entry = Entry(slots.held()[match.slot].nbytes, match.matched)
        slots.take(match.slot)  # before others have to go for it
        try:
            room = self._scheduler.room(len(prompt), limit, entry)
        except RunnerError:
            slots.give(match.slot, ())
            raise
        if room:
            return match, entry, room
        slots.give(match.slot, ())
        if self._scheduler.rows or entry == EMPTY:
            return None
        slots.drop(match.slot)  # nobody else has anything left: what it holds is too much
        return self._take(prompt, limit)
