"""MLX runs out of memory in the middle of a step: once more from the beginning, then one error; nobody notices the
first time.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from runner.cache.slots import Slots
from runner.generation.alone import Collected, complete
from runner.generation.engine import Engine
from runner.types import Chunk, Event, Failed, GenerateRequest, Grammar, Progress, SamplingOptions, Started
from tests.parts.failing import FailingModel
from tests.parts.fakes import text_of
from tests.parts.rows import KINDS, fresh

MESSAGE = "out of memory: [malloc] Unable to allocate 5 bytes."
CHUNK = 16
SAMPLED = SamplingOptions(temperature=1.2, seed=7, repeat_last_n=16, repeat_penalty=1.3, presence_penalty=0.5)
ASKED = [
    GenerateRequest("abcdefgh" * 6, max_tokens=12, progress=True),
    GenerateRequest("hgfedcba" * 5, max_tokens=20, sampling=SAMPLED, logprobs=True, top_logprobs=2),
    GenerateRequest("a cat and a dog", max_tokens=24, grammar=Grammar("regex", "(yes|no), [0-9]{3}[a-z]+")),
]


def answers(kind: str, fails: set[int], slots: int = 3) -> tuple[list[Collected], int]:
    """What these requests get together, of an engine whose steps of these numbers fail; and how many did."""
    known = fresh(kind, slots)
    model = FailingModel(known.model)
    held = Slots(model.make_memory, slots)
    engine = Engine(replace(known, model=model, slots=held, prefill_chunk=CHUNK), lambda: None)
    outlets = [Collected() for _ in ASKED]
    for asked, outlet in zip(ASKED, outlets, strict=True):
        engine.admit(asked, outlet, threading.Event())
    steps = failed = 0
    while engine.is_live:
        model.fail_in = 0 if steps in fails else None
        steps += 1
        try:
            engine.advance()
        except RuntimeError:
            failed += 1
            engine.out_of_memory(MESSAGE)
    assert not any(slot.busy for slot in held.held())
    return outlets, failed


def logprobs(events: list[Event]) -> list[float]:
    return [entry.logprob for event in events if isinstance(event, Chunk) for entry in event.logprobs]


@pytest.mark.parametrize("step", [0, 1, 3, 7, 9, 12, 15])
@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind != "latent"]
)  # FailingModel fails in attention
def test_a_step_that_fails_once_changes_no_answer(kind: str, step: int) -> None:
    outlets, failed = answers(kind, {step})
    assert failed == 1
    for asked, outlet in zip(ASKED, outlets, strict=True):
        alone = complete(fresh(kind, 1), asked)
        assert text_of(outlet.events) == text_of(alone)
        assert type(outlet.events[-1]) is type(alone[-1])
        assert logprobs(outlet.events) == pytest.approx(logprobs(alone), abs=1e-3)
        assert [type(event) for event in outlet.events].count(Started) == 1
        told = [event.processed_tokens for event in outlet.events if isinstance(event, Progress)]
        assert told == sorted(set(told))


@pytest.mark.parametrize("fails", [{0, 1}, {6, 7, 8, 9}, set(range(100))])
def test_a_second_time_is_one_error_for_those_who_took_part(fails: set[int]) -> None:
    outlets, _ = answers("plain", fails)
    ends = [event for outlet in outlets for event in outlet.events if isinstance(event, Failed)]
    assert ends
    assert set(ends) == {Failed(MESSAGE)}
    assert all(not isinstance(event, Failed) for outlet in outlets for event in outlet.events[:-1])


def test_the_second_time_chunks_have_half_the_size() -> None:
    known = fresh("plain", 1)
    model = FailingModel(known.model)
    sizes: list[int] = []
    engine = Engine(
        replace(known, model=model, slots=Slots(model.make_memory), prefill_chunk=CHUNK), lambda: None
    )
    outlet = Collected()
    engine.admit(GenerateRequest("x" * 40, max_tokens=1, progress=True), outlet, threading.Event())
    model.fail_in = 1
    engine.advance()
    with pytest.raises(RuntimeError):
        engine.advance()
    engine.out_of_memory(MESSAGE)
    model.fail_in = None
    while engine.is_live:
        before = engine._scheduler.rows[0].fed
        engine.advance()
        sizes += [row.fed - before for row in engine._scheduler.rows]
    assert sizes[0] == CHUNK // 2
    assert max(sizes) == CHUNK // 2
    assert text_of(outlet.events) == text_of(complete(known, GenerateRequest("x" * 40, max_tokens=1)))


def test_what_no_request_has_goes_at_the_first_time() -> None:
    known = fresh("plain", 2)
    model = FailingModel(known.model)
    slots = Slots(model.make_memory, 2)
    engine = Engine(replace(known, model=model, slots=slots), lambda: None)
    for prompt in ("one", "two of them"):
        engine.admit(GenerateRequest(prompt, max_tokens=2), Collected(), threading.Event())
    while engine.is_live:
        engine.advance()
    engine.admit(GenerateRequest("one more", max_tokens=2), Collected(), threading.Event())
    model.fail_in = 0
    with pytest.raises(RuntimeError):
        engine.advance()
    engine.out_of_memory(MESSAGE)
    assert [held.nbytes for held in slots.held()] == [0, 0]
