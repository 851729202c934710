"""What a client may send and what it gets back, over a real socket; a probe follows everything that is odd."""

from __future__ import annotations

import contextlib
import socket
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.guard import BODY_IDLE_S, MAX_BODY_BYTES
from api.server import HEADERS_S
from tests.parts.serving import Serving, serving
from tests.parts.streams import NEVER_END, PLAIN_TEXT, Answer, ask, plain, read_stream, strict_json

SENTENCE = "the answer that is always the same"


@pytest.fixture(scope="module")
def served(tiny_model: Path) -> Iterator[Serving]:
    with serving(tiny_model) as made:
        made.answer(ask(SENTENCE))  # and with it the first-use costs
        yield made


@pytest.fixture
def probed(served: Serving) -> Iterator[Serving]:
    """The shared runner, which must answer the same after the test as before it."""
    before = served.answer(ask(SENTENCE)).text
    yield served
    assert served.answer(ask(SENTENCE)).text == before
    assert served.http.get("/health").status_code == 200


def exchange(served: Serving, head: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """Send a request as it is spelled here; status, headers in lower case, and body of the answer."""
    with served.raw(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body) as connection:
        return read_response(connection)


def read_response(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One response with Content-Length, or until the end of the connection."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while block := connection.recv(65536):
            data += block
            head, separator, body = data.partition(b"\r\n\r\n")
            headers = _headers(head)
            if separator and len(body) >= int(headers.get("content-length", 1 << 60)):
                break
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]) if head else 0, _headers(head), body


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


# Records.


@pytest.mark.parametrize("path", ["/completion", "/v1/completions"])
def test_a_completion_is_a_stream_of_records_under_both_names(probed: Serving, path: str) -> None:
    with probed.request(ask("hello", 12, logit_bias=PLAIN_TEXT), path) as request:
        answer = request.answer()
    assert len(answer.text) == 12
    assert answer.terminal["EvalCount"] == 12
    assert answer.terminal["DoneReason"] == 1
    assert answer.terminal["PromptEvalCount"] == 6  # BOS and five letters
    assert "prompt_eval_count" not in answer.records[0]


def test_records_arrive_one_by_one_and_not_at_the_end(probed: Serving) -> None:
    with probed.request(ask("hello", 400, logit_bias=PLAIN_TEXT)) as request:
        first = request.started().next_record()
        assert not first["done"]
        assert probed.http.get("/health").status_code == 200


def test_small_answers_on_a_kept_connection_are_not_held_back(probed: Serving) -> None:
    # Where the system waits to fill a packet, each takes the 40 ms until the other side acknowledges the last one.
    took = []
    for _ in range(20):
        asked = time.perf_counter()
        probed.http.get("/health")
        took.append(time.perf_counter() - asked)
    assert sorted(took)[5] < 0.02


def test_lines_with_twenty_alternatives_for_every_token_stay_short(probed: Serving) -> None:
    body = ask("hello", 100) | {"Logprobs": True, "TopLogprobs": 20}
    answer = probed.answer(body)
    entries = [entry for record in answer.records for entry in record.get("Logprobs", [])]
    assert len(entries) == answer.terminal["EvalCount"] == 100
    assert all(len(entry["top_logprobs"]) == 20 for entry in entries)
    assert all(-9999.0 <= entry["logprob"] <= 0.0 for entry in entries)


def test_a_long_text_held_back_for_a_stop_string_comes_in_short_lines(probed: Serving) -> None:
    # The first characters of the stop string match nothing, so the matcher must let go of what it held.
    stop = "~" * 1024
    answer = probed.answer(ask("x", 300, logit_bias=PLAIN_TEXT, stop=[stop]))
    assert len(answer.text) == 300


def test_counters_on_every_record_when_they_are_asked_for(probed: Serving) -> None:
    body = ask("hello", 5, logit_bias=PLAIN_TEXT) | {"IncludeIntermediateMetrics": True}
    counts = [record["EvalCount"] for record in probed.answer(body).records]
    assert counts == [1, 2, 3, 4, 5, 5]


def test_old_and_new_hosts_bodies_ask_for_the_same(probed: Serving) -> None:
    old = {"prompt": SENTENCE, "options": {"num_predict": 8, "logit_bias": NEVER_END}}
    new = {
        "Prompt": SENTENCE,
        "Media": None,
        "Format": None,
        "Options": {"num_predict": 8, "seed": -1, "num_keep": 4, "num_batch": 512, "logit_bias": NEVER_END},
        "Logprobs": False,
        "TopLogprobs": 0,
        "IncludeIntermediateMetrics": False,
    }
    assert probed.answer(old).text == probed.answer(new).text


