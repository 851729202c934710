"""Spans are gone with their last user, and their arrays with them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from runner.cache.span import Span


@pytest.fixture
def no_collector() -> Iterator[None]:
    """The collector of circles would hide one."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_a_span_is_in_no_circle() -> None:
    alone = Span(3, 1)
    together = Span.together([alone, Span(5, 1)])
    seen = [weakref.ref(span) for span in (alone, together, Span.scattered([1, 2]))]
    assert alone.starts.item() == 3
    assert together.starts.tolist() == [3, 5]
    assert together.rows[0] is alone
    assert alone.rows == (alone,)
    del alone, together
    assert [reference() for reference in seen] == [None] * 3
