"""Streaming equals whole decoding, for every way of cutting the bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.text.detokenizer import Detokenizer

SAMPLES = {
    "emoji family": "👨‍👩‍👧‍👦".encode(),
    "flags": "🇯🇵🏴󠁧󠁢󠁥󠁮󠁧󠁿".encode(),
    "combining marks": "e\u0301 ạ̊ นํ้า".encode(),
    "cjk": "日本語の文".encode(),
    "arabic": "السَّلَامُ".encode(),
    "a replacement character of its own": "a\ufffdb\ufffd".encode(),
    "a lone continuation": b"a\x80b",
    "never legal": b"\xff\xfe\xc0\x80",
    "cut off, then ascii": b"\xe6\x97x",
    "cut off at the end": b"ok \xf0\x9f\x91",
    "a surrogate": b"\xed\xa0\x80!",
    "beyond the last code point": b"\xf4\x90\x80\x80",
    "nothing, nul and newline": b"\x00\r\n",
}


class Pieces:
    """A tokenizer whose token n is the n-th piece of bytes."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def token_bytes(self, token_id: int) -> bytes:
        return self.pieces[token_id]


def stream(pieces: list[bytes]) -> list[str]:
    detokenizer = Detokenizer(Pieces(pieces))
    return [*map(detokenizer.feed, range(len(pieces))), detokenizer.flush()]


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES.keys())
def test_every_cut_into_three_equals_the_whole_decode(sample: bytes) -> None:
    whole = sample.decode("utf-8", "replace")
    for i in range(len(sample) + 1):
        for j in range(i, len(sample) + 1):
            assert "".join(stream([sample[:i], sample[i:j], sample[j:]])) == whole


@given(st.lists(st.binary(max_size=5) | st.text(max_size=2).map(str.encode), max_size=12))
def test_any_bytes_in_any_pieces_equal_the_whole_decode(pieces: list[bytes]) -> None:
    assert "".join(stream(pieces)) == b"".join(pieces).decode("utf-8", "replace")


@given(st.text(max_size=8))
def test_byte_by_byte_each_character_comes_with_its_last_byte(text: str) -> None:
    data = text.encode()
    fed = stream([data[i : i + 1] for i in range(len(data))])
    assert [piece for piece in fed if piece] == list(text)
    assert fed[-1] == ""


def test_an_unfinished_character_is_released_at_the_flush() -> None:
    assert stream([b"a\xf0\x9f", b"\x91"]) == ["a", "", "\ufffd"]


def test_an_invalid_byte_is_not_held_back() -> None:
    assert stream([b"\xff", b"b"]) == ["\ufffd", "b", ""]
