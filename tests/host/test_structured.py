"""Structured output as users of a real Ollama get it: over HTTP, by another vendor's routes, from the official
client, on the command line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import ollama
import pytest
from jsonschema import validate  # type: ignore[import-untyped]  # it has no types
from pydantic import BaseModel, Field

from tests.parts.hosts import ANSWER_S, Host, Refused
from tests.parts.processes import wait_until

WHO = "Who are you?"  # the model answers with a sentence, unless it may not
TOM = "Tom is 9 years old and lives in Rome. Write this as JSON."
GREEDY = {"temperature": 0}

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "city": {"type": "string"}},
    "required": ["name", "age", "city"],
}
PETS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "animal": {"enum": ["cat", "dog"]},
        "names": {
            "type": "array",
            "items": {"type": "string", "maxLength": 12},
            "minItems": 2,
            "maxItems": 3,
        },
        "age": {"type": "integer", "minimum": 1, "maximum": 20},
    },
    "required": ["animal", "names", "age"],
}
REFUSALS = {
    "unknown type": ({"type": "foo"}, "\"type\" at the root names 'foo', which is no type"),
    "empty enum": (
        {"type": "object", "properties": {"kind": {"enum": []}}},
        'enum array must not be empty: "enum" at /properties/kind',
    ),
    "no schema": ("yaml", "a schema is an object, true or false"),
}


@pytest.fixture(scope="module")
def new_host(host: Host) -> Host:
    if not host.is_since("v0.34.0"):
        pytest.skip("hosts before v0.34.0 pass no format on")
    return host


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def on_all_routes(host: Host, question: str, form: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The text and the last record of the same question: generated and chatted, whole and in pieces."""
    both: dict[str, dict[str, Any]] = {
        "/api/generate": {"prompt": question},
        "/api/chat": {"messages": user(question)},
    }
    for path, asked in both.items():
        body = {"model": "demo", "format": form, "options": GREEDY, **asked}
        whole = host.ask(path, **body)
        yield said(whole), whole
        with host.stream(path, **body) as pieces:
            records = list(pieces)
        assert len(records) > 4
        yield "".join(map(said, records)), records[-1]


def said(record: dict[str, Any]) -> str:
    text: str = record["message"]["content"] if "message" in record else record["response"]
    return text


# Over HTTP.


@pytest.mark.parametrize(("form", "schema"), [("json", {"type": "object"}), (PERSON, PERSON)])
def test_an_answer_is_json_on_all_routes(new_host: Host, form: Any, schema: dict[str, Any]) -> None:
    texts = set()
    for text, last in on_all_routes(new_host, WHO, form):
        validate(json.loads(text), schema)
        assert last["done_reason"] == "stop"
        texts.add(text)
    assert len(texts) == 1


def test_keys_come_in_the_order_of_the_schema(new_host: Host) -> None:
    keys = list(PERSON["properties"])
    for order in (keys, keys[::-1]):
        schema = PERSON | {"properties": {key: PERSON["properties"][key] for key in order}}
        for text, _ in on_all_routes(new_host, TOM, schema):
            assert list(json.loads(text)) == order


def test_what_is_drawn_at_random_keeps_to_the_schema(new_host: Host) -> None:
    answers = set()
    for seed in range(6):
        options = {"temperature": 2, "seed": seed}
        answer = new_host.generate(WHO, format=PETS, options=options)
        assert answer["done_reason"] == "stop"
        validate(json.loads(answer["response"]), PETS)
        answers.add(answer["response"])
    assert len(answers) > 1


def test_a_limit_cuts_the_json(new_host: Host) -> None:
    whole = new_host.generate(WHO, format=PERSON, options=GREEDY)
    validate(json.loads(whole["response"]), PERSON)
    for limit in (1, 5, whole["eval_count"] - 1):
        cut = new_host.generate(WHO, format=PERSON, options=GREEDY | {"num_predict": limit})
        assert cut["done_reason"] == "length"
        assert cut["eval_count"] == limit
        assert whole["response"].startswith(cut["response"])
        assert 0 < len(cut["response"]) < len(whole["response"])


def test_logprobs_are_finite_and_what_may_not_come_has_the_lowest(new_host: Host) -> None:
    answer = new_host.generate(WHO, format=PERSON, options=GREEDY, logprobs=True, top_logprobs=5)
    assert "".join(entry["token"] for entry in answer["logprobs"]) == answer["response"]
    values = [entry["logprob"] for entry in answer["logprobs"]]
    assert all(-9999 < value <= 0 for value in values)
    others = [other["logprob"] for entry in answer["logprobs"] for other in entry["top_logprobs"]]
    assert all(math.isfinite(value) and -9999 <= value <= 0 for value in others)
    assert -9999 in others


