"""What is left of slots that were emptied: nothing."""

from __future__ import annotations

import string
import threading
import weakref

import pytest

from runner.cache.memory import Memory
from runner.generation.alone import Collected
from runner.generation.engine import Engine
from runner.kernels.rows_attention import PLAIN, AtOnce
from runner.types import SamplingOptions
from tests.parts.fakes import request
from tests.parts.rows import KINDS, fresh
from tests.parts.streams import PLAIN_TEXT

BIAS = tuple((int(token), value) for token, value in PLAIN_TEXT.items())


@pytest.mark.parametrize("at_once", [None, PLAIN])
@pytest.mark.parametrize("kind", KINDS)
def test_the_last_step_keeps_no_memory_of_those_who_had_part_in_it(kind: str, at_once: AtOnce | None) -> None:
    model = fresh(kind, 2)
    engine, outlets = Engine(model, lambda: None, at_once), [Collected(), Collected()]
    # Any text stops them, when the next step of both is under way.
    wanted = request("p", sampling=SamplingOptions(logit_bias=BIAS), stop=tuple(string.ascii_letters))
    for outlet in outlets:
        engine.admit(wanted, outlet, threading.Event())
    memories: list[weakref.ref[Memory]] = []
    while engine.is_live:
        engine.advance()
        memories = memories or [weakref.ref(model.slots.memory(number)) for number in range(2)]
    first, second = model.slots.held()
    assert first.tokens == second.tokens > 1
    assert len(engine.empty()) == 2
    assert [memory() for memory in memories] == [None, None]
