"""The JSON of a body, before anybody knows what it says.

A body may have 16 MiB, and a JSON parser holds the GIL until it is through: of numbers or empty lists that would be
seconds in which no other client, no ping and no signal is answered. So a long body is read on a thread (`aside`)
and in bites: its members one by one, each a string or short, a list of ids in pieces.

Knows nothing about fields.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

from runner.errors import BadRequest, RunnerError
from runner.json_text import Cursor, Limit

LONG = 256 * 1024  # bytes; shorter ones are parsed within some 10 ms, whatever they hold
MAX_VALUES = 5 << 18  # characters of all values but strings: those of the longest `format`, and blanks
MAX_MEMBERS = 1000  # of a long body; hosts send about 20
MAX_IDS = 1 << 20
PIECE = 64 * 1024  # characters of a list of ids

Made = TypeVar("Made")


class BadBody(RunnerError):
    """What Go's decoder would refuse. The host shows the text as it is."""

    status = 400

    def __init__(self) -> None:
        super().__init__("Bad Request")


async def aside(size: int, call: Callable[[], Made]) -> Made:
    """What a call makes of a body of this size, on a thread if that may take its time."""
    return call() if size <= LONG else await asyncio.to_thread(call)


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object; of several values of a name the last."""
    try:
        text = data.decode()
        body = DECODER.decode(text) if len(data) <= LONG else _members(text)
    except Limit as error:
        raise BadRequest(f"body of {len(data)} bytes: {error}") from None
    except (ValueError, RecursionError):
        raise BadBody from None
    if not isinstance(body, dict):
        raise BadBody
    return body


def parse_ids(data: bytes) -> list[int]:
    """A JSON array of integers, MAX_IDS at most."""
    ids: list[int] = []
    try:
        text = data.decode().strip(" \t\r\n")
        if text.count(",") >= MAX_IDS:
            raise BadRequest(f"{text.count(',') + 1} ids at once, limit {MAX_IDS}")
        if text[:1] != "[" or text[-1:] != "]" or len(text) < 2:
            raise BadBody
        for piece in _pieces(text[1:-1]):
            part = DECODER.decode(f"[{piece}]")
            if not all(type(token_id) is int for token_id in part):
                raise BadBody
            ids += part
    except (ValueError, RecursionError):
        raise BadBody from None
    return ids


def _members(text: str) -> dict[str, Any]:
    cursor, found, left = Cursor(text, DECODER), {}, MAX_VALUES
    for name in cursor.members(MAX_MEMBERS):
        begin = cursor.at
        found[name] = cursor.value(left)
        if not isinstance(found[name], str):
            left -= cursor.at - begin
    cursor.end()
    return found


def _pieces(text: str) -> Iterator[str]:
    """Cut at commas; none is empty, unless all is."""
    begin = 0
    while (end := text.find(",", begin + PIECE)) >= 0:
        yield text[begin:end]
        begin = end + 1
    if begin and not text[begin:].strip():
        raise BadBody
    yield text[begin:]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
