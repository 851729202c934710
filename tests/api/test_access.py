"""Who may ask: names, and the token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.access import Access
from tests.parts.raw_http import exchange
from tests.parts.serving import Serving, serving

TOKEN = "correct-horse.battery/staple=="
ROUTES = [
    ("POST", "/completion"),
    ("POST", "/v1/completions"),
    ("POST", "/load"),
    ("DELETE", "/load"),
    ("GET", "/v1/models"),
    ("GET", "/v1/status"),
    ("GET", "/v1/cache"),
    ("DELETE", "/v1/cache"),
    ("GET", "/metrics"),
    ("POST", "/v1/tokenize"),
    ("POST", "/v1/detokenize"),
    ("GET", "/health/"),
    ("GET", "/nowhere"),
]


@pytest.fixture(scope="module")
def guarded(tiny_model: Path) -> Iterator[Serving]:
    with serving(tiny_model, access=Access("127.0.0.1", TOKEN.encode())) as made:
        yield made


def asked(guarded: Serving, *lines: str, method: str = "GET", path: str = "/v1/status") -> int:
    head = "\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *lines])
    return exchange(guarded, head)[0]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_the_token_there_is_nothing(guarded: Serving, method: str, path: str) -> None:
    code, headers, body = exchange(guarded, f"{method} {path} HTTP/1.1\nHost: localhost\nContent-Length: 2")
    assert code == 401
    assert headers["www-authenticate"] == "Bearer"
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert headers["connection"] == "close"
    assert body.count(b"\n") == 1
    assert TOKEN.encode() not in body


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_with_the_token_there_is_everything(guarded: Serving, scheme: str) -> None:
    assert asked(guarded, f"Authorization: {scheme} {TOKEN}") == 200
    shown = {"Authorization": f"{scheme} {TOKEN}"}
    answer = guarded.http.post("/completion", json={"prompt": "hello", "stream": False}, headers=shown)
    assert answer.status_code == 200
    assert guarded.http.get("/metrics", headers=shown).status_code == 200


@pytest.mark.parametrize(
    "shown",
    [
        TOKEN,
        f"Basic {TOKEN}",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {TOKEN} {TOKEN}",
        f"Bearer {TOKEN}\nAuthorization: Bearer {TOKEN}",
        "Bearer \xff",
    ],
)
def test_what_is_not_quite_the_token_is_none(guarded: Serving, shown: str) -> None:
    assert asked(guarded, f"Authorization: {shown}") == 401


def test_a_ping_without_the_token_learns_that_there_is_life_and_nothing_else(guarded: Serving) -> None:
    code, _, body = exchange(guarded, "GET /health HTTP/1.1\nHost: localhost")
    assert (code, json.loads(body)) == (200, {"status": 0, "progress": 100})
    known = guarded.http.get("/health", headers={"Authorization": f"Bearer {TOKEN}"})
    assert known.json()["model"] == "tiny"


def test_who_shows_the_token_may_use_any_name_but_no_page_may_ask(guarded: Serving) -> None:
    shown = f"Authorization: Bearer {TOKEN}"
    named = f"GET /v1/status HTTP/1.1\nHost: runner.example\n{shown}"
    assert exchange(guarded, named)[0] == 200
    assert exchange(guarded, f"{named}\nOrigin: http://runner.example")[0] == 403


def test_the_token_is_in_no_representation() -> None:
    assert TOKEN not in repr(Access("0.0.0.0", TOKEN.encode()))


@pytest.mark.parametrize(
    ("bound", "name", "admitted"),
    [
        ("127.0.0.1", "127.0.0.1:11435", True),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "[::1]:1", True),
        ("127.0.0.1", "192.168.1.5", False),
        ("127.0.0.1", "runner", False),
        ("localhost", "runner", False),
        ("0.0.0.0", "192.168.1.5:11435", True),
        ("0.0.0.0", "[fd00::5]:11435", True),
        ("0.0.0.0", "localhost", True),
        ("0.0.0.0", "runner:11435", True),
        ("0.0.0.0", "evil.example", False),
        ("0.0.0.0", "192.168.1.5.evil.example", False),
        ("0.0.0.0", "", False),
        ("runner.lan", "Runner.LAN:1", True),
        ("runner.lan", "other.lan", False),
    ],
)
def test_without_a_token_a_name_that_a_strangers_dns_could_make_is_refused(
    bound: str, name: str, admitted: bool
) -> None:
    assert Access(bound).admits_name(name.encode()) is admitted
