"""Sets of tokens as bits, and on the device."""

from __future__ import annotations

import math

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.generation import masks
from runner.generation.masks import Masks


def bits(tokens: set[int], words: int) -> bytes:
    packed = bytearray(4 * words)
    for token in tokens:
        packed[token // 8] |= 1 << token % 8
    return bytes(packed)


@given(vocabulary=st.integers(1, 100), data=st.data())
def test_each_bit_is_its_token(vocabulary: int, data: st.DataObject) -> None:
    tokens = data.draw(st.sets(st.integers(0, vocabulary - 1)))
    found = Masks(vocabulary).array(bits(tokens, -(-vocabulary // 32)))
    assert found.shape == (vocabulary,)
    assert found.dtype == mx.float32
    assert found.tolist() == [0.0 if token in tokens else -math.inf for token in range(vocabulary)]


def test_the_same_set_is_one_array_until_others_push_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "KEPT", 2)
    kept = Masks(32)
    first = kept.array(bits({1}, 1))
    kept.array(bits({2}, 1))
    assert kept.array(bits({1}, 1)) is first
    kept.array(bits({3}, 1))
    assert kept.array(bits({1}, 1)) is first
    kept.array(bits({2}, 1))
    kept.array(bits({3}, 1))
    again = kept.array(bits({1}, 1))
    assert again is not first
    assert mx.array_equal(again, first)
