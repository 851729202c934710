"""Patterns mean what ECMA 262 says, in a dialect that has other signs for it."""

from __future__ import annotations

import json

import pytest

from runner.schemas.patterns import NotRegular, translated
from tests.parts.byte_matcher import accepts

MEANINGS: list[tuple[str, list[str], list[str]]] = [
    ("", ["", "a"], []),
    ("a.c", ["xabcx", "a😀c"], ["a\nc", "a\rc", "a\u2028c"]),
    (r"^\d\w$", ["1a", "1_"], ["٣a", "1é"]),
    (r"^\D\W\S$", ["a-a", "éé1"], ["1-a", "aa1", "a- "]),
    (r"^\s$", [" ", "\u00a0", "\ufeff"], ["\x85", "a"]),
    ("^[a&&b]$", ["a", "&", "b"], ["&&"]),
    ("^[[:x]$", ["[", ":", "x"], ["]"]),
    ("^[a-\\d]$", ["a", "-", "5"], ["b"]),
    ("^[^]$", ["\n", "é"], [""]),
    (r"^[^\D]$", ["1"], ["a"]),
    (r"^\x41\u0042\u{43}\cI\/$", ["ABC\t/"], ["abc\t/"]),
    (r"^\uD83D\uDE00{2}$", ["😀😀"], ["😀"]),
    (r"^(?<year>\d{4})-(?:\d\d)$", ["2024-12"], ["24-12"]),
    ("^a{2$", ["a{2"], ["aa"]),
    ("^x}]$", ["x}]"], ["x"]),
    ("^a{1,2}?b+?$", ["ab", "aabb"], ["aaab"]),
    ("(^a|b$)", ["ax", "xb"], ["xax"]),
    (r"^\p{L}\P{L}$", ["é1"], ["11"]),
]


@pytest.mark.parametrize(("pattern", "matching", "others"), MEANINGS)
def test_a_pattern_is_translated(pattern: str, matching: list[str], others: list[str]) -> None:
    schema = {"type": "string", "pattern": pattern}
    assert [text for text in matching if not accepts(schema, json.dumps(text, ensure_ascii=False))] == []
    assert [text for text in others if accepts(schema, json.dumps(text, ensure_ascii=False))] == []


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "(?=a)",
            "(?!a)",
            "(?<=a)b",
            r"\b",
            r"(a)\1",
            r"(?<n>a)\k<n>",
            "(?i)a",
            "(",
            ")",
            "[",
            "\\",
            "*a",
            "^*",
        ),
        *("[b-a]", r"\ud800", r"\u{110000}", r"\p{", "a{3,2}", "(a{200}){200}"),
    ],
)
def test_what_is_no_regular_expression_is_refused(pattern: str) -> None:
    with pytest.raises(NotRegular):
        translated(pattern)
