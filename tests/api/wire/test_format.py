"""`format` of a completion: what hosts send, what direct clients send, and what is refused in the host's words."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from api.wire.format import MAX_BYTES, read_format
from api.wire.schema import read_completion
from runner.errors import BadRequest
from runner.types import Grammar

SCHEMA = {"type": "object", "properties": {"b": {}, "a": {}}}
TEXT = '{"type":"object","properties":{"b":{},"a":{}}}'


def tag(format_: Any) -> dict[str, Any]:
    return {"type": "structural_tag", "format": format_}


def thinking(mark: Any, schema: Any = SCHEMA) -> dict[str, Any]:
    """As a host spells free text, a closing mark and a schema."""
    behind = {"type": "sequence", "elements": [mark, {"type": "json_schema", "json_schema": schema}]}
    free = {"type": "any_text", "excludes": ["</think>"]}
    return tag({"type": "sequence", "elements": [free, {"type": "optional", "content": behind}]})


def const(value: str) -> dict[str, str]:
    return {"type": "const_string", "value": value}


@pytest.mark.parametrize("nothing", [None, ""])
def test_null_and_an_empty_string_ask_for_nothing(nothing: Any) -> None:
    assert read_format(nothing) is None


def test_json_is_any_object() -> None:
    assert read_format("json") == Grammar("json_schema", '{"type":"object"}')


def test_an_object_is_a_schema_whose_keys_keep_their_order() -> None:
    assert read_format(SCHEMA) == Grammar("json_schema", TEXT)


def test_a_hosts_schema_is_lenient() -> None:
    wanted = Grammar("json_schema", TEXT, lenient=True)
    assert read_format(tag({"type": "json_schema", "json_schema": SCHEMA})) == wanted


def test_a_hosts_thinking_ends_with_one_string_or_one_of_several() -> None:
    wanted = Grammar("json_schema", TEXT, ("</think>",), lenient=True)
    assert read_format(thinking(const("</think>"))) == wanted
    several = {"type": "or", "elements": [const("<a>"), const("<b>")]}
    assert read_format(thinking(several)) == Grammar("json_schema", TEXT, ("<a>", "<b>"), lenient=True)


@pytest.mark.parametrize(
    ("value", "grammar"),
    [
        ({"type": "regex", "pattern": "a+"}, Grammar("regex", "a+")),
        ({"type": "lark", "grammar": 'start: "a"'}, Grammar("lark", 'start: "a"')),
        ({"type": "gbnf", "grammar": 'root ::= "a"'}, Grammar("gbnf", 'root ::= "a"')),
        ({"type": "choice", "choices": ["yes", "né"]}, Grammar("choice", '["yes","né"]')),
    ],
)
def test_grammars_of_other_kinds_name_their_kind(value: Any, grammar: Grammar) -> None:
    assert read_format(value) == grammar


@pytest.mark.parametrize("value", ["xml", "JSON", 7, True, [], [SCHEMA], 0.5])
def test_anything_else_is_refused_with_what_would_be_right(value: Any) -> None:
    with pytest.raises(BadRequest, match=r"^invalid format: expected a structural tag, .*, got ") as refused:
        read_format(value)
    assert json.dumps(value) in str(refused.value)


@pytest.mark.parametrize(
    "value",
    [
        tag(None),
        tag("json"),
        tag({"type": "json_schema"}),
        tag({"type": "triggered_tags", "triggers": ["<f"]}),
        tag({"type": "sequence", "elements": []}),
        tag({"type": "sequence", "elements": [{"type": "any_text"}]}),
        thinking({"type": "any_text"}),
        thinking({"type": "or", "elements": []}),
        thinking({"type": "or", "elements": [const("a"), 7]}),
        thinking({"type": "or", "elements": [const("x")] * 17}),
        thinking(const("")),
        {"type": "regex"},
        {"type": "regex", "pattern": ""},
        {"type": "lark", "grammar": 7},
        {"type": "gbnf", "pattern": "x"},
        {"type": "choice", "choices": []},
        {"type": "choice", "choices": "yes"},
        {"type": "choice", "choices": ["yes", 7]},
    ],
)
def test_a_tag_or_grammar_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(BadRequest, match=r"^invalid format: .*, got "):
        read_format(value)


def test_a_refusal_shows_the_beginning_of_a_long_value() -> None:
    with pytest.raises(BadRequest) as refused:
        read_format(["x" * 500])
    assert len(str(refused.value)) < 200


def test_size_and_depth_have_the_hosts_limits() -> None:
    with pytest.raises(BadRequest) as refused:
        read_format({"description": "x" * MAX_BYTES})
    size = MAX_BYTES + len('{"description":""}')
    assert str(refused.value) == f"invalid format: grammar is {size} bytes; limit is {MAX_BYTES}"
    with pytest.raises(BadRequest) as refused:
        read_format(nested(129))
    assert str(refused.value) == "invalid format: grammar nesting exceeds 128 levels"
    assert read_format(nested(128)) is not None


@pytest.mark.parametrize("is_list", [False, True])
def test_a_format_that_could_just_be_read_is_refused_for_its_depth(is_list: bool) -> None:
    """To write it takes more calls in one another than Python allows."""
    value = nested(sys.getrecursionlimit())
    with pytest.raises(BadRequest, match="128 levels"):
        read_format([value] if is_list else value)


def nested(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels - 1):
        value = {"not": value}
    return value


def test_more_choices_than_the_limit_are_refused_with_both_numbers() -> None:
    with pytest.raises(BadRequest, match="invalid format: 10001 choices; limit is 10000"):
        read_format({"type": "choice", "choices": ["x"] * 10_001})


def test_the_key_matches_in_any_case_and_go_s_escapes_are_undone() -> None:
    for key in ("format", "Format", "FORMAT"):
        body = '{"Prompt":"p","KEY":{"enum":["\\u003cb\\u003e"]}}'.replace("KEY", key)
        assert read_completion(body.encode()).to_request().grammar == Grammar(
            "json_schema", '{"enum":["<b>"]}'
        )


def test_a_bad_format_is_told_before_anything_else_that_is_wrong() -> None:
    body = {"Prompt": "", "Format": 7, "Media": [{"id": 0}], "Options": {"stop": ["x"] * 65}}
    with pytest.raises(BadRequest, match="invalid format"):
        read_completion(json.dumps(body).encode()).to_request()
