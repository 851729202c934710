"""The keywords of strings."""

from __future__ import annotations

import re

from runner.schemas import formats, values
from runner.schemas.context import Schema, Writing
from runner.schemas.patterns import NotRegular, translated
from runner.schemas.references import Place
from runner.schemas.values import Unsupported, wrong

# A character that JSON can only spell by code point.
BY_CODE_POINT = re.compile(r"(?<!-)\\x\{(?:[0-7BEF]|1[0-9A-F]|7F)\}(?!-)")


def written(writer: Writing, place: Place, value: Schema, own: Schema, extra: list[object]) -> None:
    for keyword in ("minLength", "maxLength"):
        if keyword in value:
            own[keyword] = values.count(place, keyword, value[keyword])
    if "pattern" in value:
        with writer.trying(place):
            own["pattern"] = pattern(writer, place, "pattern", value["pattern"])
    name = value.get("format")
    if isinstance(name, str) and name in formats.REFUSED:
        with writer.trying(place):
            raise Unsupported("format", f'is "{name}", which is not supported')
    elif isinstance(name, str) and name in formats.PATTERNS:
        extra.append({"pattern": translated(formats.PATTERNS[name])})
    elif isinstance(name, str) and name in formats.COMPILED:
        own["format"] = name


def pattern(writer: Writing, place: Place, keyword: str, given: object) -> str:
    if not isinstance(given, str):
        raise wrong(place, keyword, "a string")
    try:
        text = translated(given)
    except NotRegular as error:
        raise Unsupported(keyword, f"is {_shown(given)}: {error}") from error
    if BY_CODE_POINT.search(text):
        writer.needs_code_points.append(f'"{keyword}" at {place.where}')
    return text


def _shown(pattern: str) -> str:
    return f'"{pattern}"' if len(pattern) <= 60 else f'"{pattern[:60]}..."'
