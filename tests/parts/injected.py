"""A runner process in which a prompt can ask for a fault, and gates that a step waits at."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tests.parts.processes import Running, spawned, wait_until

# Its sitecustomize.py says which faults there are.
INJECTING = Path(__file__).resolve().parents[2] / "scripts" / "reliability" / "injecting"
REACHED_S = 30.0
ENVIRONMENT = {"PYTHONPATH": str(INJECTING)}


def fault(where: str, number: int, what: str) -> str:
    """For a prompt, at its end: what stands before it is the same without it."""
    return f"[[{where} {number}: {what}]]"


class Gate:
    """A place where one step waits. Entering it waits for the step; leaving it lets the step go on."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._file: int | None = None

    def __enter__(self) -> Gate:
        wait_until(self._is_reached, REACHED_S, f"a step at {self.path.name}")
        return self

    def _is_reached(self) -> bool:
        """Whether somebody reads, who waits from now on until this is closed."""
        with contextlib.suppress(OSError):
            self._file = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
        return self._file is not None

    def __exit__(self, *_: object) -> None:
        self.open()

    def open(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def at(self, where: str, number: int) -> str:
        """For a prompt."""
        return fault(where, number, f"hold {self.path}")


@contextlib.contextmanager
def faulty(
    model: Path, *arguments: str, slots: int = 1, environment: dict[str, str] | None = None
) -> Iterator[Running]:
    """A runner as hosts spawn it, ready to answer."""
    command = ["runner", "--model", str(model), "--port", "PORT", "--parallel", str(slots), *arguments]
    with spawned(*command, environment=ENVIRONMENT | (environment or {})) as running:
        running.wait_ready()
        yield running
