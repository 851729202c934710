"""Where the events of all answers cross from the MLX thread to the event loop, together.

To wake the loop costs more than an event does, and a step of many rows has an event for each of them. So events are
put in first and the loop is called then, once for all of them.

Knows nothing about what the events say or what becomes of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Protocol

from runner.types import Event


class Receiver(Protocol):
    """Whom events are for; called on the loop."""

    def arrive(self, event: Event) -> None:
        """Keep an event; others may be behind it."""

    def pass_on(self) -> None:
        """All that are there for now have arrived."""


class Inbox:
    """Made on the loop; only `put` and `call` are called from another thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: deque[tuple[Receiver, Event]] = deque()
        self._is_called = False  # the loop, which has not looked yet

    def put(self, receiver: Receiver, event: Event) -> None:
        """Never waits."""
        self._events.append((receiver, event))

    def call(self) -> None:
        """Have the loop look at what is there; does nothing once it is closed."""
        if self._events and not self._is_called:
            self._is_called = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to be told
                self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        self._is_called = False  # first, since what is put in while this looks may be overlooked
        receivers: dict[Receiver, None] = {}
        while self._events:
            receiver, event = self._events.popleft()
            receiver.arrive(event)
            receivers[receiver] = None
        for receiver in receivers:
            self._loop.call_soon(receiver.pass_on)  # each by itself: an exception is that receiver's alone
