"""The ASGI application and the server around it.

Knows nothing about the command line or how the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import h11
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.access import Access
from api.guard import CLOSE, Guard, TooLarge, TooSlow
from api.process.address import BACKLOG
from api.routes import router
from api.stream import STALL_S, OpenStreams
from api.wire.answers import plain_error
from runner.errors import RunnerError
from runner.worker import Worker

GRACE_S = 1  # how long open answers may take to send their last record when the process stops
HEADERS_S = 10.0
ACCEPTED_AT_ONCE = 16  # asyncio logs each failure where files have run out, and schedules a retry for each
KEEP_ALIVE_S = 120  # longer than a Go client keeps an idle connection, so that it never meets one that closes


def create_app(worker: Worker, access: Access | None = None, stall_s: float = STALL_S) -> FastAPI:
    """The application around a started worker. access: None for the loopback address without a token."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.worker = worker
    app.state.streams = OpenStreams()
    app.state.stall_s = stall_s
    app.state.tokenizing = asyncio.Lock()
    app.include_router(router)
    app.add_exception_handler(RunnerError, _runner_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _nobody_there)
    app.add_middleware(Guard, access=access or Access())
    return app


class Protocol(H11Protocol):
    """uvicorn's connection, with an end to two things that it lets last for ever, and to bad bytes.

    A request's headers must be complete HEADERS_S after their first byte, and a connection on which nothing was
    sent yet is kept as long as an idle one. Each request finds this `connection` in its state (api/response.py).
    """

    _headers_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self.app_state = self.app_state | {"connection": self}
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        incomplete = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if self._headers_due is not None and not incomplete:
            self._headers_due.cancel()
            self._headers_due = None
        elif self._headers_due is None and incomplete:
            self._headers_due = self.loop.call_later(HEADERS_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._headers_due is not None:
            self._headers_due.cancel()

    def send_400_response(self, msg: str) -> None:
        """Bytes came that are no HTTP. uvicorn answers, with a body, even where another answer was begun already or
        none may have a body, and lets a request that is under way answer once more; each is an exception of h11.
        """
        state = self.conn.our_state
        if state is h11.IDLE or (state is h11.SEND_RESPONSE and self.scope["method"] != "HEAD"):
            super().send_400_response(msg)
        else:
            self.transport.abort()
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def abort(self) -> None:
        self.transport.abort()

    def is_writable(self) -> bool:
        return not (self.flow.write_paused or self.transport.is_closing())

    def write(self, body: bytes) -> None:
        # Framed as h11 does it, whose state this leaves as it is; h11 itself costs as much as the write.
        is_chunked = self.conn.their_http_version == b"1.1"
        self.transport.write(b"%x\r\n%b\r\n" % (len(body), body) if is_chunked else body)


class Server(uvicorn.Server):
    """uvicorn on a socket that is bound already; signals belong to the process, not to it."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=GRACE_S,
                backlog=ACCEPTED_AT_ONCE,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for bound in sockets or []:
            bound.listen(BACKLOG)  # asyncio has made it ACCEPTED_AT_ONCE

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _runner_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RunnerError)
    return plain_error(str(error), error.status, CLOSE if isinstance(error, TooLarge | TooSlow) else None)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers) if error.headers else None
    text = {404: "404 page not found", 405: "Method Not Allowed"}.get(error.status_code, error.detail)
    return plain_error(text, error.status_code, headers)


async def _nobody_there(request: Request, error: Exception) -> Response:
    return Response(status_code=499)
