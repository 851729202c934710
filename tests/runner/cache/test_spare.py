"""What goes first when memory is short: the entry that was used longest ago, never one of a request."""

from __future__ import annotations

from runner.cache.slots import Slots
from tests.parts.models import forward
from tests.parts.rows import fresh


def test_entries_go_one_by_one_the_one_used_longest_ago_first() -> None:
    model = fresh("plain", 1).model
    slots = Slots(model.make_memory, 3)
    for number in (2, 0, 1):
        slots.take(number)
        slots.begin(number, 0, 4)
        forward(model, slots.memory(number), [1, 2])
        if number != 0:
            slots.give(number, [1, 2])
    assert [held.tokens for held in slots.held()] == [2, 2, 2]
    assert slots.spare()
    assert [held.tokens for held in slots.held()] == [2, 2, 0]
    assert slots.spare()
    assert not slots.spare()
    assert [held.tokens for held in slots.held()] == [2, 0, 0]  # the first one is a request's
