"""Requests that are wrong, odd or endless, to one runner process; behind each the runner is as it was."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.parts.aftermath import Calm, answer_of, refused
from tests.parts.log_lines import check_output
from tests.parts.processes import Running, hosted, linux_only, wait_until
from tests.parts.raw_http import read_response
from tests.parts.streams import DEADLINE_S, PLAIN_TEXT, Request, ask, endless, post

pytestmark = linux_only
HEAD = b"POST /completion HTTP/1.1\r\nHost: localhost\r\n"
MIB = 1 << 20


@pytest.fixture(scope="module")
def pair(tiny_model: Path) -> Iterator[tuple[Running, Calm]]:
    with hosted(tiny_model, {"OLLAMA_NUM_PARALLEL": "2"}) as running:
        yield running, Calm.of(running)
    check_output(running.output.text)


@pytest.fixture
def running(pair: tuple[Running, Calm]) -> Iterator[Running]:
    yield pair[0]
    pair[1].check(pair[0])


def raw(running: Running, data: bytes) -> tuple[int, bytes]:
    """Status and body of what answers these bytes; 0 if the connection was closed."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=DEADLINE_S) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
        code, _, body = read_response(connection)
    return code, body


BODIES: dict[str, tuple[bytes, ...]] = {
    "26 malformed": (b"", b"{", b"[]", b"null", b"7", b'{"prompt":', b'"text"'),
    "27 wrong types": (
        b'{"prompt":5}',
        b'{"prompt":"x","options":{"top_k":"5"}}',
        b'{"prompt":"x","options":{"top_k":true}}',
        b'{"prompt":"x","options":{"top_k":1.5}}',
    ),
    "28 numbers that are none": (
        b'{"prompt":"x","options":{"temperature":NaN}}',
        b'{"prompt":"x","options":{"temperature":Infinity}}',
        b'{"prompt":"x","options":{"temperature":1e999}}',
        b'{"prompt":"x","options":{"seed":18446744073709551616}}',
        b'{"prompt":"x","options":{"seed":' + b"9" * 5000 + b"}}",
    ),
    "30 no prompt": (b"{}", b'{"prompt":""}', b'{"Prompt":null}'),
    "31 too long": (json.dumps({"prompt": "x" * 511}).encode(),),
    "32 no UTF-8": (b'{"prompt":"\xff"}', b'{"prompt":"\xed\xa0\x80"}', b'\xef\xbb\xbf{"prompt":"x"}'),
    "38 nesting and width": (
        b'{"prompt":' + b"[" * 100_000,
        b'{"prompt":"x","format":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
        json.dumps({"prompt": "x", "format": {"enum": [f"{i}" for i in range(100_000)]}}).encode(),
    ),
    "39 expressions": tuple(
        json.dumps({"prompt": "x", "format": {"type": "regex", "pattern": pattern}}).encode()
        for pattern in ("(a", "(?=a)b", "a{2,1}", "[^\\s\\S]")
    ),
    "40 stops": (
        json.dumps({"prompt": "x", "options": {"stop": ["y"] * 10_000}}).encode(),
        json.dumps({"prompt": "x", "options": {"stop": ["y" * MIB]}}).encode(),
    ),
}


@pytest.mark.parametrize("row", BODIES)
def test_a_body_that_will_not_do_is_one_plain_line(running: Running, row: str) -> None:
    for body in BODIES[row]:
        code, text = refused(running.port, "/completion", body)
        assert code == 400, body[:80]
        assert text


@pytest.mark.parametrize("pattern", ["(a+)+$", "((a{1,500}b?){1,500}c){1,500}", "(x+x+)+y", "a{1000000000}"])
def test_an_expression_that_would_explode_elsewhere_does_no_harm(running: Running, pattern: str) -> None:
    """Row 39. The last one is more than llguidance takes, which it says in mid-stream."""
    body = ask("x", 20, logit_bias={}) | {"format": {"type": "regex", "pattern": pattern}}
    with Request(running.port, body) as request:
        end = request.answer()
    assert end.error is None or "too many" in end.error["error"]


ODD_OPTIONS: tuple[dict[str, Any], ...] = (
    *({"temperature": value} for value in (0, 1e-45, 1e308)),
    *({"temperature": 1.0, "top_k": value} for value in (-5, 0, 300, 10**9)),
    *({"temperature": 1.0, "top_p": value} for value in (-1.0, 0.0, 2.0)),
    {"temperature": 1.0, "min_p": 2.0},
    *({"repeat_last_n": value, "repeat_penalty": 1.3} for value in (-1, 10**9)),
    *({"num_predict": value, "stop": ["e", "a", "o"]} for value in (-2, -1, 0, 2**31)),
    *({"temperature": 1.0, "seed": value} for value in (-1, 2**63 - 1)),
    {"temperature": -1.0},
    {"stop": ["", "\U0001f642", "ab", "abc"]},
)