def test_an_answer_in_one_piece_says_what_the_stream_says(probed: Serving) -> None:
    body = ask("hello", 9, logit_bias=PLAIN_TEXT) | {"logprobs": True}
    streamed = probed.answer(body)
    whole = probed.http.post("/completion", json=body | {"stream": False})
    assert whole.headers["content-type"] == "application/json"
    record = strict_json(whole.content)
    assert record["done"] is True
    assert record["content"] == streamed.text
    assert record["EvalCount"] == 9
    assert len(record["Logprobs"]) == 9


def test_an_answer_in_one_piece_may_be_an_error(probed: Serving) -> None:
    refused = probed.http.post("/completion", json={"prompt": "", "stream": False})
    assert (refused.status_code, refused.text) == (400, "empty prompt\n")


def test_answers_do_not_depend_on_who_else_asks(probed: Serving) -> None:
    prompts = [f"request number {i}, " * (i % 4 + 1) for i in range(12)]
    alone = [probed.answer(ask(prompt, 20)).text for prompt in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        together: list[Answer] = list(pool.map(lambda prompt: probed.answer(ask(prompt, 20)), prompts))
    assert [answer.text for answer in together] == alone


def test_connections_are_kept_for_the_next_request(probed: Serving) -> None:
    client = httpx.Client(base_url=probed.http.base_url)
    with client:
        for _ in range(3):
            answer = client.post("/completion", json=ask("hello"))
            read_stream(answer.content)
            assert "connection" not in answer.headers


# Refusals before the first record.


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"prompt": "x", "format": "json"}, 501, "structured output is unavailable"),
        (
            {"Prompt": "", "Format": {"type": "structural_tag"}, "Media": [{"id": 0}]},
            501,
            "structured output is",
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


def test_the_longest_prompt_that_fits_gets_one_token(probed: Serving) -> None:
    answer = probed.answer(ask("x" * 510, 50))
    assert answer.terminal["EvalCount"] == 1
    assert answer.terminal["DoneReason"] == 1


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


@pytest.mark.parametrize(
    "path", ["/", "/completions", "/completion/", "/health/", "/docs", "/openapi.json", "//"]
)
def test_unknown_paths_are_not_found_and_never_redirect(probed: Serving, path: str) -> None:
    answer = probed.http.get(path)
    assert answer.status_code == 404
    assert plain(answer.headers["content-type"], answer.content) == "404 page not found"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/completion"),
        ("HEAD", "/completion"),
        ("POST", "/health"),
        ("DELETE", "/v1/status"),
        ("GET", "/v1/tokenize"),
        ("PUT", "/v1/detokenize"),
        ("BREW", "/load"),
    ],
)
def test_wrong_methods_are_refused_as_text(probed: Serving, method: str, path: str) -> None:
    answer = probed.http.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"]
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("path", ["/health", "/v1/status", "/load", "/v1/models"])
def test_head_answers_like_get_without_a_body(probed: Serving, path: str) -> None:
    got, head = probed.http.get(path), probed.http.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"") == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]


# Who may ask, and how it may be spelled.


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /health HTTP/1.1\nHost: 127.0.0.1:1", 200),
        ("GET /health HTTP/1.1\nHost: LocalHost", 200),
        ("GET /health HTTP/1.1\nHost: [::1]:80", 200),
        ("GET /health HTTP/1.1\nHost: evil.example", 403),
        ("GET /health HTTP/1.1\nHost: 127.0.0.1.evil.example", 403),
        ("GET /health HTTP/1.1\nHost: 127.0.0.1:80@evil.example", 403),
        ("GET /health HTTP/1.1\nHost: [::1].evil.example", 403),
        ("GET /health HTTP/1.1\nHost:", 403),
        ("GET /health HTTP/1.1\nHost: localhost\nHost: localhost", 400),
        ("GET /health HTTP/1.1", 400),
        ("GET /health HTTP/1.0", 400),
        ("GET /health HTTP/1.1\nHost: localhost\nOrigin: http://localhost", 403),
        ("GET /health HTTP/1.1\nHost: localhost\nOrigin: null", 403),
        ("GET /hea\0lth HTTP/1.1\nHost: localhost", 400),
        ("GET /health\nHost: localhost", 400),
        ("\x16\x03\x01 TLS", 400),
        ("POST /load HTTP/1.1\nHost: localhost\nContent-Encoding: gzip\nContent-Length: 2", 415),
        ("POST /load HTTP/1.1\nHost: localhost\nContent-Length: -1", 400),
        ("POST /load HTTP/1.1\nHost: localhost\nContent-Length: 2\nContent-Length: 3", 400),
        ("POST /load HTTP/1.1\nHost: localhost\nContent-Length: " + "9" * 5000, 400),
        ("POST /load HTTP/1.1\nHost: localhost\nContent-Length: 2\nTransfer-Encoding: chunked", 400),
        ("POST /load HTTP/1.1\nHost: localhost\nContent-Length: 1000000000000", 413),
    ],
)
def test_who_asks_and_how_decides_before_any_route(probed: Serving, head: str, status: int) -> None:
    code, headers, body = exchange(probed, head)
    assert code == status
    if status != 200:
        assert headers["content-type"] == "text/plain; charset=utf-8"
        assert headers["connection"] == "close"
        assert len(body) < 200


