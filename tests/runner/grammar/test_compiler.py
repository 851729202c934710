"""Grammars of every kind, compiled, kept, and refused."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import BadGrammar, GrammarUnavailable
from runner.grammar import compiler
from runner.grammar.compiler import Grammars
from runner.types import Grammar
from tests.parts import tiny
from tests.parts.fakes import tokenizer
from tests.parts.grammars import allowed

WIDTH = 258
CODER = tokenizer()
GRAMMARS = Grammars(CODER, WIDTH)
THINKING = Grammar(
    "json_schema", '{"properties":{"a":{"type":"integer"}},"required":["a"],"type":"object"}', ("</think>",)
)


def accepts(grammar: Grammar, text: str | bytes) -> bool | None:
    """Whether the text is a whole answer; None if it is not even the beginning of one."""
    found = GRAMMARS.matcher(grammar)
    for byte in text.encode() if isinstance(text, str) else text:
        token = CODER.encode(chr(byte))[0] if byte < 128 else IDS[byte]
        if token not in allowed(found):
            return None
        found.accept(token)
    return tiny.EOS_ID in allowed(found)


IDS = {CODER.token_bytes(token)[0]: token for token in range(256)}


@pytest.mark.parametrize(
    ("grammar", "whole", "begun", "wrong"),
    [
        (Grammar("regex", "[0-9]{2}-[a-z]/"), "12-x/", "12-", "1a"),
        (Grammar("lark", 'start: A b*\nA: /a+/\nb: "b"'), "aabb", "", "b"),
        (Grammar("gbnf", 'root ::= "<" word ">"\nword ::= [a-z]+'), "<ab>", "<a", "a"),
        (Grammar("choice", '["yes","né\\n\\"","maybe/\\\\"]'), 'né\n"', "may", "x"),
        (Grammar("choice", '["a","ab"]'), "a", "", "b"),
        (Grammar("json_schema", '{"type":"integer"}'), "-12", "-", "1.5"),
        (Grammar("json_schema", '{"enum":["😀",null]}'), '"😀"', '"', "true"),
    ],
)
def test_each_kind_of_grammar_knows_whole_begun_and_wrong_answers(
    grammar: Grammar, whole: str, begun: str, wrong: str
) -> None:
    assert accepts(grammar, whole) is True
    assert accepts(grammar, begun) is False
    assert accepts(grammar, wrong) is None


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("", True),  # the answer may end before it began, and anywhere in the thinking
        ("I think { so </thi", True),
        ("</think>", False),
        ('hm</think>{"a": 1', False),
        ('hm</think>{"a": 1}', True),
        ('hm</think>{"a": 1}x', None),
        ("hm</think> ", None),  # no blank between the mark and the answer
        ("hm</think>\n", None),
        ("hm</think></think>", None),  # the first mark counts
        ("a\x00\nb☃", True),
    ],
)
def test_thinking_is_free_until_its_mark_and_the_schema_holds_behind_it(
    text: str, verdict: bool | None
) -> None:
    assert accepts(THINKING, text) is verdict


def test_any_of_several_marks_ends_the_thinking() -> None:
    grammar = Grammar("json_schema", "true", ("<|a|>", '<"b\\">'))
    for mark in grammar.close:
        assert accepts(grammar, f"x{mark}[1]") is True
        assert accepts(grammar, f"x{mark}") is False


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (Grammar("regex", "(a"), "unclosed group"),
        (Grammar("regex", "a(?=b)"), "look-around"),
        (Grammar("lark", "start: missing"), "missing"),
        (Grammar("lark", "nonsense"), ""),
        (Grammar("lark", "start: start"), "no text fits it"),
        (Grammar("regex", "[^\\s\\S]"), "no text fits it"),
        (Grammar("gbnf", 'root ::= "a" | missing'), "'missing' not found"),
        (Grammar("gbnf", "root = x"), "Expected ::="),
        (Grammar("gbnf", "x" * 200_000), "200000 characters; the limit is 131072"),
        (Grammar("json_schema", "[]"), "a schema is an object"),
        (Grammar("json_schema", '{"type":"foo"}'), "foo"),
        (Grammar("json_schema", '{"type":"object","not":{}}'), '"not"'),
        (Grammar("json_schema", '{"enum":[]}'), "enum"),
        (Grammar("json_schema", "false"), "accepts nothing"),
    ],
)
def test_what_cannot_be_enforced_is_refused_in_one_line(grammar: Grammar, reason: str) -> None:
    with pytest.raises(BadGrammar) as refused:
        GRAMMARS.compile(grammar)
    assert str(refused.value).startswith("invalid structured output grammar: ")
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_a_host_s_schema_asks_beyond_that_is_passed_over_and_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lenient = Grammar(
        "json_schema", '{"type":"array","uniqueItems":true,"items":{"type":"integer"}}', lenient=True
    )
    with caplog.at_level("WARNING"):
        assert accepts(lenient, "[1,1]") is True
        assert accepts(lenient, '["x"]') is None
    (record,) = caplog.records
    assert vars(record)["keywords"] == "uniqueItems"


def hostile() -> dict[str, Grammar]:
    chain: dict[str, Any] = {
        "$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(5000)},
        "$ref": "#/$defs/d0",
    }
    chain["$defs"]["d5000"] = {"type": "integer"}
    doubling: dict[str, Any] = {"$defs": {"x0": {"type": "string"}}, "$ref": "#/$defs/x25"}
    for i in range(25):
        doubling["$defs"][f"x{i + 1}"] = {
            "anyOf": [{"$ref": f"#/$defs/x{i}"}, {"items": {"$ref": f"#/$defs/x{i}"}}]
        }
    return {
        "many names": Grammar(
            "json_schema", json.dumps({"properties": {f"k{i}": {} for i in range(40_000)}})
        ),
        "a long chain": Grammar("json_schema", json.dumps(chain)),
        "doubling": Grammar("json_schema", json.dumps(doubling)),
        "a huge count": Grammar(
            "json_schema", '{"type":"array","minItems":1000000,"items":{"type":"integer"}}'
        ),
        "a huge pattern": Grammar("json_schema", '{"type":"string","pattern":"^(a{1000}){1000}$"}'),
        "a huge regex": Grammar("regex", "((a{1,500}b?){1,500}c){1,500}"),
        "overlapping patterns": Grammar("regex", "|".join(f"(.*{i}.*){{3}}" for i in range(200))),
        "a loop": Grammar("json_schema", '{"$ref":"#"}'),
        "a deep lark": Grammar("lark", "start: " + "(" * 20_000 + '"a"' + ")" * 20_000),
        "a wide lark": Grammar("lark", "start: " + " | ".join(f'"{i}" r{i}' for i in range(20_000))),
    }


@pytest.mark.parametrize("name", hostile())
def test_a_hostile_grammar_is_refused_or_done(name: str) -> None:
    """Without limits llguidance crashes or computes for minutes on some of these."""
    with contextlib.suppress(BadGrammar):
        assert allowed(GRAMMARS.matcher(hostile()[name]))


def test_a_grammar_is_compiled_once_and_an_answer_s_state_is_its_own() -> None:
    grammars, made = Grammars(CODER, WIDTH), []
    one = Grammar("regex", "[ab]c")
    original = grammars._make
    grammars._make = lambda grammar: made.append(grammar) or original(grammar)  # type: ignore[method-assign, func-returns-value]
    first, second = grammars.matcher(one), grammars.matcher(one)
    first.accept(IDS[ord("a")])
    assert IDS[ord("c")] in allowed(first)
    assert IDS[ord("c")] not in allowed(second)
    assert made == [one]


def test_only_so_many_compiled_grammars_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "KEPT", 3)
    monkeypatch.setattr(compiler, "KEPT_TEXT", 100)
    grammars = Grammars(CODER, WIDTH)
    for number in range(5):
        grammars.compile(Grammar("regex", f"a{number}"))
    assert [grammar.text for grammar in grammars._kept] == ["a2", "a3", "a4"]
    grammars.compile(Grammar("regex", "b" * 99))
    assert [grammar.text[:2] for grammar in grammars._kept] == ["bb"]
    assert IDS[ord("a")] in allowed(grammars.matcher(Grammar("regex", "a0")))


def test_a_model_that_cannot_end_has_no_structured_output() -> None:
    with pytest.raises(GrammarUnavailable, match=r"^structured output is unavailable$"):
        Grammars(tokenizer(eos=999), WIDTH).compile(Grammar("regex", "a"))


def test_without_llguidance_there_is_no_structured_output() -> None:
    code = (
        "import sys; sys.modules['llguidance'] = None\n"
        "from runner.errors import GrammarUnavailable\n"
        "from runner.grammar.compiler import Grammars\n"
        "from runner.types import Grammar\n"
        "from tests.parts.fakes import tokenizer\n"
        "try: Grammars(tokenizer(), 258).compile(Grammar('regex', 'a'))\n"
        "except GrammarUnavailable: print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"


@given(choices=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4, unique=True))
@settings(max_examples=60, deadline=None)
def test_each_choice_can_be_said_and_nothing_longer(choices: list[str]) -> None:
    grammar = Grammar("choice", json.dumps(choices))
    for choice in choices:
        assert accepts(grammar, choice) is True
        longer = choice + "é"
        assert accepts(grammar, longer) in (
            {None} if not any(other.startswith(longer) for other in choices) else {True, False}
        )
