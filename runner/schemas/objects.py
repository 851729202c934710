"""The keywords of objects.

Keys that a schema names come first, in its order. Keys that only a pattern or `additionalProperties` allows come
after them, and could be written twice: the compiler does not remember them.
"""

from __future__ import annotations

from collections.abc import Callable

from runner.errors import BadGrammar
from runner.schemas import strings, values
from runner.schemas.context import Context, Schema, Writing
from runner.schemas.keywords import IN_PLACE
from runner.schemas.references import Place
from runner.schemas.values import Unsupported, wrong

MAX_PATTERNS = 64  # the compiler compares them in pairs
MAX_OPTIONAL = 1_000  # its time grows with the square: 0.06 s
MAX_COUNTED = 30  # it writes an object once for each of them


def written(writer: Writing, place: Place, value: Schema, depth: int, context: Context, own: Schema) -> None:
    required = value.get("required", [])
    if isinstance(required, bool):  # draft 3's, which no later draft has
        raise wrong(place, "required", "a list of keys")
    if not isinstance(required, list) or not all(isinstance(key, str) for key in required):
        raise wrong(place, "required", "a list of keys")
    for key in required:
        values.text(place, key)
    if "properties" in value:
        own["properties"] = _schemas(writer, place, "properties", depth)
    if "patternProperties" in value:
        _pattern_properties(writer, place, depth, own)
    if "additionalProperties" in value:
        own["additionalProperties"] = writer.standalone(
            writer.document.child(place, "additionalProperties"), depth + 1
        )
    if required:
        own["required"] = list(dict.fromkeys(required))
    if context.closing is not None and context.single:
        own["properties"] = context.closing | _map(own.get("properties"))
        own["additionalProperties"] = False
    _count_keys(writer, place, value, context, own)
    _note_names(writer, place, own, context)


def _schemas(writer: Writing, place: Place, keyword: str, depth: int) -> Schema:
    assert isinstance(place.value, dict)
    inside = place.value[keyword]
    if not isinstance(inside, dict):
        raise wrong(place, keyword, "an object of schemas")
    written: Schema = {}
    for name in inside:
        written[values.text(place, name)] = writer.standalone(
            writer.document.child(place, keyword, name), depth + 1
        )
    return written


def _pattern_properties(writer: Writing, place: Place, depth: int, own: Schema) -> None:
    inside = _schemas(writer, place, "patternProperties", depth)
    if len(inside) > MAX_PATTERNS:
        raise BadGrammar(
            f'"patternProperties" at {place.where} has {len(inside)}; the limit is {MAX_PATTERNS}'
        )
    writer.spend(place, "patternProperties", len(inside) ** 2)
    patterns: Schema = {}
    for pattern, schema in inside.items():
        with writer.trying(place):
            patterns[strings.pattern(writer, place, "patternProperties", pattern)] = schema
    own["patternProperties"] = patterns


def _map(value: object) -> Schema:
    return value if isinstance(value, dict) else {}


def _note_names(writer: Writing, place: Place, own: Schema, context: Context) -> None:
    named = _map(own.get("properties"))
    optional = len(named.keys() - set(_listed(own)))
    if optional > MAX_OPTIONAL:
        raise BadGrammar(
            f'"properties" at {place.where} has {optional:,} that are not required; '
            f"the limit is {MAX_OPTIONAL:,}"
        )
    others = own.get("additionalProperties", not context.single or bool(named)) is not False
    if own.get("patternProperties") or (others and (named or "additionalProperties" in own or _listed(own))):
        writer.has_other_names = True


def _listed(own: Schema) -> list[str]:
    required = own.get("required", [])
    assert isinstance(required, list)
    return required


def _count_keys(writer: Writing, place: Place, value: Schema, context: Context, own: Schema) -> None:
    """minProperties and maxProperties, where the compiler counts right.

    A key that only a pattern or `additionalProperties` allows can be written twice, and counts once: so a least
    number is kept only where one such key is enough.
    """
    required = len(_listed(own))
    optional = len(_map(own.get("properties")).keys() - set(_listed(own)))
    open_ended = own.get("additionalProperties") is not False or bool(own.get("patternProperties"))
    alone = context.single and not any(keyword in value for keyword in IN_PLACE)
    countable = alone and (optional == 0 or (not open_ended and optional <= MAX_COUNTED))
    most = values.count(place, "maxProperties", value["maxProperties"]) if "maxProperties" in value else None
    least = values.count(place, "minProperties", value["minProperties"]) if "minProperties" in value else 0
    single = optional == 0 or most is None or most - required == 1
    rules: list[tuple[str, bool, Callable[[], bool]]] = [
        ("minProperties", least <= required, lambda: countable and least == required + 1 and single),
        (
            "maxProperties",
            most is None or (not open_ended and alone and most >= required + optional),
            lambda: countable and (optional == 0 or (single and least <= required + 1)),
        ),
    ]
    for keyword, needless, kept in rules:
        if keyword in value and not needless:
            with writer.trying(place):
                if not kept():
                    raise Unsupported(keyword, "is not supported beside these properties")
                writer.spend(place, keyword, optional**2)
                own[keyword] = most if keyword == "maxProperties" else least
