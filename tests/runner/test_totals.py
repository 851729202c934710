"""Counting: durations by how long they were, and each request by one end."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.totals import FIRST_TOKEN_S, GAP_S, Histogram, Totals
from runner.types import NS_PER_S

BOUNDS = (0.001, 0.5, 2.0)


@pytest.mark.parametrize("bounds", [FIRST_TOKEN_S, GAP_S])
def test_bounds_rise(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))


@pytest.mark.parametrize(
    ("seconds", "place"), [(0, 0), (0.001, 0), (0.0011, 1), (0.5, 1), (2.0, 2), (2.001, 3), (1000, 3)]
)
def test_a_bound_counts_what_is_as_long_as_it_is(seconds: float, place: int) -> None:
    histogram = Histogram(BOUNDS)
    histogram.add(round(seconds * NS_PER_S))
    assert histogram.read().counts.index(1) == place


@given(st.lists(st.integers(0, 3 * NS_PER_S)))
def test_a_histogram_counts_each_duration_once_and_adds_them_up(durations: list[int]) -> None:
    histogram = Histogram(BOUNDS)
    for duration in durations:
        histogram.add(duration)
    seen = histogram.read()
    places = Counter(sum(duration > bound * NS_PER_S for bound in BOUNDS) for duration in durations)
    assert list(seen.counts) == [places[place] for place in range(4)]
    assert seen.total_s == pytest.approx(sum(durations) / NS_PER_S)


def test_ends_of_many_threads_are_all_counted() -> None:
    totals = Totals()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: totals.ended("refused"), range(1000)))
    assert totals.ends == {"stop": 0, "length": 0, "cancelled": 0, "error": 0, "refused": 1000}
