"""One schema's own keywords, apart from those that apply other schemas to the same value."""

from __future__ import annotations

import re

from runner.errors import BadGrammar
from runner.schemas import objects, strings, values
from runner.schemas.context import Context, Schema, Writing
from runner.schemas.references import BOUNDS, LONELY, Place
from runner.schemas.values import wrong

MAX_CONSTANTS = 20_000
NEAREST = 1e-9

# Characters that JSON can only spell by code point.
BY_CODE_POINT = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")


def written(
    writer: Writing, place: Place, value: Schema, depth: int, context: Context
) -> tuple[Schema, list[object]]:
    """The keywords, and schemas to hold the value to besides."""
    own: Schema = {}
    extra: list[object] = []
    kinds = _types(writer, place, value, context)
    if kinds is not None:
        own["type"] = kinds
    _constants(writer, place, value, own)
    _arrays(writer, place, value, depth, own)
    objects.written(writer, place, value, depth, context, own)
    for keyword in BOUNDS:
        if keyword in value:
            with writer.trying(place):
                _bound(writer, place, keyword, value, own)
    if "multipleOf" in value:
        with writer.trying(place):
            multiple = values.multiple(place, value["multipleOf"])
            writer.spend(place, "multipleOf", values.digits(multiple))
            own["multipleOf"] = multiple
    strings.written(writer, place, value, own, extra)
    return own, extra


def _types(writer: Writing, place: Place, value: Schema, context: Context) -> object:
    """A host takes a schema of properties for one of objects, though the drafts do not."""
    if "type" in value:
        return values.types(place, value["type"])
    if not writer.lenient or not context.single or "enum" in value or "const" in value:
        return None
    if isinstance(value.get("properties"), dict):
        return "object"
    return "array" if "items" in value or "prefixItems" in value else None


def _constants(writer: Writing, place: Place, value: Schema, own: Schema) -> None:
    if "const" in value:
        with writer.trying(place):
            own["const"] = _constant(writer, place, "const", value["const"])
    if "enum" in value:
        listed = value["enum"]
        if not isinstance(listed, list) or not listed:
            raise BadGrammar(f'enum array must not be empty: "enum" at {place.where}')
        with writer.trying(place):
            own["enum"] = [_constant(writer, place, "enum", item) for item in listed]


def _constant(writer: Writing, place: Place, keyword: str, value: object) -> object:
    writer.constants += _size(value)
    if writer.constants > MAX_CONSTANTS:
        raise BadGrammar(f"the values of its enum and const are more than {MAX_CONSTANTS:,}; list fewer")
    if any(BY_CODE_POINT.search(text) for text in _texts(value)):
        writer.needs_code_points.append(f'"{keyword}" at {place.where}')
    return values.constant(place, keyword, value)


def _size(value: object) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(_size, value.values()))
    return 1 + sum(map(_size, value)) if isinstance(value, list) else 1


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    inside = list(value.values()) if isinstance(value, dict) else value
    return [text for item in inside for text in _texts(item)] if isinstance(inside, list) else []


def _bound(writer: Writing, place: Place, keyword: str, value: Schema, own: Schema) -> None:
    """Draft 4's booleans make the inclusive bound an exclusive one."""
    inclusive = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}.get(keyword)
    given = value[keyword]
    if inclusive and isinstance(given, bool):
        given = value.get(inclusive) if given else None
        if given is None:
            return
    bound = values.bound(place, keyword, given)
    if inclusive and isinstance(bound, int) and writer.document.has_fractional_bounds:
        keyword, bound = inclusive, _moved(inclusive, bound, own.get(inclusive))
    own[keyword] = bound


def _moved(inclusive: str, bound: int, other: object) -> float:
    """A whole bound that is exclusive, as the nearest inclusive one of nine digits.

    The compiler lets 0 through where a number is above 0 and at most 0.5: it loses the exclusion where a
    fractional bound has the same whole part.
    """
    known = [other] if isinstance(other, int | float) else []
    if inclusive == "minimum":
        return max([bound + NEAREST, *known])
    return min([bound - NEAREST, *known])


def _arrays(writer: Writing, place: Place, value: Schema, depth: int, own: Schema) -> None:
    for keyword in ("minItems", "maxItems"):
        if keyword in value:
            own[keyword] = values.count(place, keyword, value[keyword])
    dialect = writer.document.dialect
    first, rest = "prefixItems", "items"
    if isinstance(value.get("items"), list):
        first, rest = "items", "additionalItems"
    elif "2019-09" in dialect or any(draft in dialect for draft in LONELY):
        first = ""
    if "unevaluatedItems" in value and rest not in value:
        rest = "unevaluatedItems"
    if first in value:
        own["prefixItems"] = _schemas(writer, place, first, depth)
    if rest in value:
        own["items"] = writer.standalone(writer.document.child(place, rest), depth + 1)


def _schemas(writer: Writing, place: Place, keyword: str, depth: int) -> list[object]:
    assert isinstance(place.value, dict)
    inside = place.value[keyword]
    if not isinstance(inside, list):
        raise wrong(place, keyword, "a list of schemas")
    children = (writer.document.child(place, keyword, index) for index in range(len(inside)))
    return [writer.standalone(child, depth + 1) for child in children]
