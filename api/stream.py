"""The one bridge between the MLX thread and the event loop.

    worker thread                     |  event loop
    emit(event) ---- call_soon -----> |  queue -> next() -> lines -> socket
    cancelled? <---- job.cancel() --- |  close(), when the client is gone or the answer is complete

Rules:

- `emit` waits when BUFFERED events are unread, so a slow reader slows its own request down and memory stays
  bounded. After STALL_S the reader counts as gone: the next request must not wait for ever.
- The answer's status is decided by the first event: Started is 200, Failed is its own status with a plain line.
- From the first moment somebody watches `receive()`: a client may leave while it is queued, during a silent
  prefill, or in mid-stream, and each time the job is cancelled at once.
- Events that are there already go out in one write.

Knows nothing about what the events say, beyond which one is first and which is last.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.wire.answers import JsonLine, plain_error
from api.wire.records import Records
from runner.errors import RunnerError
from runner.types import Chunk, Done, Event, Failed, Started, TokenLogprob
from runner.worker import GenerateJob

log = logging.getLogger(__name__)

BUFFERED = 256
STALL_S = 30.0
JSONL = "application/jsonl"


class EventStream:
    """One request's events on their way out. Made on the loop; only `emit` is called from another thread."""

    def __init__(self, stall_s: float = STALL_S) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._room = threading.Semaphore(BUFFERED)
        self._stall_s = stall_s
        self._closed = False
        self.job: GenerateJob | None = None
        self.abort: Callable[[], object] = self.close  # drops the connection

    def emit(self, event: Event) -> None:
        """Hand an event over; waits while too many are unread. Does nothing once the stream is closed."""
        if self._closed:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to be told
            if self._room.acquire(timeout=self._stall_s):
                self._loop.call_soon_threadsafe(self._queue.put_nowait, event)
            else:
                self._loop.call_soon_threadsafe(self._cut_off)

    async def next(self) -> Event | None:
        """The next event; None once the stream is closed."""
        event = await self._queue.get()
        self._room.release()
        return event

    def next_now(self) -> Event | None:
        """An event that is there already, or None."""
        return None if self._queue.empty() else self._taken()

    def close(self) -> None:
        """Nobody wants more: cancel the job, wake whoever waits on either side."""
        self._closed = True
        if self.job is not None:
            self.job.cancel()
        self._room.release()
        self._queue.put_nowait(None)

    def fail(self, failed: Failed) -> None:
        """End the answer with this, whatever the worker is doing."""
        if not self._closed:
            self._closed = True
            self._room.release()
            self._queue.put_nowait(failed)

    def _cut_off(self) -> None:
        if not self._closed:
            log.warning("Client reads too slowly, cut off")
            self.close()
            self.abort()

    def _taken(self) -> Event | None:
        event = self._queue.get_nowait()
        self._room.release()
        return event


class OpenStreams:
    """The answers under way, so that a process that ends can say so to each of them."""

    def __init__(self) -> None:
        self._open: set[EventStream] = set()

    def add(self, stream: EventStream) -> None:
        self._open.add(stream)

    def discard(self, stream: EventStream) -> None:
        self._open.discard(stream)

    def farewell(self, error: RunnerError) -> None:
        for stream in list(self._open):
            stream.fail(Failed(str(error), error.status))


class CompletionResponse(Response):
    """Streams a job's events as NDJSON, or, with `whole`, answers them as one JSON object."""

    def __init__(self, stream: EventStream, streams: OpenStreams, records: Records, whole: bool) -> None:
        super().__init__()
        self._stream = stream
        self._streams = streams
        self._records = records
        self._whole = whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A tidy close would wait for a client that does not read.
        self._stream.abort = scope.get("state", {}).get("abort", self._stream.close)
        self._streams.add(self._stream)
        watcher = asyncio.create_task(self._close_on_disconnect(receive))
        try:
            await self._answer(scope, receive, send)
        finally:
            watcher.cancel()
            self._streams.discard(self._stream)
            self._stream.close()

    async def _close_on_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._stream.close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        match await self._stream.next():
            case None:
                return
            case Failed() as failed:
                await plain_error(failed.message, failed.status)(scope, receive, send)
            case Started() if self._whole:
                await (await self._collected())(scope, receive, send)
            case _:
                await self._send_lines(send)

    async def _send_lines(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", JSONL.encode())],
            }
        )
        event = await self._stream.next()
        while event is not None:
            lines: list[bytes] = []
            last = event
            while event is not None:
                last = event
                lines.extend(self._records.lines(event))
                event = None if _is_end(last) else self._stream.next_now()
            body = b"".join(lines)
            await send({"type": "http.response.body", "body": body, "more_body": not _is_end(last)})
            event = None if _is_end(last) else await self._stream.next()

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


def _is_end(event: Event) -> bool:
    return isinstance(event, Done | Failed)