def test_headers_past_any_sense_are_refused_however_they_arrive(probed: Serving) -> None:
    for line in ("X: " + "x" * 100_000, "\n".join(f"X{i}: y" for i in range(20_000))):
        assert exchange(probed, f"GET /health HTTP/1.1\nHost: localhost\n{line}")[0] in (0, 400, 431)


def test_a_bad_chunk_is_a_bad_request_or_the_end(probed: Serving) -> None:
    head = "POST /load HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked"
    assert exchange(probed, head, b"zz\r\n{}\r\n0\r\n\r\n")[0] in (0, 400)


def test_a_chunked_body_is_read_like_any_other(probed: Serving) -> None:
    head = "POST /load HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked"
    assert exchange(probed, head, b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n")[0] == 200


@pytest.mark.parametrize("kept", range(0, 80, 7))
def test_a_request_cut_anywhere_harms_nobody(probed: Serving, kept: int) -> None:
    whole = (
        b'POST /load HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30\r\n\r\n{"model":"/nowhere/at/all"}   '
    )
    with probed.raw(whole[:kept], shut=True) as connection:
        assert read_response(connection)[0] in (0, 400)


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
    assert "input length (1000001 tokens) exceeds" in text


@pytest.mark.slow
def test_senders_who_never_finish_are_cut_off(probed: Serving) -> None:
    head = b"POST /load HTTP/1.1\r\nHost: localhost\r\n"
    starts = [b"P", head, head + b"Content-Length: 9\r\n\r\n", head + b"Content-Length: 9\r\n\r\n{"]
    started = time.monotonic()
    connections = [probed.raw(start) for start in starts * 25]
    assert probed.http.get("/health").status_code == 200
    statuses = set()
    for connection in connections:
        with connection:
            statuses.add(read_response(connection)[0])
    assert statuses == {0, 408}
    took = time.monotonic() - started
    assert min(HEADERS_S, BODY_IDLE_S) <= took < HEADERS_S + 5


def test_a_header_that_arrives_byte_by_byte_is_served(probed: Serving) -> None:
    with probed.raw(b"G") as connection:
        for byte in b"ET /health HTTP/1.1\r\nHost: localhost\r\n\r\n":
            connection.sendall(bytes([byte]))
        assert read_response(connection)[0] == 200


# Tokens without a generation.


def test_tokenizing_answers_ids_and_detokenizing_brings_the_text_back(probed: Serving) -> None:
    text = "round trip: é 日本 👨‍👩‍👧\n\x00"
    ids = probed.http.post("/v1/tokenize", content=text.encode()).json()
    assert ids[0] == 257  # BOS, as this tokenizer's config asks
    back = probed.http.post("/v1/detokenize", json=ids[1:])
    assert back.headers["content-type"].startswith("text/plain")
    assert back.content.decode() == text


def test_tokenizing_nothing_answers_an_empty_list(probed: Serving) -> None:
    assert probed.http.post("/v1/tokenize", content=b"").json() == []
    assert probed.http.post("/v1/detokenize", content=b"[]").content == b""


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/tokenize", b"\xff\xfe"),
        ("/v1/detokenize", b"[1.5]"),
        ("/v1/detokenize", b"[true]"),
        ("/v1/detokenize", b"[-1]"),
        ("/v1/detokenize", b"[100000]"),
        ("/v1/detokenize", b"{}"),
        ("/v1/detokenize", b"[" * 100_000),
    ],
)
def test_what_is_no_text_or_no_ids_is_refused(probed: Serving, path: str, body: bytes) -> None:
    answer = probed.http.post(path, content=body)
    assert answer.status_code == 400
    plain(answer.headers["content-type"], answer.content)


def test_tokenizing_does_not_wait_for_a_generation(slow_model: Path) -> None:
    with serving(slow_model) as served, served.request(ask("x", 4000)) as running:
        running.started().next_record()
        assert len(served.http.post("/v1/tokenize", content=b"hello").json()) == 6
        assert not running.next_record()["done"]


# Loading.


