"""A completion's answer on its way out: lines as they come, or one JSON object.

What waits goes through ASGI: a connection that takes nothing more, the first line and the last. A line between them
costs more there, in coroutines that pass it on to one another, than to make it and to write it. So while nothing
has to wait, lines go straight to the connection, where the server offers that.

Knows nothing about where the events come from.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.stream import EventStream, OpenStreams, State, is_end
from api.wire.answers import JsonLine, plain_error
from api.wire.records import Records
from runner.types import Chunk, Done, Failed, Started, TokenLogprob

JSONL = "application/jsonl"


class Connection(Protocol):
    """What a server offers beside ASGI, as `connection` in the request's state."""

    def abort(self) -> None:
        """Drop it, whatever is unsent."""

    def is_writable(self) -> bool:
        """Whether it takes more without waiting."""

    def write(self, body: bytes) -> None:
        """Send a part of the body that was begun through ASGI."""


class CompletionResponse(Response):
    """Streams a job's events as NDJSON, or, with `whole`, answers them as one JSON object."""

    def __init__(self, stream: EventStream, streams: OpenStreams, records: Records, whole: bool) -> None:
        super().__init__()
        self._stream = stream
        self._streams = streams
        self._records = records
        self._whole = whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection: Connection | None = scope.get("state", {}).get("connection")
        if connection is not None:
            self._stream.abort = connection.abort  # a tidy close would wait for a client that does not read
        self._streams.add(self._stream)
        watcher = asyncio.create_task(self._close_on_disconnect(receive))
        try:
            await self._answer(scope, receive, send, connection)
        finally:
            watcher.cancel()
            self._streams.discard(self._stream)
            self._stream.close()

    async def _close_on_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._stream.close()

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, connection: Connection | None
    ) -> None:
        match await self._stream.next():
            case State.CLOSED:
                return
            case Failed() as failed:
                await plain_error(failed.message, failed.status)(scope, receive, send)
            case Started() if self._whole:
                await (await self._collected())(scope, receive, send)
            case _:
                await self._send_lines(send, connection)

    async def _send_lines(self, send: Send, connection: Connection | None) -> None:
        """Every event as its lines, until the end was sent or nobody reads."""
        headers = [(b"content-type", JSONL.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if connection is not None:
            self._stream.forward = lambda: self._forward(connection)
        ended = False
        while not ended:
            first = await self._stream.next()
            if first is State.CLOSED:
                return
            events = [first, *self._stream.waiting()]
            ended = is_end(events[-1])
            body = self._records.encoded(events)
            await send({"type": "http.response.body", "body": body, "more_body": not ended})

    def _forward(self, connection: Connection) -> bool:
        """Write what is there, if that needs no waiting."""
        if not connection.is_writable():
            return False
        if body := self._records.encoded(self._stream.unread):
            connection.write(body)
        self._stream.waiting()  # only now, so that an exception before this is also the reader's
        return True

    async def _collected(self) -> Response:
        text: list[str] = []
        logprobs: list[TokenLogprob] = []
        while True:
            match await self._stream.next():
                case Chunk() as chunk:
                    text.append(chunk.text)
                    logprobs.extend(chunk.logprobs)
                case Done() as done:
                    return JsonLine(self._records.whole("".join(text), logprobs, done))
                case Failed() as failed:
                    return plain_error(failed.message, failed.status)
                case _:
                    return Response()  # closed: nobody reads this
