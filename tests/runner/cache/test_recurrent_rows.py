"""States of rows that go on together stay in the same arrays, and each row has its own all the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.cache.recurrent import RecurrentCache
from runner.cache.together import RecurrentRows

ROWS = 4
DIGITS = 7  # of a state, which has the last numbers of its row


def step(rows: Sequence[RecurrentCache], numbers: Sequence[int]) -> None:
    """Each row is fed one number."""
    states = RecurrentRows(rows)
    before, last = states.state
    new = mx.array([*numbers], mx.float32)[:, None]
    states.replace((mx.concatenate([before[:, 1:], new], axis=1), mx.maximum(last, new)), 1)


def fresh() -> RecurrentCache:
    cache = RecurrentCache()
    cache.replace((mx.zeros((1, DIGITS)), mx.zeros((1, 1))), 1)
    return cache


def held(cache: RecurrentCache) -> list[Any]:
    assert cache.state is not None
    return [array.tolist() for array in cache.state]


def expected(numbers: Sequence[int]) -> list[Any]:
    return [[[float(number) for number in numbers[-DIGITS:]]], [[float(max(numbers))]]]


ACTIONS = st.tuples(
    st.permutations(range(ROWS)),
    st.integers(1, ROWS),
    st.integers(1, 3),
    st.sampled_from(["", "mark", "back", "settle"]),
)


@settings(deadline=None, max_examples=100)
@given(st.lists(ACTIONS, max_size=8))
def test_a_row_remembers_its_own_whoever_it_goes_with(script: list[tuple[list[int], int, int, str]]) -> None:
    rows = [fresh() for _ in range(ROWS)]
    numbers = [[0] * DIGITS for _ in rows]
    given_out = 0
    for order, count, times, then in script:
        going = order[:count]
        for _ in range(times):
            given_out += ROWS
            step([rows[row] for row in going], [given_out + row for row in going])
            for row in going:
                numbers[row].append(given_out + row)
        first = rows[going[0]]
        if then == "mark":
            first.checkpoint()
        elif then == "back":
            first.settle()
            assert first.rewind(first.offset - 1)
            numbers[going[0]].pop()
        elif then == "settle":
            first.settle()
        assert [held(row) for row in rows] == [expected(one) for one in numbers]


def test_rows_that_go_on_together_are_not_taken_apart() -> None:
    rows = [fresh() for _ in range(3)]
    step(rows, [1, 2, 3])
    left = RecurrentRows(rows).state
    assert all(one is other for one, other in zip(left, RecurrentRows(rows).state, strict=True))
    assert [array.shape for array in left] == [(3, DIGITS), (3, 1)]
    assert {row.nbytes for row in rows} == {2 * 4 * (DIGITS + 1)}, "its own state, and the one before"


def test_a_row_that_leaves_holds_on_to_nothing_of_the_others() -> None:
    rows = [fresh() for _ in range(3)]
    step(rows, [1, 2, 3])
    step(rows, [4, 5, 6])
    mx.eval(rows[1].settle())
    assert rows[1].settle() == []
    assert {array.shape for array in rows[1].save().values()} == {(1, DIGITS), (1, 1)}
    assert rows[1].rewind(2), "to before the last step"
    assert held(rows[1]) == expected([*[0] * DIGITS, 2])
