"""What any answer must be, whatever was asked: the rules that hold for every input.

Knows nothing about processes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NoReturn

from reliability.process import Reply

LINE_LIMIT = 65_535  # bytes with the newline: hosts read no longer one
LONGEST_ERROR = 8192
PLAIN = "text/plain; charset=utf-8"
BUG = "Traceback"


class Wrong(Exception):
    """An answer that must not be; the message says why."""


def check_error(reply: Reply, allowed: Sequence[int], secrets: Sequence[str] = ()) -> None:
    """One plain line with one of these statuses, without any of these texts in it. Raises Wrong."""
    text = reply.body.decode(errors="replace")
    if reply.status not in allowed:
        raise Wrong(f"status {reply.status}: {text[:300]!r}")
    if reply.content_type != PLAIN or not text.endswith("\n") or text.count("\n") != 1:
        raise Wrong(f"status {reply.status} is no plain line: {reply.content_type} {text[:300]!r}")
    if len(reply.body) > LONGEST_ERROR:
        raise Wrong(f"an error of {len(reply.body)} bytes")
    for secret in (BUG, *secrets):
        if secret in text:
            raise Wrong(f"status {reply.status} tells {secret!r}: {text[:300]!r}")


def check_stream(body: bytes) -> dict[str, Any]:
    """Lines of JSON of which the last one, and no other, is an end; that one. Raises Wrong."""
    if not body.endswith(b"\n"):
        raise Wrong(f"the stream breaks off: {body[-200:]!r}")
    records = [_record(line) for line in body[:-1].split(b"\n")]
    ends = [number for number, record in enumerate(records) if record.get("done")]
    if ends != [len(records) - 1]:
        raise Wrong(f"{len(records)} records, ends at {ends[:5]}")
    return records[-1] | {"text": "".join(record.get("content", "") for record in records)}


def _record(line: bytes) -> dict[str, Any]:
    if len(line) + 1 >= LINE_LIMIT:
        raise Wrong(f"a line of {len(line) + 1} bytes")
    try:
        record = json.loads(line.decode(), parse_constant=_refuse)
    except ValueError as error:
        raise Wrong(f"a line is no JSON: {error}: {line[:200]!r}") from None
    if not isinstance(record, dict) or not isinstance(record.get("done"), bool):
        raise Wrong(f"a line is no record: {line[:200]!r}")
    return record


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)
