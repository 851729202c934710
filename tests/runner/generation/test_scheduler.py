"""Sizes of chunks: bounded in time, and smaller while others decode."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from runner.cache.slots import Slots
from runner.generation.alone import Collected
from runner.generation.engine import Engine
from runner.generation.scheduler import LONG_S, SHORT_S, SMALLEST, Scheduler
from runner.machine import device
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


def test_parts_of_packed_prompts_are_multiples_of_the_grain_and_short_ends_stay_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last token of each prompt goes with the rows that decode."""
    monkeypatch.setattr(device, "prompt_grain", lambda: 16)
    coder = tokenizer()
    known = loaded(ScriptedModel(coder.encode("x" * 300), 0), chunk=40)
    engine = Engine(replace(known, slots=Slots(known.model.make_memory, 4)), lambda: None)
    fed: dict[str, list[int]] = {"a": [], "b": [], "c": [], "d": []}
    for name, length in zip(fed, (21, 13, 71, 3), strict=True):
        engine.admit(request(name * length, max_tokens=1), Collected(), threading.Event())
    before = dict.fromkeys(fed, 0)
    names = {row.slot: name for row, name in zip(engine._scheduler.rows, fed, strict=True)}
    while engine.is_live:
        engine.advance()
        for row in engine._scheduler.rows:
            name = names[row.slot]
            if row.fed > before[name]:
                fed[name].append(row.fed - before[name])
                before[name] = row.fed
    assert fed == {"a": [20, 1], "b": [12, 1], "c": [16, 32, 23], "d": [2, 1]}
