"""What an engine counts of its requests, and what it tells of their prompts."""

from __future__ import annotations

import threading
from dataclasses import replace

from runner.cache.slots import Slots
from runner.generation.alone import Collected
from runner.generation.engine import Engine
from runner.loading.loaded_model import LoadedModel
from runner.totals import Totals
from runner.types import Chunk, Done, Event, GenerateRequest, Progress
from tests.parts.fakes import Alarm, request, saying

PROMPT = "p" * 20  # in chunks of 8


def answered(
    model: LoadedModel, wanted: GenerateRequest, totals: Totals | None = None, after: int | None = None
) -> list[Event]:
    """after: how often the engine may ask whether the client is still there, until it is not."""
    engine, outlet = Engine(model, lambda: None, totals=totals), Collected()
    engine.admit(wanted, outlet, Alarm(after))
    while engine.is_live:
        engine.advance()
    return outlet.events


def told(events: list[Event]) -> list[tuple[int, int, int]]:
    return [
        (event.total_tokens, event.cached_tokens, event.processed_tokens)
        for event in events
        if isinstance(event, Progress)
    ]


def test_tokens_are_counted_as_the_answers_counters_count_them() -> None:
    model, totals = saying("fine", PROMPT), Totals()
    ends = [answered(model, request(PROMPT), totals)[-1] for _ in range(3)]
    usages = [end.usage for end in ends if isinstance(end, Done)]
    assert len(usages) == 3
    assert totals.prompt_tokens == sum(usage.prompt_tokens for usage in usages) == 60
    assert totals.cached_tokens == sum(usage.cached_tokens for usage in usages) == 38
    assert totals.generated_tokens == sum(usage.generated_tokens for usage in usages) == 12
    assert totals.prompt_ns == sum(usage.prompt_ns for usage in usages)
    assert (totals.hits, totals.misses) == (2, 1)
    assert sum(totals.first_token.read().counts) == 3
    assert sum(totals.gaps.read().counts) == 12  # an end-of-sequence token is waited for, too
    assert totals.ends["stop"] == 3


def test_the_first_token_is_waited_for_since_the_request_was_queued() -> None:
    model, totals = saying("x", "p"), Totals()
    engine = Engine(model, lambda: None, totals=totals)
    engine.admit(request("p"), Collected(), threading.Event(), arrived_ns=0)  # when the clock began
    while engine.is_live:
        engine.advance()
    assert totals.first_token.read().total_s > totals.prompt_ns / 1e9


def test_a_prompt_that_is_left_half_fed_counts_for_its_end_only() -> None:
    totals = Totals()
    answered(saying("x", PROMPT), request(PROMPT), totals, after=2)
    assert totals.ends["cancelled"] == 1
    assert totals.prompt_tokens == totals.generated_tokens == sum(totals.first_token.read().counts) == 0


def test_a_stop_that_only_the_end_decides_is_counted_as_it_is_sent() -> None:
    totals = Totals()
    end = answered(saying("xabc", "p"), request("p", stop=("bc", "abcd"), max_tokens=4), totals)[-1]
    assert isinstance(end, Done)
    assert end.reason == "stop"
    assert (totals.ends["stop"], totals.ends["length"]) == (1, 0)


def test_progress_begins_with_what_was_cached_and_rises_chunk_by_chunk_to_the_whole() -> None:
    model = saying("abc", PROMPT)
    first, again, longer = (
        answered(model, request(prompt, progress=True)) for prompt in (PROMPT, PROMPT, PROMPT + "q" * 10)
    )
    assert told(first) == [(20, 0, 0), (20, 0, 8), (20, 0, 16), (20, 0, 20)]
    assert told(again) == [(20, 19, 19), (20, 19, 20)]
    assert told(longer) == [(30, 20, 20), (30, 20, 28), (30, 20, 30)]
    kinds = [type(event) for event in first]
    assert kinds.index(Chunk) > max(place for place, kind in enumerate(kinds) if kind is Progress)


def test_the_time_of_progress_rises_to_the_prompts_own() -> None:
    events = answered(saying("abc", PROMPT), request(PROMPT, progress=True))
    times = [event.ns for event in events if isinstance(event, Progress)]
    end = events[-1]
    assert isinstance(end, Done)
    assert times == sorted(times)
    assert times[-1] == end.usage.prompt_ns


def test_nobody_is_told_without_asking() -> None:
    assert told(answered(saying("abc", PROMPT), request(PROMPT))) == []


def test_prompts_that_share_a_step_are_told_each_its_own() -> None:
    model = saying("x", PROMPT)
    model = replace(model, slots=Slots(model.model.make_memory, 2), prefill_chunk=16)
    engine, outlets = Engine(model, lambda: None), [Collected(), Collected()]
    for outlet, length in zip(outlets, (9, 20), strict=True):
        engine.admit(request("p" * length, max_tokens=2, progress=True), outlet, threading.Event())
    while engine.is_live:
        engine.advance()
    short, long = (told(outlet.events) for outlet in outlets)
    assert short == [(9, 0, 0), (9, 0, 8), (9, 0, 9)]
    assert long[0] == (20, 0, 0)
    assert long[1][2] < 16  # what the other one left of the first chunk
    assert long[-1] == (20, 0, 20)
