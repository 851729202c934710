"""The ASGI application and the server around it.

Knows nothing about the command line or how the process ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api.guard import LOOPBACK, Guard
from api.routes import router
from api.stream import STALL_S, OpenStreams, plain_error
from runner.errors import RunnerError
from runner.worker import Worker

GRACE_S = 1  # how long open answers may take to send their last record when the process stops
KEEP_ALIVE_S = 120  # longer than a Go client keeps an idle connection, so that it never meets one that closes


def create_app(worker: Worker, host: str = "127.0.0.1", stall_s: float = STALL_S) -> FastAPI:
    """The application around a started worker."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.worker = worker
    app.state.streams = OpenStreams()
    app.state.stall_s = stall_s
    app.include_router(router)
    app.add_exception_handler(RunnerError, _runner_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _nobody_there)
    app.add_middleware(Guard, any_host=host not in LOOPBACK)
    return app


class Server(uvicorn.Server):
    """uvicorn on a socket that is bound already; signals belong to the process, not to it."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=GRACE_S,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _runner_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RunnerError)
    return plain_error(str(error), error.status, {"connection": "close"} if error.status == 413 else None)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers) if error.headers else None
    text = {404: "404 page not found", 405: "Method Not Allowed"}.get(error.status_code, error.detail)
    return plain_error(text, error.status_code, headers)


async def _nobody_there(request: Request, error: Exception) -> Response:
    return Response(status_code=499)
