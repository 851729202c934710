"""The one bridge between the MLX thread and the event loop.

    MLX thread                        |  event loop
    emit(event) ---- call_soon -----> |  next(), waiting() -> lines -> socket
    has_room()? <--- job.resume() --- |  whenever a full stream was read
    cancelled?  <--- job.cancel() --- |  close(), when the client is gone or the answer is complete

A stream is in one of three states, and only the event loop changes it:

    OPEN    events arrive
    ENDING  the last event is there, the worker's or that of `fail`; whatever comes behind it is dropped
    CLOSED  nobody reads any more; `next` says so

Rules:

- `emit` never waits. A stream with BUFFERED unread events has no room, and its request rests until it is read.
  After STALL_S without room the reader counts as gone.
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
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Literal

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


class State(Enum):
    OPEN = auto()
    ENDING = auto()
    CLOSED = auto()


Closed = Literal[State.CLOSED]


class EventStream:
    """One request's events on their way out: an Outlet. Made on the loop; only `emit` and `has_room` are called
    from another thread.
    """

    def __init__(self, stall_s: float = STALL_S) -> None:
        self._loop = asyncio.get_running_loop()
        self._state = State.OPEN
        self._events: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._stall_s = stall_s
        self._stall: asyncio.TimerHandle | None = None
        # Each is written by one thread alone; their difference is what is on its way or unread.
        self._emitted = 0
        self._read = 0
        self.job: GenerateJob | None = None
        self.abort: Callable[[], object] = self.close  # drops the connection

    def emit(self, event: Event) -> None:
        """Hand an event over; does nothing once the stream is closed."""
        self._emitted += 1
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to be told
            self._loop.call_soon_threadsafe(self._arrive, event)

    def has_room(self) -> bool:
        return self._emitted - self._read < BUFFERED

    async def next(self) -> Event | Closed:
        """The next event, as soon as there is one."""
        while not self._events and self._state is not State.CLOSED:
            self._arrived.clear()
            await self._arrived.wait()
        return State.CLOSED if self._state is State.CLOSED else self._taken(1)[0]

    def waiting(self) -> list[Event]:
        """The events that are there already; none is no end."""
        return self._taken(len(self._events))

    def close(self) -> None:
        """Nobody wants more: cancel the job, wake whoever waits for an event."""
        self._state = State.CLOSED
        self._end_stall()
        self._arrived.set()
        if self.job is not None:
            self.job.cancel()

    def fail(self, failed: Failed) -> None:
        """End the answer with this, whatever the worker is doing."""
        if self._state is State.OPEN:
            self._put(failed)

    def _arrive(self, event: Event) -> None:
        if self._state is not State.OPEN:
            self._read += 1
            return
        self._put(event)
        if self._state is State.OPEN and self._stall is None and not self.has_room():
            self._stall = self._loop.call_later(self._stall_s, self._cut_off)

    def _put(self, event: Event) -> None:
        self._events.append(event)
        self._arrived.set()
        if _is_end(event):
            self._state = State.ENDING
            self._end_stall()

    def _taken(self, count: int) -> list[Event]:
        taken = [self._events.popleft() for _ in range(count)]
        was_full = not self.has_room()
        self._read += count
        if was_full and self.has_room():
            self._end_stall()
            if self.job is not None:
                self.job.resume()
        return taken

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _cut_off(self) -> None:
        log.warning("Client reads too slowly, cut off")
        self.close()
        self.abort()


class OpenStreams:
    """The answers under way, so that a process that ends can say so to each of them."""

    def __init__(self) -> None:
        self._open: set[EventStream] = set()

    def add(self, stream: EventStream) -> None:
        self._open.add(stream)

    def discard(self, stream: EventStream) -> None:
        self._open.discard(stream)

    def __len__(self) -> int:
        return len(self._open)

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
            case State.CLOSED:
                return
            case Failed() as failed:
                await plain_error(failed.message, failed.status)(scope, receive, send)
            case Started() if self._whole:
                await (await self._collected())(scope, receive, send)
            case _:
                await self._send_lines(send)

    async def _send_lines(self, send: Send) -> None:
        """Every event as its lines, until the end was sent or nobody reads."""
        headers = [(b"content-type", JSONL.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        ended = False
        while not ended:
            first = await self._stream.next()
            if first is State.CLOSED:
                return
            events = [first, *self._stream.waiting()]
            ended = _is_end(events[-1])
            body = b"".join(line for event in events for line in self._records.lines(event))
            await send({"type": "http.response.body", "body": body, "more_body": not ended})

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
