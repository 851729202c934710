"""Sizes of chunks: bounded in time, and smaller while others decode."""

from __future__ import annotations

import threading
from dataclasses import replace

from runner.cache.slots import Slots
from runner.generation.alone import Collected
from runner.generation.engine import Engine
from runner.generation.scheduler import LONG_S, SHORT_S, SMALLEST, Scheduler
from tests.parts.fakes import ScriptedModel, loaded, request, tokenizer


def test_a_chunk_that_took_long_halves_the_next_ones_and_a_quick_one_doubles_them() -> None:
    scheduler, sizes = Scheduler(256), []
    for seconds in (LONG_S * 2, LONG_S * 2, (LONG_S + SHORT_S) / 2, SHORT_S / 2, SHORT_S / 2, SHORT_S / 2):
        scheduler._fed = scheduler._chunk
        scheduler.took(seconds)
        sizes.append(scheduler._size(in_company=False))
    assert sizes == [128, 64, 64, 128, 256, 256]


def test_a_chunk_never_becomes_tiny_nor_larger_than_it_was_made() -> None:
    for largest in (256, 8):
        scheduler = Scheduler(largest)
        for _ in range(20):
            scheduler._fed = scheduler._chunk
            scheduler.took(LONG_S * 2)
        assert scheduler._size(in_company=False) == scheduler._size(in_company=True) == min(SMALLEST, largest)


def test_a_part_of_a_chunk_is_judged_as_the_whole_would_be() -> None:
    scheduler = Scheduler(256)
    scheduler._fed = 64
    scheduler.took(LONG_S / 2)  # four times as many would have taken too long
    assert scheduler._size(in_company=False) == 128


def test_a_prompt_comes_in_smaller_chunks_while_another_request_decodes() -> None:
    coder = tokenizer()
    known = loaded(ScriptedModel(coder.encode("x" * 300), 0), chunk=128)
    engine = Engine(replace(known, slots=Slots(known.model.make_memory, 2)), lambda: None)
    assert isinstance(known.model, ScriptedModel)
    engine.admit(request("a", max_tokens=30), Collected(), threading.Event())
    engine.advance()
    engine.admit(request("b" * 101, max_tokens=1), Collected(), threading.Event())
    while engine.is_live:
        engine.advance()
    assert [count for count in known.model.forwarded if count > 2] == [64 + 1, 36 + 1]
