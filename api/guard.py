"""What stands before every route: who may talk to us, and one line in the log about it.

The runner listens on the loopback address unless somebody said otherwise, and asks for a token if it was given one
(`access.py`). A web page in the user's browser reaches the loopback address, too, so a request that a page made (it
has an Origin), or that was sent to another name than this machine's own (a rebound DNS name), is refused.

Knows nothing about routes or models.
"""

from __future__ import annotations

import asyncio
import logging
import time

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.access import OPEN_PATH, Access
from api.wire.answers import plain_error
from runner.errors import RunnerError

log = logging.getLogger(__name__)

MAX_HEADER_BYTES = 64 * 1024
MAX_BODY_BYTES = 16 * 1024 * 1024
BODY_IDLE_S = 10.0  # for a body that was announced, and then without a byte of it
SLOWEST = 16 * 1024  # bytes of it in each further second
CLOSE = {"connection": "close"}  # the body was not read to its end
UNKNOWN = {"www-authenticate": "Bearer"}
QUIET_PATHS = frozenset({"/health", "/v1/status", "/metrics"})  # somebody asks every few seconds


class TooLarge(RunnerError):
    status = 413

    def __init__(self) -> None:
        super().__init__(f"request body exceeds {MAX_BODY_BYTES} bytes")


class TooSlow(RunnerError):
    status = 408

    def __init__(self, size: int) -> None:
        super().__init__(f"the request body came too slowly: {size} bytes, then none in time")


class Guard:
    """ASGI middleware. A request that gets through without the token has `is_stranger` in its state."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        refusal = self._refusal(scope)
        try:
            if refusal:
                headers = CLOSE | UNKNOWN if refusal[1] == 401 else CLOSE
                await plain_error(*refusal, headers)(scope, receive, noting_status)
            else:
                await self._app(scope, receive, noting_status)
        finally:
            _access_line(scope, status, time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> tuple[str, int] | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
            return f"request headers exceed {MAX_HEADER_BYTES} bytes", 431
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1:
            return "exactly one Host header is needed", 400
        if not self._access.admits_name(hosts[0]):
            return "this runner does not answer to that name: use its address, or a token", 403
        if any(name == b"origin" for name, _ in headers):
            return "requests from web pages are refused", 403
        if not self._access.is_known(headers):
            if scope["path"] != OPEN_PATH:
                return (
                    "this runner needs its token: Authorization: Bearer, and what MLX_RUNNER_TOKEN says",
                    401,
                )
            scope.setdefault("state", {})["is_stranger"] = True
        names = {name for name, _ in headers}
        if {b"content-length", b"transfer-encoding"} <= names:
            return "Content-Length and Transfer-Encoding exclude one another", 400
        encodings = [value for name, value in headers if name == b"content-encoding"]
        if any(value.lower() != b"identity" for value in encodings):
            return "compressed request bodies are not accepted", 415
        return None


async def read_body(request: Request) -> bytes:
    """The whole body. Raises TooLarge as soon as it passes the limit, or says that it will, and TooSlow."""
    if int(request.headers.get("content-length", 0)) > MAX_BODY_BYTES:
        raise TooLarge
    body = bytearray()
    parts = request.stream()
    now = asyncio.get_running_loop().time
    began = now()
    try:
        while True:
            due = min(now(), began + len(body) / SLOWEST) + BODY_IDLE_S
            async with asyncio.timeout_at(due):
                body += await anext(parts)
            if len(body) > MAX_BODY_BYTES:
                raise TooLarge
    except StopAsyncIteration:
        return bytes(body)
    except TimeoutError:
        raise TooSlow(len(body)) from None


def _access_line(scope: Scope, status: int, seconds: float) -> None:
    if 300 <= status < 400:
        return
    level = logging.ERROR if status >= 500 else logging.WARNING if status >= 400 else logging.INFO
    if status == 503 or (status < 400 and scope["path"] in QUIET_PATHS):
        level = logging.DEBUG  # not ready yet, or a ping: usual, and many of them
    values = {"method": scope["method"], "path": scope["path"], "took": f"{seconds:.6f}s", "status": status}
    log.log(level, "ServeHTTP", extra=values)
