"""One request's events as they come out of a worker."""

from __future__ import annotations

import queue

from runner.types import Done, Event, Failed

WAIT_S = 20


class Answer:
    """An Outlet that collects one request's events; while `open` is false it has no room."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.events: list[Event] = []
        self.is_open = is_open
        self._arrived: queue.Queue[Event] = queue.Queue()

    def emit(self, event: Event) -> None:
        self._arrived.put(event)

    def flush(self) -> None:
        """Nothing was held back."""

    def has_room(self) -> bool:
        return self.is_open

    def next(self) -> Event:
        event = self._arrived.get(timeout=WAIT_S)
        self.events.append(event)
        return event

    def end(self) -> Event:
        while not isinstance(event := self.next(), Done | Failed):
            pass
        return event

    def is_silent(self) -> bool:
        return self._arrived.empty()
