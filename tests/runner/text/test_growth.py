"""Normalizers that make much of little."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers

from runner.errors import BadModelFiles, BadRequest
from runner.text.growth import FREE, MOST, USUAL
from runner.text.tokenizer import Tokenizer
from tests.parts import tiny


def with_normalizer(normalizer: Any, added: str = "") -> Tokenizer:
    inner = tiny.tokenizer()
    inner.normalizer = normalizer
    text = inner.to_str()
    if added:  # not through the library, which would normalize it here
        entry = '{"id": 300, "content": "%s", "single_word": false, "lstrip": false, "rstrip": false, '
        entry += '"normalized": true, "special": false}, '
        text = text.replace('"added_tokens": [', '"added_tokens": [' + entry % added, 1)
    return Tokenizer(text)


def repeating(times: int, steps: int) -> Any:
    return normalizers.Sequence([normalizers.Replace("a", "a" * times)] * steps)


@pytest.mark.parametrize(
    "normalizer",
    [
        repeating(1000, 3),
        normalizers.Replace("a", "b" * (MOST + 1)),
        normalizers.Sequence([normalizers.Replace(Regex("(?=a)"), "a" * 99)] * 3),
        normalizers.Sequence([normalizers.Prepend("a" * 99)] * 3),
        normalizers.Sequence([normalizers.ByteLevel()] * 20),
    ],
    ids=["letters", "one", "empty matches", "beginnings", "bytes"],
)
def test_a_normalizer_that_multiplies_without_measure_is_refused(normalizer: Any) -> None:
    with pytest.raises(BadModelFiles, match=rf"up to \d+ times as long, limit {MOST}"):
        with_normalizer(normalizer)


def test_it_is_refused_before_added_tokens_are_normalized() -> None:
    with pytest.raises(BadModelFiles, match="times as long"):
        with_normalizer(repeating(1000, 3), added="a" * 1000)


def test_a_text_that_would_become_too_long_is_refused_and_others_are_not() -> None:
    tokenizer = with_normalizer(repeating(10, 3))
    assert len(tokenizer.encode("a" * (FREE // 1000))) == FREE // 1000 * 1000
    assert len(tokenizer.encode("b" * FREE)) == FREE
    with pytest.raises(BadRequest, match="makes more than"):
        tokenizer.encode("a" * (FREE // 1000 + 1))
    with pytest.raises(BadRequest, match=f"makes more than {2 * USUAL * FREE} characters"):
        tokenizer.encode("ab" * FREE)


@pytest.mark.parametrize(
    "normalizer",
    [
        None,
        normalizers.NFC(),
        normalizers.Replace(" ", "▁"),
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]),
        normalizers.Sequence([normalizers.Replace("``", '"'), normalizers.Replace("\u2026", "...")]),
    ],
    ids=str,
)
@given(text=st.text())
def test_what_published_models_do_is_no_trouble(normalizer: Any, text: str) -> None:
    with_normalizer(normalizer).encode(text)


def test_the_word_may_be_a_token() -> None:
    inner = tiny.tokenizer()
    inner.add_tokens([AddedToken("normalizer"), AddedToken('normalizer":{')])
    assert Tokenizer(inner.to_str()).encode("normalizer")
