"""The plain kinds of answer: a line of JSON, and a line of text that says what went wrong.

Knows nothing about routes, records or models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response


class JsonLine(JSONResponse):
    """One JSON value that ends its line, as Go's encoder writes it and a terminal likes it."""

    def render(self, content: Any) -> bytes:
        return (
            json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        )


class IdsLine(JSONResponse):
    """A JSON array of numbers, written in pieces: the encoder holds the GIL for each of them."""

    PIECE = 10_000

    def render(self, content: list[int]) -> bytes:
        pieces = (content[begin : begin + self.PIECE] for begin in range(0, len(content), self.PIECE))
        return b"[" + b",".join(json.dumps(piece)[1:-1].encode() for piece in pieces) + b"]\n"


def plain_error(message: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """An error before the first record, as Go's http.Error writes it."""
    return PlainTextResponse(f"{message}\n", status, headers)
