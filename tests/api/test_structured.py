"""Structured output over HTTP: streamed and whole, refused before the first record, and others meanwhile."""

from __future__ import annotations

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no types
import pytest

from tests.parts.serving import SENTENCE, Serving
from tests.parts.streams import ask

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "b": {"enum": ["x", "y"]},
        "a": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["b", "a"],
}


def asking(format_: Any, tokens: int = 200, **options: Any) -> dict[str, Any]:
    return {"prompt": SENTENCE, "format": format_, "options": {"num_predict": tokens, **options}}


def tagged(schema: Any) -> dict[str, Any]:
    """As hosts send a schema."""
    return {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": schema}}


@pytest.mark.parametrize("format_", [SCHEMA, tagged(SCHEMA)], ids=["a client's", "a host's"])
@pytest.mark.parametrize("temperature", [0, 1.5])
def test_an_answer_validates_and_its_keys_have_the_schema_s_order(
    probed: Serving, format_: Any, temperature: float
) -> None:
    answer = probed.answer(asking(format_, temperature=temperature, seed=3))
    assert answer.terminal["done_reason"] == 0
    found = json.loads(answer.text)
    jsonschema.validate(found, SCHEMA)
    assert list(found) == ["b", "a"]


def test_an_answer_that_is_not_streamed_is_one_object(probed: Serving) -> None:
    reply = probed.http.post("/completion", json=asking(SCHEMA) | {"stream": False}).json()
    jsonschema.validate(json.loads(reply["content"]), SCHEMA)
    assert reply["done_reason"] == 0


@pytest.mark.parametrize("nothing", [None, ""])
def test_no_format_changes_nothing(probed: Serving, nothing: Any) -> None:
    assert probed.answer(ask(SENTENCE) | {"format": nothing}).text == probed.answer(ask(SENTENCE)).text


def test_a_limit_cuts_the_answer_and_says_so(probed: Serving) -> None:
    answer = probed.answer(asking({"type": "regex", "pattern": "[a-z]{9}"}, 4))
    assert answer.terminal["done_reason"] == 1
    assert answer.terminal["eval_count"] == 4
    assert len(answer.text) == 4


def test_logprobs_are_finite_numbers_of_what_was_allowed(probed: Serving) -> None:
    body = asking({"type": "regex", "pattern": "[ab]{3}"}) | {"logprobs": True, "TopLogprobs": 5}
    entries = [entry for record in probed.answer(body).records for entry in record.get("Logprobs", [])]
    assert len(entries) == 3
    for entry in entries:
        values = [entry["logprob"], *(top["logprob"] for top in entry["top_logprobs"])]
        assert all(-9999 <= value <= 0 for value in values)
        assert sorted(values)[0] == -9999  # only two tokens are allowed


@pytest.mark.parametrize(
    ("format_", "reason"),
    [
        ({"type": "array", "uniqueItems": True}, '"uniqueItems"'),
        ({"properties": {"a": {"not": {}}}}, '"not" at /properties/a'),
        ({"type": "regex", "pattern": "("}, "unclosed group"),
        ({"type": "array", "minItems": 10**6}, "1,000,000"),
        ({"enum": []}, "enum"),
    ],
)
def test_what_cannot_be_enforced_is_refused_before_the_first_record(
    probed: Serving, format_: Any, reason: str
) -> None:
    with probed.request({"prompt": "x", "format": format_}) as request:
        status, text = request.refusal()
    assert status == 400
    assert text.startswith("invalid structured output grammar: ")
    assert reason in text


def test_a_host_s_schema_with_more_than_that_is_served(probed: Serving) -> None:
    schema = {"type": "array", "uniqueItems": True, "maxItems": 1, "items": {"type": "null"}}
    assert isinstance(json.loads(probed.answer(asking(tagged(schema))).text), list)


def test_a_client_that_leaves_takes_its_grammar_along(probed: Serving) -> None:
    endless = {"type": "regex", "pattern": "[a-z]*x"}
    with probed.request(asking(endless, 400)) as request:
        request.started().next_record()
        request.leave()
    answer = probed.answer(asking(SCHEMA))
    jsonschema.validate(json.loads(answer.text), SCHEMA)
