"""Which checkpoints stay: few enough, spread evenly, and those that a request marked longest."""

from __future__ import annotations

from itertools import pairwise

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.cache.kv import KVCache
from runner.cache.memory import Memory
from runner.cache.points import Bound, Points
from runner.cache.recurrent import RecurrentCache

STEPS = st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=1, max_size=40)


def filled(bound: Bound, most: int, steps: list[tuple[int, bool]]) -> tuple[Points, list[int]]:
    """Points of which each holds a byte, at most so many; and the positions that were marked."""
    points, position, marked = Points(bound), 0, []
    for length, mark in steps:
        position += length
        if points.add(position, marked=mark):
            marked += [position] if mark else []
            while points.are_too_many(len(points.positions), most + len(points.positions)):
                points.drop()
    return points, marked


@given(most=st.integers(1, 9), steps=STEPS)
def test_no_more_stay_than_the_bound_says_and_the_last_one_always_stays(
    most: int, steps: list[tuple[int, bool]]
) -> None:
    points, marked = filled(Bound(share=1.0, least=1, apart=1), most, steps)
    positions = [*points.positions]
    assert len(positions) == min(most, len(steps))
    assert positions == sorted(positions)
    assert positions[-1] == sum(length for length, _ in steps)
    if len(marked) < most:
        assert set(marked) <= set(positions)
    else:
        assert set(positions[:-1]) <= set(marked)


@given(most=st.integers(2, 9), count=st.integers(2, 300), length=st.integers(1, 30))
def test_they_thin_out_evenly_as_a_prompt_grows(most: int, count: int, length: int) -> None:
    """Twice as far apart as they were, at most, and at last a shorter step."""
    points, _ = filled(Bound(share=1.0, least=1, apart=1), most, [(length, False)] * count)
    positions = [0, *points.positions]
    steps = [after - before for before, after in pairwise(positions)]
    assert max(steps) <= 2 * min(steps[:-1])
    assert steps[-1] <= max(steps[:-1])


def test_what_is_near_to_the_last_one_becomes_none_unless_it_is_marked() -> None:
    points = Points(Bound(apart=100))
    added = [points.add(p, marked=mark) for p, mark in [(0, True), (99, False), (100, False), (150, True)]]
    assert added == [False, False, True, True]
    assert not points.add(200, marked=False)
    assert [*points.positions] == [100, 150]


def test_a_new_request_keeps_what_lies_before_it_and_its_own_marks_count_more() -> None:
    points = Points(Bound(share=1.0, least=1, apart=1))
    for position in (10, 20, 30, 40):
        points.add(position, marked=True)
    points.cut(30)
    assert [*points.positions] == [10, 20, 30]
    points.add(30, marked=True)
    points.add(31, marked=True)
    points.add(32, marked=True)
    points.drop()
    points.drop()
    assert [*points.positions] == [30, 31, 32], "closer together, but this request's"


@pytest.mark.parametrize(("share", "expected"), [(0.0, 2), (1.0, 4), (100.0, 30)])
def test_a_memory_holds_checkpoints_for_a_share_of_what_else_it_holds(share: float, expected: int) -> None:
    plain, recurrent = KVCache(), RecurrentCache()
    memory = Memory(attention={0: plain}, recurrent={1: recurrent})
    memory.points.bound = Bound(share=share, apart=1)
    memory.reserve(300)  # 16 KiB
    row = mx.zeros((1, 1, 10, 4))
    for _ in range(30):
        plain.attend(row, row, row, memory.span(10), scale=1.0)
        recurrent.replace((mx.zeros(1024),), 10)  # 4096 bytes
        memory.checkpoint(marked=False)
    states = memory.kept_bytes // 4096
    assert states == len(memory.points.positions) == expected
    assert states <= max(2, share * (memory.nbytes - memory.kept_bytes) / 4096)
    assert all(memory.restorable(point) == point for point in memory.points.positions)


def test_a_memory_that_goes_back_anywhere_has_no_points() -> None:
    memory = Memory(attention={0: KVCache()})
    row = mx.zeros((1, 1, 10, 4))
    memory.attention[0].attend(row, row, row, memory.span(10), scale=1.0)
    memory.checkpoint()
    assert not memory.points.positions
    assert memory.restorable(7) == 7
