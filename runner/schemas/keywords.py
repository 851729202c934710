"""What is done with each keyword of a JSON schema.

    ENFORCED   every answer keeps it, or the schema is refused
    REFUSED    nothing here can keep it: an error for a direct client, passed over and named for a host
    any other  an annotation or a keyword of nobody's, which the drafts say to pass over

Knows nothing about where a schema came from.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

TYPES = ("null", "boolean", "object", "array", "number", "string", "integer")

ENFORCED = {
    "type": "one or several",
    "enum": "values of any type; an object's keys in the order written",
    "const": "as enum",
    "properties": "keys come in the order of the schema; optional ones may be left out",
    "required": "",
    "additionalProperties": "absent beside `properties`: no other keys are written",
    "patternProperties": "up to 64, disjoint, after the named ones",
    "minProperties": "where no key could be written twice to reach it: see below",
    "maxProperties": "where all of `properties` are required, or at most one is allowed",
    "items": "",
    "prefixItems": "",
    "additionalItems": "beside an array of `items`",
    "minItems": "up to 100,000",
    "maxItems": "",
    "minLength": "in characters, up to 100,000",
    "maxLength": "in characters",
    "pattern": "searched anywhere, as the drafts say; without look-around, backreferences, word boundaries",
    "format": "see the list below",
    "minimum": "",
    "maximum": "",
    "exclusiveMinimum": "a number, or draft 4's boolean",
    "exclusiveMaximum": "as exclusiveMinimum",
    "multipleOf": "up to five digits",
    "allOf": "",
    "anyOf": "",
    "oneOf": "where the branches provably exclude one another: types, constants, a key that tells them apart",
    "$ref": "inside of the document: pointers, anchors, `$id`; recursion",
}


def _always(value: object) -> bool:
    return value is True or value == {}


# Each with the values that ask for nothing; its neighbours are the second argument.
REFUSED: dict[str, Callable[[object, dict[str, object]], bool]] = {
    "not": lambda value, _: value is False,
    "uniqueItems": lambda value, near: value is False or near.get("maxItems") in (0, 1),
    "contains": lambda _, near: near.get("minContains") == 0 and "maxContains" not in near,
    "propertyNames": lambda value, _: _always(value),
    "dependentRequired": lambda value, _: value == {},
    "dependentSchemas": lambda value, _: value == {},
    "dependencies": lambda value, _: value == {},
    "if": lambda _, near: "then" not in near and "else" not in near,
    "unevaluatedItems": lambda value, _: _always(value),
    "unevaluatedProperties": lambda value, _: _always(value),
    "$dynamicRef": lambda _value, _near: False,
    "$recursiveRef": lambda _value, _near: False,
}

# Keywords that apply schemas to the same value.
IN_PLACE = ("allOf", "anyOf", "oneOf", "$ref")
OBJECTS = (
    "properties",
    "required",
    "additionalProperties",
    "patternProperties",
    "minProperties",
    "maxProperties",
)
ARRAYS = ("items", "prefixItems", "additionalItems", "minItems", "maxItems")
NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
STRINGS = ("minLength", "maxLength", "pattern", "format")
VALUES = ("const", "enum")


def types_of(value: dict[str, object]) -> list[str]:
    """The types that `type` names; all when it is absent."""
    declared = value.get("type", list(TYPES))
    return [declared] if isinstance(declared, str) else list(declared)  # type: ignore[call-overload]  # checked


def identity(value: object) -> object:
    """Equal for equal JSON values: 1 and 1.0 are equal, 1 and true are not."""
    if isinstance(value, bool) or value is None:
        return ("constant", value)
    if isinstance(value, int | float):
        return ("number", Fraction(value))
    if isinstance(value, list):
        return ("array", tuple(identity(item) for item in value))
    if isinstance(value, dict):
        return ("object", frozenset((key, identity(item)) for key, item in value.items()))
    return ("string", value)
