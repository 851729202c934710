"""The JSON of bodies, read at once and in bites."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.wire.bodies import LONG, MAX_MEMBERS, MAX_VALUES, PIECE, BadBody, aside, parse_ids, parse_object
from runner.errors import BadRequest

LONG_TEXT = "x" * LONG
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), values, max_size=5), st.sampled_from([None, 1, "\t"]))
def test_a_long_body_says_what_a_short_one_says(body: dict[str, Any], indent: int | str | None) -> None:
    short = json.dumps(body, indent=indent)
    long = json.dumps({"long": LONG_TEXT, **body}, indent=indent)
    assert parse_object(long.encode()) == {"long": LONG_TEXT, **parse_object(short.encode())}


@pytest.mark.parametrize(
    "rest",
    [
        "", "}", ",}", ', "a": }', ', "a" 1}', ', "a": 1}}', ', "a": NaN}', ', "a": [Infinity]}', ', a: 1}',
        ', "a": 1] ', ', "a": [1}', ', "a": "\n"}', "} x",
    ],
)  # fmt: skip
def test_a_long_body_that_is_no_json_is_refused(rest: str) -> None:
    body = f'{{"long": "{LONG_TEXT}"{rest}'.encode()
    if rest == "}":
        assert parse_object(body) == {"long": LONG_TEXT}
    else:
        with pytest.raises(BadBody):
            parse_object(body)


def test_of_several_values_of_a_name_the_last_one_counts() -> None:
    assert parse_object(b'{"a": 1, "a": 2}') == {"a": 2}
    assert parse_object(f'{{"a": "{LONG_TEXT}", "a": 2}}'.encode()) == {"a": 2}


def test_the_limits_of_a_long_body_are_these() -> None:
    members = {str(number): "" for number in range(MAX_MEMBERS)}
    value = "[" + "0," * (MAX_VALUES // 2 - 1) + "0]"
    assert len(parse_object(json.dumps(members | {"0": LONG_TEXT}).encode())) == MAX_MEMBERS
    assert parse_object(f'{{"a": {value[:-3]}]}}'.encode())
    with pytest.raises(BadRequest, match=f"more than {MAX_MEMBERS} names"):
        parse_object(json.dumps(members | {"more": LONG_TEXT}).encode())
    with pytest.raises(BadRequest, match=f"no value of {MAX_VALUES} characters at most"):
        parse_object(f'{{"a": {value}}}'.encode())
    half = "[" + "0," * (MAX_VALUES // 4) + "0]"
    with pytest.raises(BadRequest, match=r"character \d+ begins no value of"):
        parse_object(f'{{"a": {half}, "b": {half}}}'.encode())


@pytest.mark.parametrize("count", [0, 1, PIECE // 2, PIECE, 3 * PIECE + 1])
def test_ids_in_pieces_are_the_ids(count: int) -> None:
    ids = [number % 100 for number in range(count)]
    assert parse_ids(json.dumps(ids).encode()) == ids
    assert parse_ids(json.dumps(ids, indent=1).encode() + b"\n") == ids


@pytest.mark.parametrize("count", range(PIECE // 2 - 2, PIECE // 2 + 3))
@pytest.mark.parametrize("end", [",]", ",,1]", ", ]", "]]", "],[1]", ""])
def test_a_list_of_ids_that_is_none_is_refused_wherever_it_is_cut(count: int, end: str) -> None:
    with pytest.raises(BadBody):
        parse_ids(("[" + ",".join("1" * count) + end).encode())


def test_what_is_made_of_a_long_body_is_made_elsewhere() -> None:
    here = threading.get_ident()
    assert asyncio.run(aside(LONG, threading.get_ident)) == here
    assert asyncio.run(aside(LONG + 1, threading.get_ident)) != here
