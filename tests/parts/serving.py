"""The whole runner inside the test's process: a real worker, a real server, a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from api.process.address import bind
from api.server import Server, create_app
from api.stream import OpenStreams
from runner.disk.folder import Folder
from runner.worker import REST_AFTER_S, Worker
from tests.parts.streams import DEADLINE_S, Answer, Request

SENTENCE = "the answer that is always the same"
deaths: list[str] = []


class Serving:
    """A served worker and the shortest ways to talk to it."""

    def __init__(self, worker: Worker, streams: OpenStreams, port: int) -> None:
        self.worker = worker
        self.streams = streams
        self.port = port
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S)

    def request(self, body: dict[str, Any] | bytes, path: str = "/completion") -> Request:
        return Request(self.port, body, path)

    def answer(self, body: dict[str, Any]) -> Answer:
        with self.request(body) as request:
            return request.answer()

    def raw(self, data: bytes, *, shut: bool = False) -> socket.socket:
        """A connection on which these bytes were sent as they are."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)
        connection.sendall(data)
        if shut:
            connection.shutdown(socket.SHUT_WR)
        return connection


@contextlib.contextmanager
def serving(
    model: Path | None,
    *,
    limit: int = 512,
    parallel: int = 1,
    context_length: int | None = None,
    cache_folder: Folder | None = None,
    rest_after_s: float = REST_AFTER_S,
    send_buffer: int | None = None,
    **app_options: Any,
) -> Iterator[Serving]:
    """Serve a model on a free port; without one, a runner that has none loaded yet.

    send_buffer: bytes that the system keeps for a client that does not read; its own default is megabytes.
    """
    worker = Worker(
        limit,
        deaths.append,
        parallel=parallel,
        context_length=context_length,
        cache_folder=cache_folder,
        rest_after_s=rest_after_s,
    )
    worker.start()
    bound = bind("127.0.0.1", 0)
    if send_buffer is not None:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    app = create_app(worker, **app_options)
    server = Server(app)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[bound])), name="server")
    thread.start()
    try:
        if model is not None:
            worker.load(str(model)).result(DEADLINE_S)
        served = Serving(worker, app.state.streams, bound.getsockname()[1])
        with served.http:
            yield served
        assert not deaths
    finally:
        worker.stop()
        server.should_exit = True
        thread.join(DEADLINE_S)
        assert worker.join(DEADLINE_S)
