"""One instance of a schema, and whether its grammar agrees with its validity.

A grammar may be narrower than its schema, for a reason that is checked here, never by a list of names:

    spelling   a number has several spellings, of which the grammar may know one; keys come in the schema's order
    closed     the instance has keys that its schema does not name
    format     the schema has a format, which the suite takes for an annotation
    characters the instance holds characters that only an escape by code point can spell

    digits     the instance holds a number beyond 2**53, where 64-bit floats leave integers out
    dialect    the schema names a vocabulary of its own, in which validating keywords mean nothing

It may never be wider, but for what the newest drafts call an annotation: the content of strings.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it has no types
from jsonschema.validators import validator_for  # type: ignore[import-untyped]  # it has no types

from runner.errors import BadGrammar
from runner.schemas.prepare import prepare
from schemas.byte_matcher import CannotCompile, accepts, compiled
from schemas.suite import Case

MOST_ORDERS = 2_000
AGREES, REFUSED, WIDER, NARROWER = "agrees", "refused", "accepts what is invalid", "unexplained"
CONTENT = "wider: the content of strings is an annotation"
DIGITS = "narrower: numbers beyond 2**53"
DIALECT = "narrower: a vocabulary that does not validate"
OPEN = "narrower: keys that the schema does not name"
FORMAT = "narrower: the format is held to"
FEWER = "narrower: characters that need an escape by code point"


def judged(case: Case, say: Callable[[str], None]) -> Counter[str]:
    counts: Counter[str] = Counter()
    try:
        matcher = compiled(prepare(case.schema, lenient=False).schema)
    except (BadGrammar, CannotCompile) as error:
        say(f"refused: {case.name}: {' '.join(str(error).split())[:200]}")
        return Counter({REFUSED: len(case.instances)})
    for description, instance, valid in case.instances:
        accepted = any(accepts(matcher, text) for text in spellings(instance, plain=valid))
        verdict = AGREES if accepted == valid else why(case.schema, instance, accepted)
        counts[verdict] += 1
        if verdict in (WIDER, NARROWER):
            say(f"{verdict}: {case.name}: {description}: {json.dumps(case.schema)}: {json.dumps(instance)}")
    return counts


def why(schema: object, instance: object, accepted: bool) -> str:
    """The reason of a difference: what is different when that one thing is taken away."""
    validates = validator_for(schema, Draft202012Validator)(schema).is_valid(instance)
    if accepted:
        return CONTENT if validates and _keywords(schema) & {"contentMediaType", "contentEncoding"} else WIDER
    if _accepted(schema, instance, closed=False):
        return OPEN
    if _accepted(_without_formats(schema), instance, closed=False):
        return FORMAT
    if any(ord(sign) < 32 or ord(sign) == 127 for text in _texts(instance) for sign in text):
        return FEWER
    if isinstance(instance, int | float) and abs(instance) > 2**53:
        return DIGITS
    return NARROWER if validates else DIALECT


def _keywords(schema: object) -> set[str]:
    inside = list(schema.values()) if isinstance(schema, dict) else schema if isinstance(schema, list) else []
    return set(schema if isinstance(schema, dict) else ()).union(*map(_keywords, inside))


def _accepted(schema: object, instance: object, closed: bool) -> bool:
    try:
        matcher = compiled(prepare(schema, lenient=False, closed=closed).schema)
    except (BadGrammar, CannotCompile):
        return False
    return any(accepts(matcher, text) for text in spellings(instance))


def _without_formats(schema: object) -> object:
    if isinstance(schema, list):
        return [_without_formats(item) for item in schema]
    if isinstance(schema, dict):
        kept = {key: item for key, item in schema.items() if key != "format" or not isinstance(item, str)}
        return {key: _without_formats(item) for key, item in kept.items()}
    return schema


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from itertools.chain(value, *map(_texts, value.values()))
    elif isinstance(value, list):
        yield from itertools.chain(*map(_texts, value))


def spellings(instance: object, plain: bool = True) -> Iterator[str]:
    """The texts of a value: as it came, then its keys in each order, and, if `plain`, 1.0 and 1e0 as 1."""
    yield json.dumps(instance, ensure_ascii=False)
    yield from itertools.islice(_spelled(instance, plain), MOST_ORDERS)


def _spelled(value: object, plain: bool) -> Iterator[str]:
    if plain and isinstance(value, float) and math.isfinite(value):
        yield format(Decimal(repr(value)).normalize(), "f")
    elif isinstance(value, list):
        for items in _products(value, plain):
            yield "[" + ", ".join(items) + "]"
    elif isinstance(value, dict):
        for keys in itertools.permutations(value):
            for items in _products([value[key] for key in keys], plain):
                pairs = zip(keys, items, strict=True)
                yield "{" + ", ".join(f"{_name(key)}: {item}" for key, item in pairs) + "}"
    else:
        yield _name(value)


def _products(values: list[object], plain: bool) -> Iterator[tuple[str, ...]]:
    return itertools.product(*(list(itertools.islice(_spelled(value, plain), 50)) for value in values))


def _name(value: object) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
