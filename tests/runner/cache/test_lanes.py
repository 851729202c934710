"""Rows that lend their ends to lanes hold what they would hold alone, whoever comes, rests and goes."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.cache.base import KeyValues
from runner.cache.company import Company
from runner.cache.kv import KVCache
from runner.cache.memory import Memory
from runner.cache.rotating import RotatingKVCache
from runner.cache.span import Span
from runner.cache.windowed import WindowedKVCache
from runner.kernels.rows_attention import LANE, PLAIN

ROWS = 3
MOST = 5
KINDS: dict[str, Callable[[], KeyValues]] = {
    "plain": KVCache,
    "windowed": lambda: WindowedKVCache(9),
    "rotating": lambda: RotatingKVCache(9),
}


def vectors(row: int, first: int, count: int) -> mx.array:
    """Keys, values or queries [1,1,L,D] that no other row or position has."""
    return mx.sin(mx.arange(first, first + count)[None, None, :, None] * mx.arange(1.0, 9.0) + row)


def alone(row: int, memory: Memory, count: int) -> mx.array:
    span = memory.span(count)
    new = vectors(row, span.offset, count)
    return memory.attention[0].attend(new, new, new, span, scale=1.0)


def in_company(company: Company, rows: dict[int, Memory]) -> mx.array:
    together = company.of(rows)
    new = [vectors(row, memory.offset, 1) for row, memory in rows.items()]
    batch = mx.concatenate([*new, *[vectors(0, 0, 1)] * (together.size - len(rows))])
    return together.attention[0].attend(batch, batch, batch, together.span(), scale=1.0)[: len(rows)]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=25)
@given(
    steps=st.lists(
        st.tuples(st.sets(st.integers(0, ROWS - 1), min_size=1), st.integers(1, LANE + 3)),
        min_size=1,
        max_size=6,
    )
)
def test_any_company_finds_what_each_row_finds_alone(kind: str, steps: list[tuple[set[int], int]]) -> None:
    """Some rows go together for some steps, then others; a row without company goes alone."""
    rows, twins = ({row: Memory({0: KINDS[kind]()}) for row in range(ROWS)} for _ in range(2))
    company = Company(MOST, PLAIN)
    for row in range(ROWS):
        alone(row, rows[row], row + 1)
        alone(row, twins[row], row + 1)
    for going, count in steps:
        for _ in range(count):
            if len(going) > 1:
                found = in_company(company, {row: rows[row] for row in going})
            else:
                found = mx.concatenate([alone(row, rows[row], 1) for row in going])
            expected = mx.concatenate([alone(row, twins[row], 1) for row in going])
            assert mx.allclose(found, expected, atol=1e-6)
    for row, memory in rows.items():
        assert memory.offset == twins[row].offset
        back = max(0, memory.offset - 2)
        assert memory.rewind(back)
        assert twins[row].rewind(back)
        assert mx.allclose(alone(row, memory, 3), alone(row, twins[row], 3), atol=1e-6)


def test_a_row_that_leaves_moves_no_other_rows_buffers() -> None:
    rows = {row: Memory({0: KVCache()}) for row in range(ROWS)}
    company = Company(MOST, PLAIN)
    for row, memory in rows.items():
        alone(row, memory, 5)
    in_company(company, rows)
    staying = {row: memory for row, memory in rows.items() if row != 1}
    before = {row: memory.attention[0].own().keys for row, memory in staying.items()}
    in_company(company, staying)
    assert rows[1].lane is None
    assert all(memory.attention[0].own().keys is before[row] for row, memory in staying.items())


def test_lanes_of_a_failed_step_are_not_used_again() -> None:
    rows = {row: Memory({0: KVCache()}) for row in range(ROWS)}
    company = Company(MOST, PLAIN)
    for row, memory in rows.items():
        alone(row, memory, 5)
    in_company(company, rows)
    company.dissolve()
    fresh = {row: Memory({0: KVCache()}) for row in range(2)}
    for row, memory in fresh.items():
        alone(row, memory, 2)
    found = in_company(company, fresh)
    twin = Memory({0: KVCache()})
    alone(0, twin, 2)
    assert mx.allclose(found[:1], alone(0, twin, 1), atol=1e-6)


def test_a_span_alone_ends_the_company() -> None:
    """Whoever feeds a row by itself finds all its positions in its own buffers."""
    memory, other = (Memory({0: KVCache()}) for _ in range(2))
    for row, one in enumerate((memory, other)):
        alone(row, one, 4)
    in_company(Company(2, PLAIN), {0: memory, 1: other})
    assert memory.offset == 5
    span = memory.span(1)
    assert isinstance(span, Span)
    assert memory.lane is None
    assert memory.attention[0].own().end == 5
