"""What an answer must look like: `format` of a completion becomes a Grammar.

    null, ""                                      nothing in particular
    {"type": "structural_tag", "format": ...}     what hosts send: a schema, or free text, a closing mark, a schema
    "json"                                        any JSON object
    {"type": "regex", "pattern": "..."}           the whole answer matches
    {"type": "lark", "grammar": "..."}            llguidance's dialect of Lark
    {"type": "gbnf", "grammar": "..."}            llama.cpp's grammars
    {"type": "choice", "choices": ["...", ...]}   one of these strings
    any other object                              a JSON schema

A host's schema is enforced as far as it can be, since the host's own runner passes over what it cannot enforce; a
direct client's is enforced wholly or refused. Keys of a schema keep their order: it is the order of an answer's
keys.

Knows nothing about grammars beyond their spelling here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from runner.errors import BadRequest
from runner.types import Grammar

MAX_BYTES = 1 << 20  # the host's own limits
MAX_LEVELS = 128
MAX_CHOICES = 10_000
MAX_CLOSES = 16

Object = dict[str, Any]


def read_format(value: Any) -> Grammar | None:
    """Raises BadRequest; the text begins as the host's does."""
    if value is None or value == "":
        return None
    if value == "json":
        return Grammar("json_schema", '{"type":"object"}')
    if not isinstance(value, dict):
        raise refusal('expected a structural tag, "json", a JSON schema or a grammar', value)
    _check_size(value)
    kind = value.get("type")
    reader = READERS.get(kind) if isinstance(kind, str) else None
    return Grammar("json_schema", _compact(value)) if reader is None else reader(value)


def _structural_tag(value: Object) -> Grammar:
    """{"json_schema"} alone, or [any_text, optional [closing mark, json_schema]]."""
    found = value.get("format")
    if not isinstance(found, dict):
        raise refusal("expected a structural tag", found)
    if found.get("type") != "sequence":
        return _tagged_schema(found, ())
    match found.get("elements"):
        case [
            {"type": "any_text"},
            {
                "type": "optional",
                "content": {"type": "sequence", "elements": [dict() as mark, dict() as schema]},
            },
        ]:
            return _tagged_schema(schema, _closes(mark))
    raise refusal("expected free text, a closing mark and a json_schema", found)


def _tagged_schema(tag: Object, closes: tuple[str, ...]) -> Grammar:
    if tag.get("type") != "json_schema" or "json_schema" not in tag:
        raise refusal("expected a json_schema", tag)
    return Grammar("json_schema", _compact(tag["json_schema"]), closes, lenient=True)


def _closes(mark: Object) -> tuple[str, ...]:
    """The strings that end free text: one constant, or several alternatives."""
    marks = mark.get("elements") if mark.get("type") == "or" else [mark]
    match marks:
        case [*several] if 0 < len(several) <= MAX_CLOSES:
            return tuple(_close(one) for one in several)
    raise refusal(f"expected 1 to {MAX_CLOSES} closing marks", mark)


def _close(mark: Any) -> str:
    match mark:
        case {"type": "const_string", "value": str() as text} if text:
            return text
    raise refusal("expected a const_string", mark)


def _regex(value: Object) -> Grammar:
    return Grammar("regex", _text(value, "pattern"))


def _lark(value: Object) -> Grammar:
    return Grammar("lark", _text(value, "grammar"))


def _gbnf(value: Object) -> Grammar:
    return Grammar("gbnf", _text(value, "grammar"))


def _choice(value: Object) -> Grammar:
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(text, str) for text in choices):
        raise refusal("a choice needs choices, an array of strings", choices)
    if len(choices) > MAX_CHOICES:
        raise BadRequest(f"invalid format: {len(choices)} choices; limit is {MAX_CHOICES}")
    return Grammar("choice", _compact(choices))


READERS: dict[str, Callable[[Object], Grammar]] = {
    "structural_tag": _structural_tag,
    "regex": _regex,
    "lark": _lark,
    "gbnf": _gbnf,
    "choice": _choice,
}


def _text(value: Object, key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str) or not text:
        raise refusal(f"{value['type']} needs a {key}, a string", text)
    return text


def _check_size(value: Object) -> None:
    if _levels(value) > MAX_LEVELS:  # first: what could just be read may have too many to be written
        raise BadRequest(f"invalid format: grammar nesting exceeds {MAX_LEVELS} levels")
    size = len(_compact(value).encode(errors="replace"))
    if size > MAX_BYTES:
        raise BadRequest(f"invalid format: grammar is {size} bytes; limit is {MAX_BYTES}")


def _levels(value: Any) -> int:
    """How deep objects and arrays stand in one another."""
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        inner, level = waiting.pop()
        if isinstance(inner, dict | list):
            deepest = max(deepest, level)
            waiting += [(one, level + 1) for one in (inner.values() if isinstance(inner, dict) else inner)]
    return deepest


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def refusal(expected: str, got: Any) -> BadRequest:
    shown = json.dumps(got) if _levels(got) <= MAX_LEVELS else f"more than {MAX_LEVELS} levels"
    return BadRequest(f"invalid format: {expected}, got {shown if len(shown) <= 80 else shown[:80] + '...'}")
