"""The JSON of a safetensors header, entry by entry.

    {"__metadata__": {"name": "value", ...}, "tensor": {...}, ...}

Knows nothing about what an entry says.
"""

from __future__ import annotations

import json
from typing import Any

from runner.json_text import Cursor

MAX_HEADER_BYTES = 32 << 20
MAX_MEMBERS = 100_000  # tensors of one file; MLX, too, takes its time for each: 0.7 s for so many
MAX_ENTRY = 1000  # characters of what is said about a tensor
METADATA = "__metadata__"


def parse_header(text: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Entries by the names of their tensors, and metadata. Raises ValueError."""
    cursor = Cursor(text, json.JSONDecoder(object_pairs_hook=_without_duplicates))
    found: dict[str, Any] = {}
    for name in cursor.members(MAX_MEMBERS):
        _refuse_twice(name, found)
        found[name] = _metadata(cursor) if name == METADATA else cursor.value(MAX_ENTRY)
    cursor.end()
    return found, found.pop(METADATA, {})


def _metadata(cursor: Cursor) -> dict[str, str]:
    found: dict[str, str] = {}
    if not cursor.takes("null"):  # MLX writes that for none
        for name in cursor.members(MAX_MEMBERS):
            _refuse_twice(name, found)
            found[name] = cursor.string()
    return found


def _refuse_twice(name: str, found: dict[str, Any]) -> None:
    if name in found:
        raise ValueError(f"the name {name!r} is there twice")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found
