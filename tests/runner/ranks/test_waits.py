"""What is waited for in vain, and what takes long and is not."""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from runner.ranks.waits import KINDS, LOOK_S, PATIENCE_S, TIMES, Waits

STEP = ("forward", 1)
LONG = 1000


def looks_until_in_vain(waits: Waits, kind: Hashable = STEP) -> int:
    """Of one wait, counted; LONG if it never seems in vain."""
    with waits.on(kind):
        for looks in range(LONG):
            if waits.look():
                return looks
    return LONG


def test_where_a_processor_tells_each_wait_has_the_same_patience() -> None:
    assert looks_until_in_vain(Waits(foretells=False)) == PATIENCE_S / LOOK_S
    assert looks_until_in_vain(Waits(foretells=False), None) == PATIENCE_S / LOOK_S


def test_nothing_is_foretold_of_the_first_of_a_kind_nor_of_what_is_like_nothing_else() -> None:
    waits = Waits(foretells=True)
    assert looks_until_in_vain(waits) == LONG
    assert looks_until_in_vain(waits) == PATIENCE_S / LOOK_S
    assert looks_until_in_vain(waits, "another") == LONG
    assert looks_until_in_vain(waits, None) == looks_until_in_vain(waits, None) == LONG


def test_a_wait_may_last_several_times_what_the_slowest_took() -> None:
    waits = Waits(foretells=True)
    waits.took(STEP, 1.0)
    waits.took(STEP, 0.1)
    assert waits.patience_s(STEP) == pytest.approx(0.9 * TIMES)


def test_what_compiled_once_is_forgotten() -> None:
    waits = Waits(foretells=True)
    waits.took(STEP, 60.0)
    for _ in range(50):
        waits.took(STEP, 0.02)
    assert waits.patience_s(STEP) == PATIENCE_S


def test_many_short_waits_are_no_long_one() -> None:
    waits = Waits(foretells=False)
    for _ in range(LONG):
        with waits.on(STEP):
            assert not waits.look()
        assert not waits.look()


def test_kinds_are_not_collected_for_ever() -> None:
    waits = Waits(foretells=True)
    for kind in range(3 * KINDS):
        waits.took(kind, 1.0)
    assert sum(waits.patience_s(kind) < LONG for kind in range(3 * KINDS)) <= KINDS
