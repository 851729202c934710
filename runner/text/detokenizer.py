"""Tokens in, whole characters out.

A character may span tokens and a token may end inside one, so the bytes of an unfinished character wait for
the next token. Whatever can no longer become a character is U+FFFD at once; what is unfinished at the end is
U+FFFD at the flush. Joined, the pieces are exactly the tokenizer's decode of all the tokens.

Knows nothing about stop strings or records.
"""

from __future__ import annotations

import codecs
from typing import Protocol

_Utf8 = codecs.getincrementaldecoder("utf-8")


class TokenBytes(Protocol):
    """What is needed of a tokenizer; a test has a smaller one."""

    def token_bytes(self, token_id: int) -> bytes: ...


class Detokenizer:
    """The text of one answer, token by token."""

    def __init__(self, tokenizer: TokenBytes) -> None:
        self._tokenizer = tokenizer
        self._decoder = _Utf8(errors="replace")

    def feed(self, token_id: int) -> str:
        """The characters that this token completes; "" means not yet."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """The end: U+FFFD if a character was left unfinished, else ""."""
        return self._decoder.decode(b"", final=True)
