"""Whatever a grammar lets be written is valid under its schema."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it has no types

from runner.errors import BadGrammar
from runner.schemas.prepare import prepare
from tests.parts.byte_matcher import compiled, walk

KEYS = st.sampled_from(["a", "b", "ab", 'q"', "é"])
COUNTS = st.integers(0, 3)
NUMBERS = st.sampled_from([-2, 0, 1, 3, 10, 0.5, -1.25, 1e-3])
PATTERNS = st.sampled_from(["^a", "b$", "^[ab]{1,3}$", "a|b", "[^a]", "^\\w+$", "\\d", ".b"])
# Of keys, these mean the same to the validator, whose expressions are Python's: in others `\w` and `$` match more.
KEY_PATTERNS = st.sampled_from(["^a", "a|b", "^[ab]", "[^a]", "^(b|q)"])
FORMATS = st.sampled_from(["date", "time", "date-time", "ipv4", "uuid", "email", "hostname", "duration"])
CONSTANTS: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([0.5, "a", "b", "", "é\n"])),
    lambda inside: st.one_of(st.lists(inside, max_size=2), st.dictionaries(KEYS, inside, max_size=2)),
    max_leaves=3,
)


def some(**keywords: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keywords)


def numbers() -> st.SearchStrategy[dict[str, Any]]:
    multiples = st.sampled_from([1, 3, 0.5, 0.25, 7.5])
    bounds = dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), NUMBERS)
    return some(type=st.sampled_from(["integer", "number"]), multipleOf=multiples, **bounds)


def strings() -> st.SearchStrategy[dict[str, Any]]:
    return some(type=st.just("string"), minLength=COUNTS, maxLength=COUNTS, pattern=PATTERNS, format=FORMATS)


def arrays(inside: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    first = st.lists(inside, min_size=1, max_size=2)
    return some(type=st.just("array"), items=inside, prefixItems=first, minItems=COUNTS, maxItems=COUNTS)


def objects(inside: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return some(
        type=st.just("object"),
        properties=st.dictionaries(KEYS, inside, max_size=3),
        required=st.lists(KEYS, max_size=2, unique=True),
        additionalProperties=inside,
        patternProperties=st.dictionaries(KEY_PATTERNS, inside, max_size=1),
        minProperties=COUNTS,
        maxProperties=COUNTS,
    )


def joined(inside: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A schema of several others, beside keywords of its own."""
    several = st.lists(inside, min_size=1, max_size=2)
    reference = st.just("#/$defs/shared")
    applied = {"allOf": several, "anyOf": several, "oneOf": several, "$ref": reference}
    own = st.one_of(st.just({}), objects(inside), numbers(), strings())
    parts = st.tuples(st.fixed_dictionaries({}, optional=applied), own, st.booleans())
    return parts.map(lambda pair: pair[0] | pair[1] if pair[2] else pair[1] | pair[0])


def constants() -> st.SearchStrategy[dict[str, Any]]:
    listed = st.lists(CONSTANTS, min_size=1, max_size=3)
    return st.one_of(
        CONSTANTS.map(lambda value: {"const": value}), listed.map(lambda values: {"enum": values})
    )


SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.booleans(), constants(), numbers(), strings()),
    lambda inside: st.one_of(arrays(inside), objects(inside), joined(inside)),
    max_leaves=6,
)
ROOTS = st.tuples(st.one_of(objects(SCHEMAS), joined(SCHEMAS), arrays(SCHEMAS)), SCHEMAS)


@settings(max_examples=150)
@given(ROOTS, st.booleans(), st.integers(0, 2**32))
@example(({"properties": {"a": {"type": "integer"}}, "additionalProperties": True}, True), False, 1)
def test_every_walk_through_a_grammar_ends_in_a_valid_answer(
    root: tuple[Any, Any], lenient: bool, seed: int
) -> None:
    schema = root[0] | {"$defs": {"shared": root[1]}}
    try:
        assume(not prepare(schema, lenient).unenforced)
        matcher = compiled(schema, lenient)
    except (BadGrammar, ValueError):
        assume(False)
    chance = random.Random(seed)
    for _ in range(4):
        text = walk(matcher, chance, longest=300)
        if text is not None:
            valid(schema, text)
        matcher.reset()


def valid(schema: dict[str, Any], text: str) -> None:
    checker = Draft202012Validator.FORMAT_CHECKER
    errors = list(Draft202012Validator(schema, format_checker=checker).iter_errors(json.loads(text)))
    assert not errors, f"{text} under {json.dumps(schema)}: {errors[0].message}"