@pytest.mark.parametrize("options", ODD_OPTIONS, ids=str)
def test_an_odd_option_is_refused_or_answered_with_tokens_of_the_vocabulary(
    running: Running, options: dict[str, Any]
) -> None:
    """Row 29, and of row 40 the stop strings that are served."""
    body = {"prompt": "odd", "options": {"num_predict": 5, "logit_bias": PLAIN_TEXT} | options}
    with Request(running.port, body) as request:
        if request.response.status == 400:
            assert request.response.read()
        else:
            assert all(0 <= record["token"] < 258 for record in request.answer().records if "token" in record)


@pytest.mark.parametrize("text", ["\ud800", "\udc00 \ud800", "\0", "\ufffe", "\ufeff", "e\u0301", "日本語🙂"])
def test_odd_characters_are_served_and_come_back(running: Running, text: str) -> None:
    """Rows 32 and 33."""
    with Request(
        running.port, json.dumps({"prompt": text, "options": {"num_predict": 20}}).encode()
    ) as request:
        request.answer()
    data = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
    ids = post(running.port, "/v1/tokenize", data)[1]
    assert post(running.port, "/v1/detokenize", ids)[1].endswith(data)


def test_the_longest_prompt_gets_one_token(running: Running) -> None:
    """Row 31, on the side that is served."""
    with Request(running.port, ask("x" * 510, 10)) as request:
        end = request.answer().terminal
    assert (end["EvalCount"], end["done_reason"]) == (1, 1)


@pytest.mark.parametrize(
    ("head", "codes"),
    [
        (b"GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n", {403}),
        (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1.evil\r\n\r\n", {403}),
        (b"GET /health HTTP/1.1\r\nHost:\r\n\r\n", {403}),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", {400}),
        (b"GET /health HTTP/1.1\r\n\r\n", {400}),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n\r\n", {403}),
        (HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", {400}),
        (HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", {400}),
        (HEAD + b"Content-Length: -1\r\n\r\n", {400}),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", {0, 400}),
        (b"GET /hea\0lth HTTP/1.1\r\nHost: localhost\r\n\r\n", {400}),
        (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b", {415}),
        (HEAD + b"Content-Length: 1000000000000\r\n\r\n", {413}),
        (HEAD + b"X: " + b"x" * 100_000 + b"\r\n\r\n", {0, 400, 431}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_head_that_will_not_do_is_refused_before_any_route(
    running: Running, head: bytes, codes: set[int]
) -> None:
    """Rows 36, 37 and of row 34 the body that is announced."""
    code, body = raw(running, head)
    assert code in codes
    assert b"Traceback" not in body


def test_an_endless_body_is_cut_off_and_not_kept(running: Running) -> None:
    """Row 34."""
    before = resident(running)
    block = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", running.port), timeout=DEADLINE_S) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent < 256 * MIB:
                connection.sendall(block)
                sent += 0x10000
        code, _, _ = read_response(connection)
    assert code in (0, 413)
    assert sent < 64 * MIB
    assert resident(running) < before + 64 * MIB


def resident(running: Running) -> int:
    """Bytes of memory that the process has."""
    lines = (Path("/proc") / str(running.pid) / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


@pytest.mark.slow
def test_senders_who_never_finish_are_cut_off_while_others_are_served(running: Running) -> None:
    """Row 35: ten seconds, so this takes as long."""
    starts = [b"P", HEAD, HEAD + b"Content-Length: 9\r\n\r\n", HEAD + b"Content-Length: 9\r\n\r\n{"]
    with contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=DEADLINE_S))
            for _ in range(200)
        ]
        for number, connection in enumerate(connections):
            connection.sendall(starts[number % 4])
        assert running.health() is not None
        began = time.monotonic()
        assert {read_response(connection)[0] for connection in connections} == {0, 408}
        print(f"200 senders were cut off after {time.monotonic() - began:.1f} s")


def test_a_load_in_mid_stream_waits_and_frees_nothing_that_lives(running: Running, tiny_model: Path) -> None:
    """Row 47: without a model it is a sign of life at once; another method says so."""
    with Request(running.port, endless("x") | {"stream": True}) as request:
        request.started().next_record()
        assert post(running.port, "/load", "{}") == (200, b'{"Success":true}\n')
        assert answer_of(running.port, "GET", "/v1/models")[0] == 200
        assert all(request.next_record()["content"] is not None for _ in range(20))
    assert post(running.port, "/load", json.dumps({"model": str(tiny_model)}))[0] == 200


def test_a_client_that_reads_nothing_costs_the_others_nothing(running: Running) -> None:
    """Row 45: it rests; who leaves it at that is forgotten when it goes."""
    body = ask("sleepy", 400, logit_bias=PLAIN_TEXT) | {"logprobs": True, "top_logprobs": 20}
    data = json.dumps(body).encode()
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(("127.0.0.1", running.port))
        reader.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        for number in range(5):
            with Request(running.port, ask(f"beside {number}", 5)) as request:
                request.answer()
    wait_until(lambda: not any(slot["busy"] for slot in health(running)["slots"]), 20, "a free slot")


def health(running: Running) -> dict[str, Any]:
    answer = running.health()
    assert answer is not None
    return answer[1]
