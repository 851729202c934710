"""Whether a follower lives, by what it says."""

from __future__ import annotations

from runner.ranks.life import EXCUSED_LOOKS, SILENT_LOOKS, STILL_BEATS, Life


def looks_until_lost(life: Life) -> int:
    looks = 1
    while not life.nothing():
        looks += 1
    return looks


def test_who_has_not_begun_may_be_silent_as_long_as_libraries_are_read() -> None:
    life = Life()
    assert looks_until_lost(life) == EXCUSED_LOOKS
    life.begun()
    life.something()
    assert looks_until_lost(life) == SILENT_LOOKS


def test_a_word_is_enough() -> None:
    life = Life()
    life.begun()
    for _ in range(3 * SILENT_LOOKS):
        assert not life.nothing()
        life.something()


def test_who_does_nothing_between_beats_is_still() -> None:
    life = Life()
    life.beat(works=True)
    for _ in range(STILL_BEATS):
        assert not life.is_still
        life.beat(works=False)
    assert life.is_still
    life.beat(works=True)
    assert not life.is_still
