"""Stop strings: never emitted, nothing lost, the same however the text is cut."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runner.text.stops import StopMatcher


def run(stops: Iterable[str], pieces: Iterable[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    text = "".join([matcher.feed(piece) for piece in pieces]) + matcher.flush()
    return text, matcher.matched


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The plain reference: up to the first occurrence of any stop string in the whole text."""
    starts = [text.find(stop) for stop in stops if stop and stop in text]
    return (text[: min(starts)], True) if starts else (text, False)


def pieces_of(text: str, cuts: Iterable[int]) -> list[str]:
    edges = [0, *sorted(c % (len(text) + 1) for c in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


@given(
    text=st.text("abc", max_size=30),
    stops=st.lists(st.text("abc", max_size=6), max_size=4),
    cuts=st.lists(st.integers(0, 30), max_size=8),
)
@example(text="abcx", stops=["bc", "abcd"], cuts=[1, 2, 3])
@example(text="abcd", stops=["bc", "abcd"], cuts=[1, 2, 3])
def test_every_cut_gives_what_a_search_of_the_whole_text_gives(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    sent, matched = run(stops, pieces_of(text, cuts))
    assert (sent, matched is not None) == cut(text, stops)
    assert matched is None or text.startswith(matched, len(sent))


@given(text=st.text("ab", max_size=20), stops=st.lists(st.text("ab", min_size=1, max_size=5), max_size=3))
def test_no_more_is_held_than_could_begin_a_stop_string(text: str, stops: list[str]) -> None:
    matcher, sent = StopMatcher(stops), ""
    for end, char in enumerate(text, start=1):
        sent += matcher.feed(char)
        if any(stop in text[:end] for stop in stops):
            return
        held = text[len(sent) : end]
        assert held == max(
            (text[i:end] for i in range(end) if begins(text[i:end], stops)), default="", key=len
        )


def begins(tail: str, stops: Sequence[str]) -> bool:
    return any(stop.startswith(tail) for stop in stops)


@pytest.mark.parametrize("size", range(1, 13))
def test_end_in_sending_more_stops_before_end(size: int) -> None:
    text = "SENDING_MORE"
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert run(["END"], pieces) == ("S", "END")


def test_text_that_can_begin_no_stop_string_is_sent_at_once() -> None:
    matcher = StopMatcher(["END"])
    assert [matcher.feed(piece) for piece in ["SE", "N", "T ", "E"]] == ["S", "", "ENT ", ""]
    assert matcher.flush() == "E"
    assert matcher.matched is None


def test_a_stop_string_that_starts_earlier_wins_though_it_ends_later() -> None:
    matcher = StopMatcher(["bc", "abcd"])
    assert [matcher.feed(c) for c in "xabc"] == ["x", "", "", ""]
    assert matcher.matched is None  # "bc" is there, but "abcd" may still come
    assert matcher.feed("d") == ""
    assert matcher.matched == "abcd"


def test_the_end_of_the_text_settles_a_waiting_match() -> None:
    matcher = StopMatcher(["bc", "abcd"])
    assert matcher.feed("xabc") == "x"
    assert matcher.flush() == "a"
    assert matcher.matched == "bc"


def test_nothing_comes_after_a_match() -> None:
    matcher = StopMatcher(["\n\n"])
    assert matcher.feed("one\n\ntwo") == "one"
    assert matcher.feed("three") == ""
    assert matcher.flush() == ""


def test_stop_strings_are_text_and_may_be_any_characters() -> None:
    family = "👨\u200d👩\u200d👧"
    assert run([family], ["x👨", "\u200d👩", "\u200d", "👦"]) == ("x👨\u200d👩\u200d👦", None)
    assert run([family], ["x👨", "\u200d👩", "\u200d", "👧y"]) == ("x", family)


def test_without_stop_strings_text_passes_through() -> None:
    matcher = StopMatcher(["", ""])
    assert matcher.feed("any text") == "any text"
    assert matcher.flush() == ""


def test_the_most_and_longest_stop_strings_cost_little() -> None:
    # All of them begin like the text, so none is ever out of the race.
    matcher = StopMatcher(["a" * 1022 + chr(0x100 + i) for i in range(64)])
    start = time.perf_counter()
    for _ in range(1000):
        matcher.feed("aaaa")
    assert (time.perf_counter() - start) / 1000 < 2e-3
