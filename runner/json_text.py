"""JSON of strangers, in bites.

A JSON parser that is given megabytes holds the GIL until it is through, and meanwhile no other thread lives: nobody
answers a ping or notices that the host is gone. So whoever reads a long text walks along it here, and the parser
sees a string or a short value at a time.

Knows nothing about what a text says: standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

BLANKS = re.compile(r"[ \t\n\r]*")


class Limit(ValueError):
    """There is more than anybody wants to read."""


class Cursor:
    """A place in a text. What is wrong there is a ValueError."""

    def __init__(self, text: str, decoder: json.JSONDecoder) -> None:
        self._text = text
        self._decoder = decoder
        self._at = 0

    @property
    def at(self) -> int:
        """How many characters are behind us."""
        return self._at

    def takes(self, token: str) -> bool:
        """Whether this comes next; then it is behind us."""
        match = BLANKS.match(self._text, self._at)
        assert match is not None  # blanks may be none
        self._at = match.end()
        found = self._text.startswith(token, self._at)
        self._at += len(token) * found
        return found

    def members(self, most: int) -> Iterator[str]:
        """The names of an object; whoever asks for the next one has taken the value."""
        self._expect("{")
        if self.takes("}"):
            return
        for _ in range(most):
            name = self.string()
            self._expect(":")
            yield name
            if self.takes("}"):
                return
            self._expect(",")
        raise Limit(f"more than {most} names")

    def string(self) -> str:
        """Of any length: the parser is quick with them."""
        if not self.takes('"'):
            raise ValueError(f"expected a string at character {self._at}")
        text: str
        text, self._at = self._decoder.raw_decode(self._text, self._at - 1)
        return text

    def value(self, longest: int) -> Any:
        """A string, or a value of so many characters at most."""
        if self.takes('"'):
            self._at -= 1
            return self.string()
        part = self._text[self._at : self._at + longest]
        try:
            value, length = self._decoder.raw_decode(part)
        except json.JSONDecodeError:
            kind = Limit if len(part) == longest else ValueError
            raise kind(f"character {self._at} begins no value of {longest} characters at most") from None
        self._at += length
        return value

    def end(self) -> None:
        """Nothing comes any more."""
        self.takes("")
        if self._at != len(self._text):
            raise ValueError(f"the text ends at character {self._at} of {len(self._text)}")

    def _expect(self, token: str) -> None:
        if not self.takes(token):
            raise ValueError(f"expected {token} at character {self._at}")
