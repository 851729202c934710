"""Who may ask, and how it may be spelled."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from starlette.requests import Request

from api.guard import BODY_IDLE_S, SLOWEST, TooSlow, read_body
from tests.parts import clock
from tests.parts.raw_http import exchange, read_response
from tests.parts.serving import Serving


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


@pytest.mark.parametrize("kept", range(0, 80, 7))
def test_a_request_cut_anywhere_harms_nobody(probed: Serving, kept: int) -> None:
    whole = (
        b'POST /load HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30\r\n\r\n{"model":"/nowhere/at/all"}   '
    )
    with probed.raw(whole[:kept], shut=True) as connection:
        assert read_response(connection)[0] in (0, 400)


def test_senders_who_never_finish_are_cut_off(probed: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a second here; the next tests tell how long a body really has."""
    for limit in ("api.server.HEADERS_S", "api.guard.BODY_IDLE_S"):
        monkeypatch.setattr(limit, 1.0)
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
    assert 1.0 <= took < 6.0


def dripping(size: int, every_s: float, step: int = 1) -> Request:
    """A request whose body comes in steps; `asyncio` measures the time between them."""
    left = [b"x" * step] * (size // step)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(every_s)
        return {"type": "http.request", "body": left.pop(), "more_body": bool(left)}

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


async def timed(request: Request) -> tuple[int | str, float]:
    """The size of the body, or why there is none, and the seconds it took."""
    try:
        return len(await read_body(request)), asyncio.get_running_loop().time()
    except TooSlow as error:
        return str(error), asyncio.get_running_loop().time()


def test_a_body_that_comes_byte_by_byte_has_ten_seconds() -> None:
    why, took = clock.run(timed(dripping(1000, every_s=3)))
    assert why == "the request body came too slowly: 3 bytes, then none in time"
    assert took == pytest.approx(BODY_IDLE_S, abs=0.1)
    assert clock.run(timed(dripping(3, every_s=3)))[0] == 3


def test_a_long_body_may_take_longer_while_it_goes_on() -> None:
    size = 16 * SLOWEST
    arrived, took = clock.run(timed(dripping(size, every_s=5, step=4 * SLOWEST)))
    assert arrived == size
    assert took == pytest.approx(20, abs=0.1)
    assert "too slowly" in str(clock.run(timed(dripping(size, every_s=11, step=8 * SLOWEST)))[0])


def test_a_header_that_arrives_byte_by_byte_is_served(probed: Serving) -> None:
    with probed.raw(b"G") as connection:
        for byte in b"ET /health HTTP/1.1\r\nHost: localhost\r\n\r\n":
            connection.sendall(bytes([byte]))
        assert read_response(connection)[0] == 200
