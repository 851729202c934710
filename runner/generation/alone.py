"""One request from its beginning to its end, on the thread that calls: for scripts and tests.

Knows nothing about the worker.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from runner.generation.engine import Engine
from runner.loading.loaded_model import LoadedModel
from runner.machine import memory
from runner.types import Cancelled, Event, GenerateRequest


class Collected:
    """An Outlet that always has room."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def flush(self) -> None:
        """Nothing was held back."""

    def has_room(self) -> bool:
        return True


def complete(
    loaded: LoadedModel,
    request: GenerateRequest,
    cancelled: Cancelled | None = None,
    restore: Callable[[Sequence[int], int], None] | None = None,
) -> list[Event]:
    """All events of a request. Raises RunnerError for a bad one, or what MLX raises; then the slot is empty.
    restore: as an `Engine` has it.
    """
    engine, outlet = Engine(loaded, memory.release_buffers, restore=restore), Collected()
    engine.admit(request, outlet, cancelled or threading.Event())
    while engine.is_live:
        try:
            engine.advance()
        except Exception as error:
            engine.fail(str(error))
            raise
    return outlet.events