def test_load_without_a_model_is_a_sign_of_life(probed: Serving) -> None:
    for path in ("/load", "/v1/models"):
        for body in (b"", b"{}", b'{"model":""}', b'{"model":null}'):
            assert probed.http.post(path, content=body).json() == {"Success": True}
        assert probed.http.get(path).json() == {"Success": True}
        assert probed.http.put(path).content == b""


def test_load_refuses_what_is_not_an_object_with_a_name(probed: Serving) -> None:
    for body in (b"[]", b"null", b"{", b'{"model":7}', b"\xff"):
        answer = probed.http.post("/load", content=body)
        got = answer.status_code, plain(answer.headers["content-type"], answer.content)
        assert got == (400, "Bad Request"), body


def test_a_load_replaces_the_model_and_its_cache(tiny_model: Path, other_model: Path) -> None:
    with serving(tiny_model) as served:
        first = served.answer(ask(SENTENCE))
        assert served.answer(ask(SENTENCE)).cached > 0
        assert served.http.post("/load", json={"model": str(other_model)}).json() == {"Success": True}
        status = served.http.get("/health").json()
        assert (status["model"], status["ContextLength"], status["progress"]) == ("other", 400, 100)
        second = served.answer(ask(SENTENCE))
        assert second.cached == 0
        assert second.text != first.text
        served.http.post("/load", json={"model": str(tiny_model)})
        assert served.answer(ask(SENTENCE)).text == first.text


def test_a_load_that_fails_leaves_everything_as_it_was(tiny_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (broken / name).write_bytes((tiny_model / name).read_bytes())
    (broken / "model.safetensors").write_bytes((tiny_model / "model.safetensors").read_bytes()[:-100])
    with serving(tiny_model) as served:
        text = served.answer(ask(SENTENCE)).text
        before = served.http.get("/health").json()
        missing = served.http.post("/load", json={"model": "/nowhere/at/all"})
        assert missing.status_code == 404
        assert "not found" in plain(missing.headers["content-type"], missing.content)
        refused = served.http.post("/load", json={"model": str(broken)})
        assert refused.status_code == 500
        message = plain(refused.headers["content-type"], refused.content)
        assert "model.safetensors" in message
        assert str(tmp_path) not in message
        after = served.http.get("/health").json()
        assert after | {"Memory": 0} == before | {"Memory": 0}
        again = served.answer(ask(SENTENCE))
        assert again.text == text
        assert again.cached > 0


def test_a_load_waits_for_the_generation_before_it(slow_model: Path, tiny_model: Path) -> None:
    with serving(slow_model) as served, ThreadPoolExecutor(1) as pool:
        with served.request(ask("x", 150, logit_bias=PLAIN_TEXT)) as running:
            running.started().next_record()
            load = pool.submit(served.http.post, "/load", json={"model": str(tiny_model)})
            rest = read_stream(running.response.read())
            assert rest.terminal["EvalCount"] == 150
        assert load.result().json() == {"Success": True}
        assert served.http.get("/health").json()["model"] == "tiny"


def test_without_a_model_there_is_a_503_and_a_load_ends_that(tiny_model: Path) -> None:
    with serving(tiny_model) as served:
        text = served.answer(ask(SENTENCE)).text
        unloaded = served.http.delete("/load")
        assert (unloaded.status_code, unloaded.content) == (200, b"")
        status = served.http.get("/health")
        assert status.status_code == 503
        assert status.json()["progress"] == 0
        with served.request(ask(SENTENCE)) as request:
            assert request.refusal() == (503, "model not loaded")
        for path in ("/v1/tokenize", "/v1/detokenize"):
            assert served.http.post(path, content=b"[1]").status_code == 503
        malformed = served.http.post("/completion", content=b"{")
        assert malformed.status_code == 400
        assert served.http.delete("/v1/models").status_code == 200
        assert served.http.post("/load", json={"model": str(tiny_model)}).json() == {"Success": True}
        assert served.answer(ask(SENTENCE)).text == text


def test_a_request_before_the_first_load_is_refused(tiny_model: Path) -> None:
    with serving(None) as served:
        assert served.http.get("/health").status_code == 503
        with served.request(ask(SENTENCE)) as request:
            assert request.refusal() == (503, "model not loaded")
        assert served.http.post("/load", json={"model": str(tiny_model)}).status_code == 200
        served.answer(ask(SENTENCE))


# Under load.


def test_pings_are_answered_while_a_hundred_idle_connections_are_open(probed: Serving) -> None:
    idle = [probed.raw(b"") for _ in range(100)]
    try:
        assert probed.http.get("/health").status_code == 200
    finally:
        for connection in idle:
            connection.close()
