"""Bodies of requests: which are refused before the first record, and in which words."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from typing import Any

import pytest

from api.guard import MAX_BODY_BYTES
from api.wire.bodies import MAX_IDS
from api.wire.schema import MAX_TEXT_BYTES
from tests.parts import tiny
from tests.parts.raw_http import exchange, read_response
from tests.parts.serving import Serving
from tests.parts.streams import PLAIN_TEXT, ask, plain


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"prompt": "x", "format": 7}, 400, "invalid format: expected a structural tag"),
        ({"prompt": "x", "format": {"type": "foo"}}, 400, "invalid structured output grammar: "),
        (
            {"Prompt": "", "Format": {"type": "structural_tag"}, "Media": [{"id": 0}]},
            400,
            "invalid format: expected a structural tag",
        ),
        (
            {"Prompt": "", "Media": [{"id": 0, "data": "", "Kind": "image"}]},
            400,
            "this model does not support",
        ),
        ({"prompt": ""}, 400, "empty prompt"),
        ({}, 400, "empty prompt"),
        ({"prompt": None}, 400, "empty prompt"),
        (
            {"prompt": "x" * 511},
            400,
            "input length (512 tokens) exceeds the model's maximum context length (512 tokens)",
        ),
        ({"prompt": "x", "options": {"stop": ["y"] * 65}}, 400, "stop has 65 strings, limit 64"),
        ({"prompt": "x", "top_logprobs": 21}, 400, "top_logprobs must be between 0 and 20, got 21"),
    ],
)
def test_what_cannot_be_served_is_refused_in_the_hosts_order(
    probed: Serving, body: dict[str, Any], status: int, text: str
) -> None:
    with probed.request(body) as request:
        code, message = request.refusal()
    assert code == status
    assert message.startswith(text)


BAD_BODIES = [
    b"",
    b" ",
    b"{",
    b'{"prompt":',
    b"not json",
    b"[]",
    b"null",
    b"7",
    b'"text"',
    b'{"prompt":"x"} {"prompt":"y"}',
    b'{"prompt":"x",}',
    b"{'prompt':'x'}",
    b'{"prompt":"\xff"}',
    b'\xef\xbb\xbf{"prompt":"x"}',
    b'{"prompt":"x\x00"}',
    b'{"prompt":5}',
    b'{"prompt":["x"]}',
    b'{"prompt":"x","options":7}',
    b'{"prompt":"x","options":[]}',
    b'{"prompt":"x","options":{"temperature":"5"}}',
    b'{"prompt":"x","options":{"temperature":true}}',
    b'{"prompt":"x","options":{"temperature":NaN}}',
    b'{"prompt":"x","options":{"temperature":Infinity}}',
    b'{"prompt":"x","options":{"temperature":-Infinity}}',
    b'{"prompt":"x","options":{"temperature":1e999}}',
    b'{"prompt":"x","options":{"temperature":1' + b"0" * 400 + b"}}",
    b'{"prompt":"x","options":{"top_k":1.5}}',
    b'{"prompt":"x","options":{"top_k":"5"}}',
    b'{"prompt":"x","options":{"top_k":true}}',
    b'{"prompt":"x","options":{"seed":18446744073709551616}}',
    b'{"prompt":"x","options":{"seed":' + b"9" * 5000 + b"}}",
    b'{"prompt":"x","options":{"stop":"y"}}',
    b'{"prompt":"x","options":{"stop":[1]}}',
    b'{"prompt":"x","stream":"no"}',
    b'{"prompt":"x","logprobs":1}',
    b'{"prompt":"x","media":{}}',
    b'{"prompt":' + b"[" * 100_000,
    b'{"prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"prompt":"x","unknown":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
]


def test_bodies_that_go_would_refuse_are_bad_requests(probed: Serving) -> None:
    for body in BAD_BODIES:
        answer = probed.http.post("/completion", content=body)
        got = answer.status_code, plain(answer.headers["content-type"], answer.content)
        assert got == (400, "Bad Request"), body[:80]


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt":"x","unknown":1e999,"options":{"num_predict":2,"mystery":[1,{"a":null}]}}',
        b'{"prompt":"x","PROMPT":"y","options":{"num_predict":2,"NUM_PREDICT":2}}',
        b'{"prompt":"x","options":{"num_predict":2,"temperature":0,"stop":null}}',
        b'{"prompt":"\\ud800 \\u0000 \\ufffe","options":{"num_predict":2}}',
        b'\r\n\t {"prompt":"x","options":{"num_predict":2,"temperature":1,"top_k":0}} \n',
    ],
)
def test_bodies_that_go_would_accept_are_served(probed: Serving, body: bytes) -> None:
    with probed.request(body) as request:
        request.answer()


def test_a_bad_chunk_is_a_bad_request_or_the_end(probed: Serving) -> None:
    head = "POST /load HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked"
    assert exchange(probed, head, b"zz\r\n{}\r\n0\r\n\r\n")[0] in (0, 400)


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (
            "POST /load HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\nContent-Length: 2",
            b"{}ffff\r\nx",
        ),
        ("POST /load HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked", b"2\r\n{}\r\nzz\r\n"),
        ("POST /nowhere HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked", b"zz\r\n"),
        ("HEAD /health HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked", b"zz\r\n"),
    ],
    ids=["refused by its head", "in the midst of a body", "of a path that is none", "where no body may be"],
)
def test_bytes_that_are_no_http_are_answered_once(
    probed: Serving, caplog: pytest.LogCaptureFixture, head: str, body: bytes
) -> None:
    for cut in range(len(body)):
        with probed.raw(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body[:cut]) as connection:
            connection.sendall(body[cut:])
            assert read_response(connection)[0] in (0, 200, 400, 404)
    assert "Traceback" not in caplog.text


def test_bytes_that_are_no_http_behind_a_request_end_its_stream(
    probed: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    data = json.dumps(ask("x", 500, logit_bias=PLAIN_TEXT)).encode()
    head = b"POST /completion HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with probed.raw(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)) as connection:
        connection.recv(1)
        connection.sendall(b"\0\r\n\r\n" * 100)
        read_response(connection)
    assert probed.http.get("/health").status_code == 200
    assert "Traceback" not in caplog.text


def test_a_chunked_body_is_read_like_any_other(probed: Serving) -> None:
    head = "POST /load HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked"
    assert exchange(probed, head, b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n")[0] == 200


def test_an_endless_body_is_refused_and_not_kept(probed: Serving) -> None:
    tracemalloc.start()  # this process is both ends
    block = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    head = b"POST /completion HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with probed.raw(head) as connection:
        sent = 0
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while sent < 16 * MAX_BODY_BYTES:
                connection.sendall(block)
                sent += 0x10000
        status, headers, _ = read_response(connection)
    assert sent < 4 * MAX_BODY_BYTES
    assert status in (0, 413)  # 0: the reset came before the answer was read
    assert headers.get("connection", "close") == "close"
    _, largest = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{sent / 1e6:.1f} MB were sent, {largest / 1e6:.1f} MB were held")
    assert largest < 3 * MAX_BODY_BYTES


def test_a_body_past_the_limit_by_a_byte_is_refused_with_a_reason(probed: Serving) -> None:
    head = f"POST /completion HTTP/1.1\nHost: localhost\nContent-Length: {MAX_BODY_BYTES + 1}"
    status, headers, body = exchange(probed, head)
    assert status == 413
    assert plain(headers["content-type"], body) == f"request body exceeds {MAX_BODY_BYTES} bytes"


def test_a_prompt_of_a_million_characters_is_too_long_and_nothing_worse(probed: Serving) -> None:
    with probed.request({"prompt": "long " * 200_000}) as request:
        status, text = request.refusal()
    assert status == 400
    assert "input length (at least 4097 tokens) exceeds" in text


LONG_BODIES = {
    "begins no value of": b'{"prompt": "x", "options": {"stop": [' + b'"",' * 1_000_000 + b'""]}}',
    "begins no value": b'{"prompt": "x", "options": {"logit_bias": {%s}}}'
    % b",".join(b'"%d":1' % number for number in range(200_000)),
    "more than 1000 names": b'{"prompt": "x", %s}'
    % b",".join(b'"%d":1' % number for number in range(200_000)),
    "character 27 begins": b'{"prompt": "x", "unknown": [' + b"[]," * 1_000_000 + b"[]]}",
}


@pytest.mark.parametrize("what", LONG_BODIES)
def test_a_long_body_of_many_small_things_is_not_read_to_its_end(probed: Serving, what: str) -> None:
    answer = probed.http.post("/completion", content=LONG_BODIES[what])
    assert answer.status_code == 400
    message = plain(answer.headers["content-type"], answer.content)
    assert message.startswith(f"body of {len(LONG_BODIES[what])} bytes: ")
    assert what in message


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        ({"9" * 5000: 1}, f"logit_bias: '{'9' * 20}' is not a token id"),
        ({"x" * 200_000: 1}, f"logit_bias: '{'x' * 20}' is not a token id"),
        ({"9" * 10: 1}, "logit_bias: no token 9999999999 in a vocabulary of 300 tokens"),
        (dict.fromkeys(map(str, range(10_001)), 1), "logit_bias has 10001 entries, limit 10000"),
    ],
    ids=["digits", "a long key", "a large id", "many"],
)
def test_a_bias_on_what_is_no_token_is_refused(probed: Serving, bias: dict[str, int], message: str) -> None:
    with probed.request({"prompt": "x", "options": {"logit_bias": bias}}) as request:
        assert request.refusal() == (400, message)


def test_a_model_of_an_endless_name_is_not_looked_for(probed: Serving) -> None:
    answer = probed.http.post("/load", json={"model": "a/" * 5_000_000})
    assert answer.status_code == 404
    message = plain(answer.headers["content-type"], answer.content)
    assert message == "a model's name of 10000000 characters, limit 4096"


def test_a_long_text_is_tokenized_in_parts_only(probed: Serving) -> None:
    answer = probed.http.post("/v1/tokenize", content=b"x" * (MAX_TEXT_BYTES + 1))
    assert answer.status_code == 400
    assert plain(answer.headers["content-type"], answer.content).endswith("send it in parts")


def test_many_ids_come_and_go_whole(probed: Serving) -> None:
    text = "0123456789" * 10_001
    ids = probed.http.post("/v1/tokenize", content=text).json()
    assert len(ids) == len(text) + 1
    assert probed.http.post("/v1/detokenize", json=ids).text == tiny.BOS + text


def test_more_ids_than_a_reply_has_room_for_are_refused(probed: Serving) -> None:
    answer = probed.http.post("/v1/detokenize", content=b"[" + b"1," * MAX_IDS + b"1]")
    assert answer.status_code == 400
    message = plain(answer.headers["content-type"], answer.content)
    assert message == f"{MAX_IDS + 1} ids at once, limit {MAX_IDS}"
