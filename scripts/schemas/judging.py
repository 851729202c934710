"""What is wrong with an answer to a schema, in words.

Numbers are decimals here, in the schema and in the answer: 0.07 is a multiple of 0.01, and 3.00000000000000000001
is more than 3. As floats they are not.

Knows nothing about models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, NoReturn

from jsonschema import Draft202012Validator, FormatChecker  # type: ignore[import-untyped]  # it has no types
from jsonschema.validators import extend  # type: ignore[import-untyped]  # it has no types

BLANKS = 17  # a new line and its indent, the longest that a grammar allows
STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
RUN = re.compile(r"[ \t\r\n]+")

FORMATS = FormatChecker(("email", "ipv4", "ipv6", "uuid"))


def _checks(name: str, read: Callable[[str], object]) -> None:
    """What `read` raises a ValueError for is not of this format. Python knows no year 0, which the format has."""

    def is_right(text: object) -> bool:
        return not isinstance(text, str) or read(re.sub("^0000-", "2000-", text.upper())) is not None

    FORMATS.checks(name, raises=ValueError)(is_right)


_checks("date", date.fromisoformat)
_checks("time", lambda text: time.fromisoformat(text).tzinfo)
_checks("date-time", lambda text: datetime.fromisoformat(text).tzinfo)


def _is_integer(_checker: object, value: object) -> bool:
    whole = isinstance(value, Decimal) and value == value.to_integral_value()
    return whole or (isinstance(value, int) and not isinstance(value, bool))


VALIDATOR = extend(
    Draft202012Validator, type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
)


def wrong_whole(schema: str, answer: str) -> Iterator[str]:
    """Of an answer that came to its end."""
    if answer != answer.strip():
        yield "it begins or ends in blanks"
    yield from wrong_blanks(answer)
    try:
        value = _read(answer)
    except ValueError as error:
        yield f"it is not JSON: {error}"
        return
    for found in VALIDATOR(_read(schema), format_checker=FORMATS).iter_errors(value):
        yield f"it is not valid: at {found.json_path}: {found.message}"


def wrong_beginning(answer: str, accepted: Callable[[str], bool]) -> Iterator[str]:
    """Of an answer that a limit cut, in the midst of a character perhaps. accepted: whether one may begin so."""
    if answer[:1].isspace():
        yield "it begins in blanks"
    yield from wrong_blanks(answer)
    if not accepted(answer.removesuffix("\ufffd")):
        yield "no answer may begin so"


def wrong_blanks(answer: str) -> Iterator[str]:
    longest = max(map(len, RUN.findall(STRING.sub('""', answer))), default=0)
    if longest > BLANKS:
        yield f"it has {longest} blanks in a row"


def writes_a_key_twice(answer: str) -> bool:
    """Valid JSON, whose readers take one of the two."""
    twice: list[bool] = []
    json.loads(answer, object_pairs_hook=lambda pairs: twice.append(len(dict(pairs)) < len(pairs)))
    return any(twice)


def _read(text: str) -> Any:
    return json.loads(text, parse_float=Decimal, parse_constant=_no_number)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
