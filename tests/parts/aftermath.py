"""What must hold of a runner process after any fault that it survives."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.parts.processes import Running, wait_until
from tests.parts.streams import DEADLINE_S, Request, ask

SENTENCE = "the answer that is always the same"
SETTLE_S = 20.0  # until everything is given back; a hint to fail by, not a measure
MEMORY_LEEWAY = 1 << 20
POOL = 8  # threads that the event loop makes when it first needs them, and keeps


@dataclass(frozen=True)
class Calm:
    """A runner when nobody asks anything."""

    text: str
    held_bytes: int
    files: int
    threads: int

    @classmethod
    def of(cls, running: Running) -> Calm:
        with Request(running.port, ask(SENTENCE)) as request:
            text = request.answer().text
        forget(running)
        return cls(text, status(running)["Memory"], *counts(running))

    def check(self, running: Running) -> None:
        """Everything is as it was: what it says, what waits, memory, open files, threads."""
        assert running.process.poll() is None, running.output.text
        wait_until(lambda: metric(running, "queue_length") == 0, SETTLE_S, "an empty queue")
        wait_until(lambda: metric(running, "slots_busy") == 0, SETTLE_S, "free slots")
        with Request(running.port, ask(SENTENCE)) as request:
            assert request.answer().text == self.text
        forget(running)
        wait_until(
            lambda: status(running)["Memory"] <= self.held_bytes + MEMORY_LEEWAY,
            SETTLE_S,
            "memory given back",
        )
        wait_until(lambda: counts(running)[0] <= self.files, SETTLE_S, "closed files")
        assert counts(running)[1] <= self.threads + POOL


def forget(running: Running) -> None:
    """Empty the cache."""
    assert answer_of(running.port, "DELETE", "/v1/cache")[0] == 200


def status(running: Running) -> dict[str, Any]:
    answer = running.health()
    assert answer is not None
    assert answer[0] == 200
    return answer[1]


def metric(running: Running, name: str) -> float:
    """A gauge or a counter without labels."""
    lines = answer_of(running.port, "GET", "/metrics")[1].decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"mlx_runner_{name} "))


def counts(running: Running) -> tuple[int, int]:
    """Open files and threads; of a system that does not tell, none."""
    folder = Path("/proc") / str(running.pid)
    if not folder.exists():
        return 0, 0
    return len(os.listdir(folder / "fd")), len(os.listdir(folder / "task"))


def answer_of(port: int, method: str, path: str) -> tuple[int, bytes]:
    """On a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def refused(port: int, path: str, body: Any, *secrets: str) -> tuple[int, str]:
    """Status and text of an answer that is no stream: one plain line that tells nothing of where or how."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with Request(port, data, path) as request:
        code, text = request.refusal()
    for secret in ("Traceback", "site-packages", ".py", *secrets):
        assert secret not in text
    return code, text
