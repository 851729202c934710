"""Each keyword: what it lets through, what it does not, and how it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.errors import BadGrammar
from runner.schemas.formats import COMPILED, PATTERNS
from runner.schemas.formats import REFUSED as REFUSED_FORMATS
from runner.schemas.keywords import ENFORCED, REFUSED
from runner.schemas.prepare import prepare
from tests.parts.byte_matcher import accepts

PAGE = Path(__file__).parent.parent.parent.parent / "docs" / "structured-output.md"

OBJECT = {"type": "object"}
ARRAY = {"type": "array"}
NUMBER = {"type": "number"}
STRING = {"type": "string"}

# keyword, schema, a text that it lets through, one that it does not
HELD: list[tuple[str, Any, str, str]] = [
    ("type", {"type": "integer"}, "-1", "1.5"),
    ("type", {"type": ["null", "boolean"]}, "null", "0"),
    ("enum", {"enum": [1, "a", None, [2], {"k": 1.5}]}, '{"k": 1.5}', '{"k": 2}'),
    ("enum", {"enum": ["a", 1], "type": "string"}, '"a"', "1"),
    ("const", {"const": "é\n\u0001"}, '"é\\n\\u0001"', '"é"'),
    ("const", {"const": 1.0}, "1", "2"),
    (
        "properties",
        OBJECT | {"properties": {"b": {"type": "null"}, "a": {}}},
        '{"b": null, "a": 1}',
        '{"b": 1}',
    ),
    ("properties", OBJECT | {"properties": {"b": {}, "a": {}}}, '{"a": 1}', '{"a": 1, "b": 1}'),
    ("required", OBJECT | {"properties": {"a": {}}, "required": ["a", "c"]}, '{"a": 1, "c": 2}', '{"a": 1}'),
    ("additionalProperties", OBJECT | {"additionalProperties": NUMBER}, '{"x": 1}', '{"x": "1"}'),
    ("additionalProperties", OBJECT | {"additionalProperties": False}, "{}", '{"x": 1}'),
    ("patternProperties", OBJECT | {"patternProperties": {"^x": NUMBER}}, '{"x": 1, "y": ""}', '{"x": ""}'),
    ("minProperties", OBJECT | {"minProperties": 1}, '{"x": 1}', "{}"),
    ("maxProperties", OBJECT | {"maxProperties": 1}, '{"x": 1}', '{"x": 1, "y": 1}'),
    (
        "maxProperties",
        OBJECT | {"properties": {"a": {}, "b": {}}, "maxProperties": 1},
        '{"b": 1}',
        '{"a": 1, "b": 1}',
    ),
    ("items", ARRAY | {"items": NUMBER}, "[1, 2]", '[1, ""]'),
    ("items", ARRAY | {"items": [NUMBER]}, '[1, ""]', '[""]'),
    ("prefixItems", ARRAY | {"prefixItems": [NUMBER], "items": STRING}, '[1, ""]', "[1, 2]"),
    ("additionalItems", ARRAY | {"items": [NUMBER], "additionalItems": STRING}, '[1, ""]', "[1, 2]"),
    ("minItems", ARRAY | {"minItems": 2}, "[1, 2]", "[1]"),
    ("maxItems", ARRAY | {"maxItems": 1}, "[1]", "[1, 2]"),
    ("minLength", STRING | {"minLength": 2}, '"é😀"', '"é"'),
    ("maxLength", STRING | {"maxLength": 1}, '"😀"', '"ab"'),
    ("pattern", STRING | {"pattern": "b"}, '"abc"', '"ac"'),
    ("format", STRING | {"format": "date"}, '"2024-02-29"', '"2023-02-29"'),
    ("minimum", NUMBER | {"minimum": 1.5}, "1.5", "1.49"),
    ("maximum", NUMBER | {"maximum": 10}, "10.0", "10.1"),
    ("exclusiveMinimum", NUMBER | {"exclusiveMinimum": 0, "maximum": 0.5}, "0.1", "0"),
    ("exclusiveMinimum", NUMBER | {"minimum": 1, "exclusiveMinimum": True}, "1.1", "1"),
    ("exclusiveMaximum", {"type": "integer", "exclusiveMaximum": 5}, "4", "5"),
    ("multipleOf", NUMBER | {"multipleOf": 0.01}, "-1.25", "1.255"),
    ("allOf", {"allOf": [NUMBER | {"minimum": 1}, {"maximum": 2}]}, "1.5", "3"),
    ("anyOf", {"anyOf": [NUMBER, {"type": "null"}]}, "null", '""'),
    ("oneOf", {"oneOf": [NUMBER, {"type": "null"}]}, "null", '""'),
    ("$ref", {"$ref": "#/$defs/a~1b%20", "$defs": {"a/b ": NUMBER}}, "1", '""'),
    ("$ref", OBJECT | {"properties": {"next": {"$ref": "#"}}}, '{"next": {"next": {}}}', '{"next": 1}'),
    ("$ref", {"$ref": "#here", "$defs": {"x": NUMBER | {"$anchor": "here"}}}, "1", '""'),
]

# keyword, a value that asks for something
LEFT_OUT: list[tuple[str, Any]] = [
    ("not", {"type": "null"}),
    ("uniqueItems", True),
    ("contains", {"type": "null"}),
    ("propertyNames", {"maxLength": 1}),
    ("dependentRequired", {"a": ["b"]}),
    ("dependentSchemas", {"a": {"required": ["b"]}}),
    ("dependencies", {"a": ["b"]}),
    ("if", {"type": "null"}),
    ("unevaluatedItems", {"type": "null"}),
    ("unevaluatedProperties", {"type": "null"}),
    ("$dynamicRef", "#x"),
    ("$recursiveRef", "#"),
]

# What is refused of a keyword that is kept otherwise.
BEYOND: list[tuple[str, Any, str]] = [
    ("oneOf", {"oneOf": [STRING, STRING | {"maxLength": 1}]}, "branches may overlap"),
    ("pattern", STRING | {"pattern": "(?=a)b"}, '"(?=" is not supported'),
    ("pattern", STRING | {"pattern": r"(a)\1"}, "backreference"),
    ("pattern", STRING | {"pattern": r"\bfoo"}, r'"\b" is not supported'),
    ("format", STRING | {"format": "iri"}, '"iri", which is not supported'),
    ("minProperties", OBJECT | {"minProperties": 2}, "not supported beside these properties"),
    (
        "maxProperties",
        OBJECT | {"properties": {"a": {}, "b": {}, "c": {}}, "maxProperties": 2},
        "beside these",
    ),
    ("multipleOf", NUMBER | {"multipleOf": 1234567}, "more than five digits"),
    ("multipleOf", NUMBER | {"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}, "common multiple"),
    ("const", {"const": 2**53 + 1}, "beyond 2**53"),
    ("minimum", {"type": "integer", "minimum": 10**30}, "beyond 2**53"),
]

# Schemas that no one can keep: an error in both modes.
WRONG: list[tuple[Any, str]] = [
    (False, "the schema false accepts nothing"),
    ([], "a schema is an object, true or false, not list"),
    ({"type": "foo"}, "\"type\" at the root names 'foo', which is no type"),
    ({"enum": []}, "enum array must not be empty"),
    ({"properties": []}, '"properties" at the root must be an object of schemas'),
    ({"items": 1}, "a schema is an object, true or false: /items is neither"),
    ({"required": True}, '"required" at the root must be a list of keys'),
    ({"minLength": -1}, '"minLength" at the root must be a whole number from 0, not -1'),
    ({"minimum": "1"}, "\"minimum\" at the root must be a number, not '1'"),
    ({"$ref": "https://elsewhere.invalid/x"}, "which is not in the schema"),
    ({"$ref": "#/$defs/none"}, "names '#/$defs/none', which is not in the schema"),
    ({"$ref": "#"}, "comes back to itself"),
    ({"anyOf": [{"allOf": [{"$ref": "#"}]}, {}]}, "comes back to itself"),
    ({"$schema": "http://json-schema.org/draft-03/schema#"}, "the oldest supported draft is 4"),
]


@pytest.mark.parametrize(("keyword", "schema", "valid", "invalid"), HELD)
@pytest.mark.parametrize("lenient", [False, True])
def test_a_keyword_is_held_to(keyword: str, schema: Any, valid: str, invalid: str, lenient: bool) -> None:
    assert prepare(schema, lenient).unenforced == ()
    assert accepts(schema, valid, lenient)
    assert not accepts(schema, invalid, lenient)


@pytest.mark.parametrize(("keyword", "value"), LEFT_OUT)
def test_what_nothing_can_keep_is_refused_by_name_and_place(keyword: str, value: Any) -> None:
    schema = {"properties": {"a/b": {keyword: value, "then": False, "allOf": [{}]}}}
    with pytest.raises(BadGrammar) as refusal:
        prepare(schema, lenient=False)
    assert str(refusal.value) == (
        f'invalid structured output grammar: "{keyword}" at /properties/a~1b is not supported'
    )


@pytest.mark.parametrize(("keyword", "value"), LEFT_OUT)
def test_a_host_has_the_rest_kept_and_is_told_the_names(keyword: str, value: Any) -> None:
    schema = OBJECT | {
        "properties": {"a": NUMBER | {keyword: value, "then": False, "allOf": [{}]}},
        "required": ["a"],
    }
    assert prepare(schema, lenient=True).unenforced == (keyword,)
    assert accepts(schema, '{"a": 1}', lenient=True)
    assert not accepts(schema, '{"a": ""}', lenient=True)


@pytest.mark.parametrize(("keyword", "schema", "words"), BEYOND)
def test_a_value_that_cannot_be_kept_is_refused_or_named(keyword: str, schema: Any, words: str) -> None:
    with pytest.raises(BadGrammar, match=r"^invalid structured output grammar: ") as refusal:
        prepare(schema, lenient=False)
    assert f'"{keyword}" at' in str(refusal.value)
    assert words in str(refusal.value)
    assert prepare(schema, lenient=True).unenforced == (keyword,)


@pytest.mark.parametrize(("schema", "words"), WRONG)
@pytest.mark.parametrize("lenient", [False, True])
def test_what_is_no_schema_is_an_error_for_everyone(schema: Any, words: str, lenient: bool) -> None:
    with pytest.raises(BadGrammar) as refusal:
        prepare(schema, lenient)
    assert str(refusal.value).startswith("invalid structured output grammar: ")
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("not", False),
        ("uniqueItems", False),
        ("propertyNames", True),
        ("dependentRequired", {}),
        ("if", {"type": "null"}),
        ("unevaluatedProperties", True),
        ("title", 1),
        ("default", {"not": {}}),
        ("examples", [{"uniqueItems": True}]),
        ("contentMediaType", "text/plain"),
        ("format", "int32"),
        ("x-of-nobody", {"$ref": "nowhere"}),
    ],
)
def test_what_asks_for_nothing_is_passed_over(keyword: str, value: Any) -> None:
    assert prepare(NUMBER | {keyword: value}, lenient=False).unenforced == ()
    assert accepts(NUMBER | {keyword: value}, "1")


def test_the_tables_name_every_keyword() -> None:
    assert {keyword for keyword, *_ in HELD} == set(ENFORCED)
    assert {keyword for keyword, _ in LEFT_OUT} == set(REFUSED)


def test_the_page_has_the_table_of_keywords() -> None:
    kept = [f"| `{keyword}` | {note} |" for keyword, note in ENFORCED.items()]
    refused = ", ".join(f"`{keyword}`" for keyword in REFUSED)
    formats = ", ".join(f"`{name}`" for name in sorted(COMPILED | PATTERNS.keys()))
    others = ", ".join(f"`{name}`" for name in sorted(REFUSED_FORMATS))
    table = "\n".join(["| keyword | how |", "|---|---|", *kept])
    for part in (table, f"Refused: {refused}.", f"Formats: {formats}.", f"Refused formats: {others}."):
        assert part in PAGE.read_text(), f"{PAGE.name} should have:\n{part}"


def test_json_is_spelled_with_a_space_or_a_line_between_tokens_and_no_more() -> None:
    for text in ('{"a": [1, 2]}', '{"a":[1,2]}', '{\n  "a": [\n    1\n  ]\n}', "{ }"):
        assert accepts(True, text)
    for text in (
        ' {"a": 1}',
        '{"a": 1} ',
        '{"a":  1}',
        '{"a":\n\n1}',
        '{"a":\t1}',
        "[" + "\n" + " " * 17 + "]",
    ):
        assert not accepts(True, text)


def test_a_named_key_has_one_spelling_where_other_keys_are_allowed() -> None:
    schema = {"type": "object", "properties": {"a": NUMBER}, "additionalProperties": True}
    assert accepts(schema, '{"b": ""}')
    assert not accepts(schema, '{"\\u0061": ""}')


@pytest.mark.parametrize("lenient", [False, True])
def test_an_object_that_names_its_keys_has_no_others(lenient: bool) -> None:
    branches = {
        "anyOf": [{"properties": {"a": {}}}, {"$ref": "#/$defs/b"}],
        "$defs": {"b": {"required": ["b"]}},
    }
    schema: dict[str, Any] = OBJECT | {"properties": {"c": {}}} | branches
    assert accepts(schema, '{"c": 1, "a": 1, "b": 1}', lenient)
    assert not accepts(schema, '{"c": 1, "d": 1}', lenient)
    assert accepts(schema | {"additionalProperties": True}, '{"c": 1, "d": 1}', lenient)


def test_only_a_host_has_a_schema_of_properties_taken_for_one_of_objects() -> None:
    schema = {"properties": {"a": NUMBER}}
    assert accepts(schema, '"text"')
    assert not accepts(schema, '"text"', lenient=True)


def test_neighbours_of_a_reference_count_from_draft_2019_on() -> None:
    schema = {"$ref": "#/definitions/n", "maximum": 5, "definitions": {"n": NUMBER}}
    assert not accepts(schema, "6")
    assert accepts({"$schema": "http://json-schema.org/draft-07/schema#"} | schema, "6")


@pytest.mark.parametrize("name", sorted(COMPILED | PATTERNS.keys()))
def test_every_format_lets_something_through(name: str) -> None:
    examples = {
        "date": "2024-02-29",
        "time": "23:59:00Z",
        "date-time": "2024-12-31T23:59:00.5+01:00",
        "duration": "P1DT2H",
        "email": "a.b@example.org",
        "hostname": "a-b.example.org",
        "ipv4": "192.0.2.1",
        "ipv6": "2001:db8::1",
        "json-pointer": "/a~1b/0",
        "uri": "https://example.org/a?b#c",
        "uuid": "123e4567-e89b-12d3-a456-426614174000",
    }
    assert accepts(STRING | {"format": name}, json.dumps(examples[name]))
    assert not accepts(STRING | {"format": name}, '"no such thing"')
