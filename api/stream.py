"""The one bridge between the MLX thread and the event loop.

    MLX thread                        |  event loop
    emit(), flush() --- inbox ------> |  next(), waiting() -> lines -> socket
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
- Events that are there already go out in one write. While that needs no waiting, `forward` sends them on and the
  waiter in `next` sleeps on; else the waiter is woken and sends them.

Knows nothing about what the events say, beyond which one is first and which is last.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Literal

from api.inbox import Inbox
from runner.errors import RunnerError
from runner.jobs import GenerateJob
from runner.types import Chunk, Done, Event, Failed

log = logging.getLogger(__name__)

BUFFERED = 256
STALL_S = 30.0


class State(Enum):
    OPEN = auto()
    ENDING = auto()
    CLOSED = auto()


Closed = Literal[State.CLOSED]


class EventStream:
    """One request's events on their way out: an Outlet. Made on the loop; only `emit`, `flush` and `has_room`
    are called from another thread.
    """

    def __init__(self, inbox: Inbox, stall_s: float = STALL_S) -> None:
        self._loop = asyncio.get_running_loop()
        self._inbox = inbox
        self._state = State.OPEN
        self._events: deque[Event] = deque()
        self._reader: asyncio.Future[None] | None = None  # who waits in `next`
        self._stall_s = stall_s
        self._stall: asyncio.TimerHandle | None = None
        # Each is written by one thread alone; their difference is what is on its way or unread.
        self._emitted = 0
        self._read = 0
        self.job: GenerateJob | None = None
        self.forward: Callable[[], bool] | None = None  # sends on what is there, if that needs no waiting
        self.abort: Callable[[], object] = self.close  # drops the connection

    def emit(self, event: Event) -> None:
        """Hand an event over; does nothing once the stream is closed."""
        self._emitted += 1
        self._inbox.put(self, event)
        if not isinstance(event, Chunk):
            self.flush()

    def flush(self) -> None:
        self._inbox.call()

    def has_room(self) -> bool:
        return self._emitted - self._read < BUFFERED

    async def next(self) -> Event | Closed:
        """The next event, as soon as there is one."""
        while not self._events and self._state is not State.CLOSED:
            self._reader = self._loop.create_future()
            await self._reader
        return State.CLOSED if self._state is State.CLOSED else self._taken(1)[0]

    @property
    def unread(self) -> tuple[Event, ...]:
        """What `waiting` would take."""
        return tuple(self._events)

    def waiting(self) -> list[Event]:
        """The events that are there already; none is no end."""
        return self._taken(len(self._events))

    def close(self) -> None:
        """Nobody wants more: cancel the job, wake whoever waits for an event."""
        self._state = State.CLOSED
        self._end_stall()
        self._wake()
        if self.job is not None:
            self.job.cancel()

    def fail(self, failed: Failed) -> None:
        """End the answer with this, whatever the worker is doing."""
        if self._state is State.OPEN:
            self._put(failed)
            self._wake()

    def arrive(self, event: Event) -> None:
        """An event came over."""
        if self._state is not State.OPEN:
            self._read += 1
            return
        self._put(event)
        if self._state is State.OPEN and self._stall is None and not self.has_room():
            self._stall = self._loop.call_later(self._stall_s, self._cut_off)

    def pass_on(self) -> None:
        """Have what is there go out: by `forward`, if it can, else by whoever waits in `next`."""
        if self._reader is None or self._reader.done():
            return  # the reader is sending, and will look for more
        has_gone = False
        try:
            has_gone = self._state is State.OPEN and self.forward is not None and self.forward()
        finally:
            if not has_gone:
                self._wake()

    def _put(self, event: Event) -> None:
        self._events.append(event)
        if is_end(event):
            self._state = State.ENDING
            self._end_stall()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

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
        self._inbox: Inbox | None = None

    @property
    def inbox(self) -> Inbox:
        """Theirs, made by the first one on the loop."""
        if self._inbox is None:
            self._inbox = Inbox()
        return self._inbox

    def add(self, stream: EventStream) -> None:
        self._open.add(stream)

    def discard(self, stream: EventStream) -> None:
        self._open.discard(stream)

    def __len__(self) -> int:
        return len(self._open)

    def farewell(self, error: RunnerError) -> None:
        for stream in list(self._open):
            stream.fail(Failed(str(error), error.status))


def is_end(event: Event) -> bool:
    return isinstance(event, (Done, Failed))
