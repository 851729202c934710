"""scripts/schema_answers.py: a model's answers hold to schemas drawn by chance, and what would not is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from schema_answers import violations  # noqa: E402
from schemas.asking import Answer, Asked  # noqa: E402
from schemas.drawing import FORMATS, drawn  # noqa: E402
from schemas.judging import writes_a_key_twice, wrong_beginning, wrong_whole  # noqa: E402

from runner.grammar.compiler import Grammars  # noqa: E402
from runner.types import Grammar, SamplingOptions  # noqa: E402
from tests.parts.fakes import TINY_VOCABULARY, saying, tokenizer  # noqa: E402

RUN_S = 600.0
KEYWORDS = (
    *("type", "enum", "const", "properties", "required", "additionalProperties", "patternProperties"),
    *("minProperties", "maxProperties", "items", "prefixItems", "minItems", "maxItems", "minLength"),
    *("maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("multipleOf", "allOf", "anyOf", "oneOf", "$ref", "$defs", "unevaluatedProperties"),
)


def answers(*arguments: str) -> dict[str, Any]:
    """The report, of a run without a violation."""
    command = [sys.executable, str(ROOT / "scripts/schema_answers.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def test_hot_answers_of_the_demo_model_hold_to_their_schemas() -> None:
    report = answers("--schemas", "12", "--temperatures", "1.5", "--num-predict", "60")
    count = report["temperatures"]["1.5"]
    assert (count["finished"] + count["cut"], count["violations"]) == (12, 0)
    assert count["finished"] > 0
    assert 0 < count["forced"] < count["tokens"]


@pytest.mark.slow
def test_many_answers_of_the_demo_model_hold_to_their_schemas() -> None:
    """Those that are not hot."""
    report = answers("--schemas", "12", "--seed", "1", "--temperatures", "0", "0.7", "--num-predict", "100")
    for count in report["temperatures"].values():
        assert (count["finished"] + count["cut"], count["violations"]) == (12, 0)
        assert count["finished"] > 0


# --- schemas ---------------------------------------------------------------------------------------------


def keywords(schema: Any) -> set[str]:
    inside = list(schema.values()) if isinstance(schema, dict) else schema if isinstance(schema, list) else []
    return set(schema if isinstance(schema, dict) else ()).union(*map(keywords, inside))


def test_the_schemas_of_a_seed_are_always_the_same() -> None:
    assert [drawn(3, number) for number in range(20)] == [drawn(3, number) for number in range(20)]
    assert drawn(3, 0) != drawn(4, 0)


def test_a_hundred_schemas_have_every_keyword_and_all_of_them_compile() -> None:
    grammars = Grammars(tokenizer(), TINY_VOCABULARY)
    schemas = [drawn(0, number) for number in range(100)]
    assert set(KEYWORDS) - set().union(*map(keywords, schemas)) == set()
    for schema in schemas:
        grammars.compile(Grammar("json_schema", json.dumps(schema)))
    text = json.dumps(schemas)
    assert [name for name in FORMATS if f'"format": "{name}"' not in text] == []


# --- verdicts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "answer", "reason"),
    [
        ({"type": "integer"}, '"a"', "not valid"),
        ({"properties": {"a": {"minimum": 3}}}, '{"a":2}', "not valid: at $.a"),
        ({"format": "date"}, '"2023-02-29"', "not valid"),
        ({"format": "time"}, '"12:00:00"', "not valid"),
        ({"format": "date-time"}, '"2023-01-01T00:00:00"', "not valid"),
        ({"format": "uuid"}, '"12"', "not valid"),
        ({"multipleOf": 0.01}, "0.075", "not valid"),
        ({"exclusiveMinimum": 3}, "3.0", "not valid"),
        ({}, "{} ", "blanks"),
        ({}, "\n{}", "blanks"),
        ({}, "[1,\n" + " " * 17 + "2]", "18 blanks"),
        ({}, "[1", "not JSON"),
        ({}, "NaN", "not JSON"),
    ],
)
def test_a_wrong_answer_is_told(schema: dict[str, Any], answer: str, reason: str) -> None:
    (wrong,) = wrong_whole(json.dumps(schema), answer)
    assert reason in wrong


@pytest.mark.parametrize(
    ("schema", "answer"),
    [
        ({"multipleOf": 0.01}, "0.07"),
        ({"type": "integer"}, "2.0"),
        ({"exclusiveMinimum": 3}, "3.000000000000000000000001"),
        ({"minimum": 0.1}, "0.1"),
        ({"enum": [0.5, "x"]}, "0.50"),
        ({"format": "date"}, '"0000-02-29"'),
        ({"format": "time"}, '"23:59:59.123456789z"'),
        ({"format": "date-time"}, '"2024-02-29t00:00:00-23:59"'),
        ({}, "[1,\n" + " " * 16 + "2]"),
        ({}, json.dumps('a \\" b' + " " * 30)),
    ],
)
def test_a_right_answer_is_not(schema: dict[str, Any], answer: str) -> None:
    assert list(wrong_whole(json.dumps(schema), answer)) == []


def test_a_cut_answer_is_judged_by_what_it_begins_with() -> None:
    assert (
        list(wrong_beginning('{"a": "' + " " * 40 + "\ufffd", lambda text: not text.endswith("\ufffd"))) == []
    )
    assert list(wrong_beginning('{"a"', lambda text: False)) == ["no answer may begin so"]
    assert list(wrong_beginning(" {", lambda text: True)) == ["it begins in blanks"]
    assert list(wrong_beginning("[" + "\n" * 18, lambda text: True)) == ["it has 18 blanks in a row"]


def test_a_key_that_is_written_twice_is_seen_at_any_depth() -> None:
    assert writes_a_key_twice('[{"a": {"b": 1, "c": 2, "b": 3}}]')
    assert not writes_a_key_twice('[{"a": {"b": 1}}, {"a": {"b": 1}}]')


def test_what_a_model_answers_is_held_against_its_tokens_and_its_limit() -> None:
    schema, asked = '{"type":"string","maxLength":3}', Asked(saying('"abc"', "p"))
    tokens = tuple(tokenizer().encode('"ab'))

    def wrong(text: str, reason: str, limit: int, spelled: tuple[int, ...] = tokens) -> str:
        return "; ".join(violations(asked, schema, Answer(text, reason, spelled), limit))

    assert wrong('"ab', "length", 3) == ""
    assert wrong('"a', "length", 3) == "its text is not that of its tokens"
    assert "asked for" in wrong('"ab', "length", 2)
    assert "ended at a limit after 3" in wrong('"ab', "length", 4)
    assert "not JSON" in wrong('"ab', "stop", 4)
    assert "no answer may begin so" in wrong("1", "length", 1, tuple(tokenizer().encode("1")))
    assert wrong("why", "failed", 3) == "it failed"


def test_a_schema_that_is_refused_is_an_answer_that_failed() -> None:
    answer = Asked(saying("1", "p")).answer('{"not": {}}', 9, SamplingOptions())
    assert (answer.reason, '"not" at the root' in answer.text) == ("failed", True)
