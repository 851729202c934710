"""Paths, methods, tokens without a generation, pings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parts.serving import Serving, serving
from tests.parts.streams import ask, plain


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


def test_pings_are_answered_while_a_hundred_idle_connections_are_open(probed: Serving) -> None:
    idle = [probed.raw(b"") for _ in range(100)]
    try:
        assert probed.http.get("/health").status_code == 200
    finally:
        for connection in idle:
            connection.close()