def test_clients_with_and_without_a_format_do_not_mix(new_host: Host) -> None:
    asked = [(WHO, None), (WHO, PERSON), (WHO, "json"), ("What is 7 plus 5?", None), (TOM, PETS)]

    def answer(question: str, form: Any) -> str:
        text: str = new_host.generate(question, format=form, options=GREEDY)["response"]
        return text

    alone = [answer(*one) for one in asked]
    validate(json.loads(alone[1]), PERSON)
    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(answer, *zip(*asked * 3, strict=True))) == alone * 3


@pytest.mark.parametrize(("form", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_a_schema_that_cannot_be_kept_is_refused_with_its_place(
    new_host: Host, form: Any, reason: str
) -> None:
    with pytest.raises(Refused) as refused:
        list(on_all_routes(new_host, WHO, form))
    assert refused.value.status == 400
    assert refused.value.error.startswith(f"invalid structured output grammar: {reason}")
    with (
        pytest.raises(Refused, match="400: invalid structured output grammar"),
        new_host.stream("/api/chat", model="demo", messages=user(WHO), format=form),
    ):
        pass


def test_keywords_that_are_not_enforced_are_named_in_the_log_once(new_host: Host) -> None:
    tags = {"type": "array", "items": {"type": "string"}, "uniqueItems": True, "maxItems": 2}
    schema = PERSON | {"properties": PERSON["properties"] | {"tags": tags}, "not": {"required": ["tags"]}}
    before = len(new_host.output.text)
    for _ in range(2):
        answer = new_host.generate(WHO, format=schema, options=GREEDY)
        validate(json.loads(answer["response"]), PERSON)
    finished = 'msg="Completion finished"'
    wait_until(lambda: new_host.output.text[before:].count(finished) >= 2, ANSWER_S, "the log of both")
    lines = new_host.output.text[before:].splitlines()
    (told,) = [line for line in lines if "Schema keywords not enforced" in line]
    assert "level=WARN" in told
    assert told.endswith("keywords=not,uniqueItems")


def test_an_older_host_does_not_pass_the_format_on(host: Host) -> None:
    if host.is_since("v0.34.0"):
        pytest.skip("newer hosts do")
    free = host.generate(WHO, options=GREEDY)
    assert host.generate(WHO, format=PERSON, options=GREEDY)["response"] == free["response"]
    assert "{" not in free["response"]


# By another vendor's routes.


@pytest.mark.parametrize(
    ("form", "schema"),
    [
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}, PERSON),
    ],
    ids=["json_object", "json_schema"],
)
def test_the_response_format_of_chat_completions_is_kept(
    new_host: Host, form: Any, schema: dict[str, Any]
) -> None:
    body = {"model": "demo", "messages": user(WHO), "temperature": 0, "response_format": form}
    (choice,) = new_host.ask("/v1/chat/completions", **body)["choices"]
    text = choice["message"]["content"]
    validate(json.loads(text), schema)
    assert choice["finish_reason"] == "stop"
    *pieces, last = server_sent(new_host, "/v1/chat/completions", **body)
    assert "".join(piece["delta"].get("content", "") for piece in pieces) == text
    assert last["finish_reason"] == "stop"


def server_sent(host: Host, path: str, **body: Any) -> list[dict[str, Any]]:
    """The only choice of each event."""
    url = f"http://{host.address}{path}"
    with httpx.Client(trust_env=False, timeout=ANSWER_S) as client:
        lines = client.post(url, json=body | {"stream": True}).raise_for_status().text.splitlines()
    events = [line.removeprefix("data: ") for line in lines if line]
    assert events.pop() == "[DONE]"
    return [json.loads(event)["choices"][0] for event in events]


def test_a_bad_schema_is_refused_in_the_other_vendor_s_words(new_host: Host) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "bad", "schema": {"type": "foo"}}}
    with pytest.raises(Refused) as refused:
        new_host.ask("/v1/chat/completions", model="demo", messages=user(WHO), response_format=form)
    assert refused.value.status == 400
    told: Any = refused.value.error
    assert told["type"] == "invalid_request_error"
    assert told["message"].startswith("invalid structured output grammar: ")


# Clients.


class Pet(BaseModel):
    name: str
    legs: int


class Home(BaseModel):
    """A list of another class: its schema has $defs and $ref."""

    city: str
    pets: list[Pet] = Field(max_length=2)


def test_the_python_client_gets_objects_of_its_classes(new_host: Host) -> None:
    with ollama.Client(host=f"http://{new_host.address}", trust_env=False) as client:
        answer = client.chat("demo", user(TOM), format=Home.model_json_schema(), options=GREEDY)
    assert Home.model_validate_json(answer.message.content or "").city


def test_the_command_line_takes_json_and_a_schema(new_host: Host) -> None:
    run = ("run", "demo", "--nowordwrap", "--format")  # where it wraps words it breaks JSON
    assert isinstance(json.loads(new_host.command(*run, "json", TOM)), dict)
    validate(json.loads(new_host.command(*run, json.dumps(PETS), WHO)), PETS)
