"""One request as a story: tokenize, borrow the cache, prefill, decode, detokenize, emit.

The step numbers are those of "The life of a request" in README.md. Decoding runs one step ahead: the forward
that follows a token is dispatched before that token is read, so the device never waits for Python.

Knows nothing about threads, queues or HTTP: `emit` takes events, `cancelled` is asked at every turn.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Literal, Protocol

import mlx.core as mx

from runner.cache.prefix import Session
from runner.errors import EmptyPrompt, PromptTooLong, RunnerError
from runner.generation.meter import Meter, rate
from runner.generation.sampling import Draw, Sampler, make_sampler, token_logprob
from runner.loading.loaded_model import LoadedModel
from runner.machine import device
from runner.machine.levels import TRACE
from runner.text.output import Output
from runner.types import Chunk, Done, Event, Failed, GenerateRequest, Started

log = logging.getLogger(__name__)

Emit = Callable[[Event], None]
End = Literal["stop", "length", "cancelled"]

RELEASE_EVERY = 256  # generated tokens between two returns of unused buffers
RESERVE_AT_MOST = 4096  # generated positions for which room is kept ahead; beyond, buffers grow by half


class Flag(Protocol):
    """Set when nobody wants the answer any more; `threading.Event` is one."""

    def is_set(self) -> bool: ...


def generate(
    loaded: LoadedModel,
    request: GenerateRequest,
    emit: Emit,
    cancelled: Flag,
    housekeep: Callable[[], None] = device.release_buffers,
) -> None:
    """Answer one request: Started, Chunks, then exactly one Done, or Failed if it was cancelled.

    `housekeep` is called between prefill chunks and now and then while decoding; it returns unused buffers.

    Raises RunnerError before Started for a bad request; after it, RunnerError or whatever MLX raises. Then no
    Done was emitted, the cache entry is gone, and the caller emits Failed.
    """
    meter = Meter()
    if not request.prompt:
        raise EmptyPrompt
    # 4. text -> ids
    prompt = loaded.tokenizer.encode(request.prompt)
    limit = token_limit(len(prompt), request.max_tokens, loaded.context_length)
    sampler = make_sampler(
        request.sampling,
        loaded.model.vocab_size,
        prompt,
        loaded.context_length,
        request.top_logprobs if request.logprobs else None,
        loaded.tokenizer.suppressed_ids,
    )
    output = Output(loaded.tokenizer, request.stop)
    emit(Started(len(prompt)))
    # 5. ids -> caches that already hold as many of them as possible
    with loaded.prefix.session(prompt, len(prompt) + min(limit, RESERVE_AT_MOST)) as session:
        meter.prompt, meter.cached = len(prompt), session.matched
        # 6. all ids but the last (or the last few), chunk by chunk
        ready = prefill(loaded, session, cancelled, housekeep)
        end: End = "length" if ready else "cancelled"
        # 7. one id per step
        for token, draw in decode(loaded, session, sampler, limit) if ready else ():
            meter.token_read()
            session.append(token)
            trace(loaded, token)
            if cancelled.is_set():
                end = "cancelled"
                break
            if token in loaded.tokenizer.eos_ids:
                end = "stop"
                break
            meter.generated += 1
            # 8. id -> text that is safe to send
            text, logprobs = output.feed(token, token_logprob(draw, loaded.tokenizer.piece))
            if text:
                emit(Chunk(text, token, meter.usage(), logprobs))
            if output.stopped:
                end = "stop"
                break
            if meter.generated % RELEASE_EVERY == 1:  # also after the first token, to drop prefill's buffers
                housekeep()
    # 9. exactly one end
    finish(end, output, session, meter, emit)


def token_limit(prompt_tokens: int, max_tokens: int | None, context_length: int) -> int:
    """How many tokens may be generated, at least one. Raises EmptyPrompt or PromptTooLong."""
    if prompt_tokens == 0:
        raise EmptyPrompt
    if prompt_tokens >= context_length:
        raise PromptTooLong(prompt_tokens, context_length)
    room = context_length - prompt_tokens
    return room if max_tokens is None else min(max_tokens, room)


def prefill(loaded: LoadedModel, session: Session, cancelled: Flag, housekeep: Callable[[], None]) -> bool:
    """Forward all of the prompt but its tail; False if cancelled between two chunks.

    Each chunk is evaluated before the next one is built, so a cancelled prefill leaves whole chunks behind.
    """
    ids, chunk = session.remaining[: -session.tail], loaded.prefill_chunk
    for start in range(0, len(ids), chunk):
        if cancelled.is_set():
            return False
        if len(ids) > chunk:
            log.info(
                "Prompt processing progress", extra={"processed": start, "total": len(session.remaining)}
            )
        loaded.model(mx.array([ids[start : start + chunk]]), session.caches)
        mx.eval([array for cache in session.caches for array in cache.arrays()])
        housekeep()
    session.checkpoint()
    return not cancelled.is_set()


def decode(loaded: LoadedModel, session: Session, sampler: Sampler, limit: int) -> Iterator[tuple[int, Draw]]:
    """Yield up to `limit` tokens, each one read only after the step that follows it was dispatched.

    Raises RunnerError if the first logits are not finite: broken weights would talk nonsense for ever.
    """
    logits = forward(loaded, session, mx.array([session.remaining[-session.tail :]]))
    finite = mx.isfinite(logits).all()
    draw = sampler(logits)
    begin(finite, *draw.arrays())
    for position in range(limit):
        token, ahead = draw.token, None
        if position + 1 < limit:
            ahead = sampler(forward(loaded, session, token[None]))
            begin(*ahead.arrays())
        if position == 0 and not finite.item():
            raise RunnerError("the model's logits are not finite: its weights are broken")
        yield whole(token), draw
        if ahead is None:
            return
        draw = ahead


def forward(loaded: LoadedModel, session: Session, ids: mx.array) -> mx.array:
    """Ids [1,L] -> raw logits of the last position only, [1,V]."""
    hidden = loaded.model(ids, session.caches)
    return loaded.model.logits(hidden[:, -1:, :])[:, 0, :]


def begin(*arrays: mx.array) -> None:
    """Start computing; whoever reads one of them waits."""
    mx.async_eval(*arrays)  # type: ignore[no-untyped-call]  # the stub has no types


def whole(token: mx.array) -> int:
    """A token array [1] as a number; waits for the device."""
    return int(token.item())  # type: ignore[arg-type]  # the stub allows complex


def trace(loaded: LoadedModel, token: int) -> None:
    """Each token in the log, where that is asked for."""
    if log.isEnabledFor(TRACE):
        log.log(TRACE, "Token", extra={"id": token, "piece": loaded.tokenizer.piece(token)})


def finish(end: End, output: Output, session: Session, meter: Meter, emit: Emit) -> None:
    """Send what was held back, then the end. The cache is committed by now: a client may leave on Done."""
    usage = meter.usage()
    if end == "cancelled":
        emit(Failed("request cancelled", 499))
    else:
        text, logprobs = output.flush()
        if output.stopped:  # a longer stop string had to be ruled out first
            end = "stop"
        if text or logprobs:
            emit(Chunk(text, session.generated[-1], usage, logprobs))
        emit(Done(end, usage))
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
