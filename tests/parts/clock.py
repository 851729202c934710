"""An event loop in which nobody waits: its clock goes on by what would be slept."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class _Skipping(selectors.DefaultSelector):
    """Looks at what is ready, and counts the seconds that it was to wait for more."""

    skipped = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.skipped += timeout or 0.0
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._selector_of_ours = _Skipping()
        super().__init__(self._selector_of_ours)

    def time(self) -> float:
        return self._selector_of_ours.skipped


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """As asyncio.run; time passes only in sleeps and timeouts, and at once."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main)
