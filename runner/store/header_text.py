"""The JSON of a safetensors header, entry by entry.

A header is written by strangers and has up to MAX_HEADER_BYTES. A JSON parser that is given all of it holds the GIL
until it is through, and meanwhile no other thread lives: nobody answers a ping or notices that the host is gone. So
no call here looks at more than a string or an entry.

    {"__metadata__": {"name": "value", ...}, "tensor": {...}, ...}

Knows nothing about what an entry says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

MAX_HEADER_BYTES = 32 << 20
MAX_MEMBERS = 100_000  # tensors of one file; MLX, too, takes its time for each: 0.7 s for so many
MAX_ENTRY = 1000  # characters of what is said about a tensor
METADATA = "__metadata__"
BLANKS = re.compile(r"[ \t\n\r]*")
DECODER = json.JSONDecoder()


def parse_header(text: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Entries by the names of their tensors, and metadata. Raises ValueError."""
    metadata: dict[str, str] = {}
    cursor = _Cursor(text)

    def value(name: str) -> Any:
        if name != METADATA:
            return cursor.entry()
        if not cursor.takes("null"):  # MLX writes that for none
            cursor.members(metadata, lambda _: cursor.string())
        return None

    found: dict[str, Any] = {}
    cursor.members(found, value)
    found.pop(METADATA, None)
    cursor.end()
    return found, metadata


class _Cursor:
    """A place in a text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def takes(self, token: str) -> bool:
        """Whether this comes next; then it is behind us."""
        match = BLANKS.match(self._text, self._at)
        assert match is not None  # blanks may be none
        self._at = match.end()
        found = self._text.startswith(token, self._at)
        self._at += len(token) * found
        return found

    def members(self, found: dict[str, Any], value: Callable[[str], Any]) -> None:
        """An object, whose members go into `found`."""
        self._expect("{")
        if self.takes("}"):
            return
        while True:
            name = self.string()
            self._expect(":")
            if name in found:
                raise ValueError(f"the name {name!r} is there twice")
            found[name] = value(name)
            if len(found) > MAX_MEMBERS:
                raise ValueError(f"more than {MAX_MEMBERS} names")
            if self.takes("}"):
                return
            self._expect(",")

    def string(self) -> str:
        if not self.takes('"'):
            raise ValueError(f"expected a string at character {self._at}")
        value: str
        value, self._at = DECODER.raw_decode(self._text, self._at - 1)
        return value

    def entry(self) -> Any:
        """A value that is no longer than it needs to be, parsed. No brace is within another."""
        is_object = self.takes("{")
        self._at -= is_object
        end = self._text.find("}", self._at, self._at + MAX_ENTRY) + 1
        if not (is_object and end):
            raise ValueError(f"character {self._at} begins no object of {MAX_ENTRY} characters at most")
        begin, self._at = self._at, end
        return json.loads(self._text[begin:end], object_pairs_hook=_without_duplicates)

    def end(self) -> None:
        self.takes("")
        if self._at != len(self._text):
            raise ValueError(f"the header ends at character {self._at} of {len(self._text)}")

    def _expect(self, token: str) -> None:
        if not self.takes(token):
            raise ValueError(f"expected {token} at character {self._at}")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found
