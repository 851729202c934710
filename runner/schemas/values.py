"""The values of keywords, checked and written as the grammar compiler wants them.

The compiler reads numbers as 64-bit floats, and unrolls some counts: each limit below is one of its own, or keeps
it quick. A value that is wrong by the drafts is an error; a value beyond a limit says its limit.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import TypeGuard

from runner.errors import BadGrammar
from runner.schemas.keywords import TYPES
from runner.schemas.references import Place

MAX_NUMBER = 2**53  # above it, 64-bit floats leave integers out
MAX_LEAST = 100_000  # an answer of more items or characters than this never ends
MAX_MOST = 2**31 - 1
MAX_MULTIPLE = 100_000  # the compiler makes a state of each remainder: 0.2 s, 47 MB
MAX_DIGITS = 20
MAX_TEXT = 10_000


class Unsupported(Exception):
    """A keyword whose value cannot be held to. `why` ends the sentence that names the keyword."""

    def __init__(self, keyword: str, why: str = "is not supported") -> None:
        super().__init__(why)
        self.keyword = keyword
        self.why = why


def wrong(place: Place, keyword: str, wanted: str) -> BadGrammar:
    return BadGrammar(f'"{keyword}" at {place.where} must be {wanted}')


def types(place: Place, declared: object) -> object:
    names = declared if isinstance(declared, list) else [declared]
    if not names:
        raise wrong(place, "type", "a type, or a list of at least one")
    for name in names:
        if name not in TYPES:
            raise BadGrammar(f'"type" at {place.where} names {name!r}, which is no type')
    return declared


def count(place: Place, keyword: str, value: object) -> int:
    if not finite(value) or value < 0 or value != int(value):
        raise wrong(place, keyword, f"a whole number from 0, not {value!r}")
    limit = MAX_LEAST if keyword.startswith("min") else MAX_MOST
    if value > limit:
        raise BadGrammar(f'"{keyword}" at {place.where} is {int(value):,}; the limit is {limit:,}')
    return int(value)


def bound(place: Place, keyword: str, value: object) -> int | float:
    """A bound of numbers. Beyond 2**53 an outer bound moves in to it, which is narrower."""
    exact = number(place, keyword, value)
    if abs(exact) > MAX_NUMBER:
        inner = keyword.lower().endswith("maximum") == (exact > 0)
        if not inner:
            raise Unsupported(keyword, f"is {value}, beyond 2**53")
        return MAX_NUMBER if exact > 0 else -MAX_NUMBER
    if behind(exact) > MAX_DIGITS:
        raise Unsupported(keyword, f"is {value}, with more than {MAX_DIGITS} digits behind the point")
    return int(exact) if exact == int(exact) else exact


def finite(value: object) -> TypeGuard[int | float]:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def number(place: Place, keyword: str, value: object) -> int | float:
    if not finite(value):
        raise wrong(place, keyword, f"a number, not {value!r}")
    return value


def multiple(place: Place, value: object) -> int | float:
    exact = number(place, "multipleOf", value)
    if exact <= 0:
        raise wrong(place, "multipleOf", f"a number above 0, not {value!r}")
    if exact > MAX_NUMBER or digits(exact) > MAX_MULTIPLE:
        raise Unsupported("multipleOf", f"is {value}, which has more than five digits")
    return int(exact) if exact == int(exact) else exact


def behind(exact: int | float) -> int:
    """How many digits stand behind the point."""
    exponent = Decimal(repr(exact)).normalize().as_tuple().exponent
    assert isinstance(exponent, int)
    return max(0, -exponent)


def digits(exact: int | float, places: int = 0) -> int:
    """A number's digits as one whole number, at least so many of them behind the point."""
    return int(Decimal(repr(exact)).scaleb(max(behind(exact), places)))


def text(place: Place, value: str) -> str:
    """A string that an answer holds."""
    if len(value) > MAX_TEXT:
        raise BadGrammar(
            f"a string at {place.where} has {len(value):,} characters; the limit is {MAX_TEXT:,}"
        )
    if any("\ud800" <= sign <= "\udfff" for sign in value):
        raise BadGrammar(f"a string at {place.where} holds half a character (a surrogate)")
    return value


def constant(place: Place, keyword: str, value: object) -> object:
    """A value of `enum` or `const`. -0.0 and 1.0 are written as the whole numbers that they equal."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        number(place, keyword, value)
        if abs(value) > MAX_NUMBER:
            raise Unsupported(keyword, f"holds {value}, beyond 2**53")
        return int(value) if value == int(value) else bound(place, keyword, value)
    if isinstance(value, str):
        return text(place, value)
    if isinstance(value, list):
        return [constant(place, keyword, item) for item in value]
    if isinstance(value, dict):
        return {text(place, key): constant(place, keyword, item) for key, item in value.items()}
    raise wrong(place, keyword, f"JSON, not {value!r}")
