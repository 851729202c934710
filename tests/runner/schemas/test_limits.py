"""A hostile schema is a clear error, before the compiler sees it; a large honest one compiles."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runner.errors import BadGrammar
from runner.schemas.keywords import ENFORCED, REFUSED, TYPES
from runner.schemas.prepare import prepare
from tests.parts.byte_matcher import compiled


def nested(times: int, around: Callable[[Any], Any]) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(times):
        schema = around(schema)
    return schema


def chain(length: int, link: Callable[[dict[str, str]], Any]) -> Any:
    """A definition that refers to the next, and so on."""
    steps = {f"n{step}": link({"$ref": f"#/$defs/n{step + 1}"}) for step in range(length)}
    return {"$ref": "#/$defs/n0", "$defs": steps | {f"n{length}": {"type": "object"}}}


def keys(count: int) -> dict[str, Any]:
    return {f"k{number}": {} for number in range(count)}


KEYED: dict[str, Any] = {"type": "object", "properties": keys(30)}
COMPARED: dict[str, Any] = {f"^p{number}$": {} for number in range(60)}


def kind(number: int) -> dict[str, Any]:
    return {"type": "object", "properties": {"k": {"const": number}}, "required": ["k"]}


HOSTILE: list[tuple[str, Any, str]] = [
    ("many subschemas", {"properties": keys(10_001)}, "more than 10,000 subschemas"),
    ("many optional keys", {"properties": keys(1_001)}, "1,001 that are not required; the limit is 1,000"),
    ("many required keys", {"required": list(keys(50_000))}, "names 50,000 keys; the limit is 4,000"),
    (
        "a long key",
        {"properties": {"k" * 400_000: {}}},
        "a string at the root has 400,000 characters; the limit is 10,000",
    ),
    (
        "a long constant",
        {"const": "x" * 900_000},
        "a string at the root has 900,000 characters; the limit is 10,000",
    ),
    ("many constants", {"enum": [f"s{number}" for number in range(100_000)]}, "more than 20,000"),
    (
        "constants and a pattern",
        {"enum": list(keys(1_001)), "pattern": "k"},
        "1,001 constants beside a pattern",
    ),
    (
        "many patterns",
        {"allOf": [{"pattern": f"w{number}"} for number in range(9)]},
        "9 patterns of one string",
    ),
    (
        "many named by patterns",
        {"patternProperties": {f"^{n}$": {} for n in range(65)}},
        "has 65; the limit is 64",
    ),
    ("a least count", {"minItems": 10**6}, "is 1,000,000; the limit is 100,000"),
    ("a most count", {"maxLength": 10**10}, "is 10,000,000,000; the limit is 2,147,483,647"),
    ("deep items", nested(300, lambda inside: {"items": inside}), "more than 100 schemas deep"),
    ("deep branches", nested(300, lambda inside: {"allOf": [inside, {}]}), "more than 100 schemas deep"),
    ("deep JSON", nested(70, lambda inside: {"properties": {"a": inside}}), "levels of JSON deep"),
    ("a chain of references", chain(3_000, lambda link: link), "more than 100 schemas deep"),
    (
        "a chain through keys",
        chain(300, lambda link: {"properties": {"a": link}}),
        "more than 100 schemas deep",
    ),
    (
        "a loop of references",
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        "comes back to itself",
    ),
    (
        "trees beyond count",
        {"$defs": {"b": {"allOf": [{}] * 900}}, "prefixItems": [{"$ref": "#/$defs/b"}] * 3_000},
        "too many",
    ),
]

PATTERNS: list[tuple[str, str, str]] = [
    ("repeats of repeats", "(a{1000}){1000}", "longer than 20,000 characters"),
    ("a long pattern", "a" * 1_000_000, "longer than 20,000 characters"),
    ("nested groups", "(" * 5_000 + ")" * 5_000, "more than 50 groups"),
]

HONEST: list[tuple[str, Any]] = [
    ("references that fork", chain(40, lambda link: {"anyOf": [link, link]})),
    ("references that join", chain(40, lambda link: {"allOf": [link, link]})),
    ("a tree of itself", {"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}}),
    ("a thousand optional keys", {"properties": keys(1_000)}),
    (
        "counts to the limit",
        nested(5, lambda inside: {"items": inside, "minItems": 99_999, "maxItems": 10**9}),
    ),
    (
        "a thousand kinds",
        {
            "oneOf": [
                {"type": "object", "properties": {"k": {"const": n}}, "required": ["k"]} for n in range(1_000)
            ]
        },
    ),
    ("a long description", {"description": "x" * 1_000_000, "default": nested(500, lambda inside: [inside])}),
]


@pytest.mark.parametrize(("name", "schema", "words"), HOSTILE, ids=[name for name, *_ in HOSTILE])
@pytest.mark.parametrize("lenient", [False, True])
def test_a_hostile_schema_is_an_error_that_says_its_limit(
    name: str, schema: Any, words: str, lenient: bool
) -> None:
    with pytest.raises(BadGrammar) as refusal:
        prepare(schema, lenient)
    assert words in str(refusal.value)
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize(("name", "pattern", "words"), PATTERNS, ids=[name for name, *_ in PATTERNS])
def test_a_hostile_pattern_is_an_error_that_says_its_limit(name: str, pattern: str, words: str) -> None:
    with pytest.raises(BadGrammar, match=words) as refusal:
        prepare({"pattern": pattern}, lenient=False)
    assert len(str(refusal.value)) < 500
    assert prepare({"pattern": pattern}, lenient=True).unenforced == ("pattern",)


@pytest.mark.parametrize(("name", "schema"), HONEST, ids=[name for name, _ in HONEST])
def test_a_large_schema_compiles(name: str, schema: Any) -> None:
    compiled(schema)


KEYWORDS = st.sampled_from(
    [*ENFORCED, *REFUSED, "$defs", "$id", "$schema", "$anchor", "definitions", "then", "x"]
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from([10**400, "#", "#/$defs/x", "http://[", "\ud800", *TYPES]),
    st.text(max_size=5),
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inside: st.one_of(st.lists(inside, max_size=3), st.dictionaries(KEYWORDS, inside, max_size=4)),
    max_leaves=12,
)


@given(ANYTHING, st.booleans())
@example({"allOf": [{"multipleOf": True}, {"multipleOf": 2}]}, False)
@example({"minLength": float("inf")}, False)
@example({"$id": "http://["}, False)
@example({"const": "\ud800"}, False)
@example({"properties": {"\ud800": {}}}, False)
def test_whatever_is_sent_is_prepared_or_refused(schema: Any, lenient: bool) -> None:
    try:
        prepared = prepare(schema, lenient)
    except BadGrammar as refusal:
        str(refusal).encode()
    else:
        json.dumps(prepared.schema, ensure_ascii=False, allow_nan=False).encode()
