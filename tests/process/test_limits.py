"""More connections than there are files for."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from pathlib import Path

from tests.parts.log_lines import check_output
from tests.parts.processes import linux_only, spawned, stopped
from tests.parts.streams import Request, ask


def test_more_connections_than_a_usual_limit_of_files_are_no_trouble(tiny_model: Path) -> None:
    arguments = ["runner", "--model", str(tiny_model), "--port", "PORT"]
    with spawned(*arguments, files="-Sn 64") as running, contextlib.ExitStack() as stack:
        running.wait_ready()
        for _ in range(150):
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port)))
        assert running.health() is not None
        with Request(running.port, ask("one more")) as request:
            request.answer()


@linux_only
def test_without_files_for_more_connections_it_waits_quietly_and_recovers(tiny_model: Path) -> None:
    arguments = ["runner", "--model", str(tiny_model), "--port", "PORT"]
    with spawned(*arguments, files="-n 64") as running:
        running.wait_ready()
        with contextlib.ExitStack() as stack:
            for _ in range(150):
                stack.enter_context(socket.create_connection(("127.0.0.1", running.port)))
            running.output.wait_for("out of system resource")
        released = time.monotonic()
        assert running.health() is not None
        print(f"served {time.monotonic() - released:.2f} s after the files were free again")
        with Request(running.port, ask("again")) as request:
            request.answer()
        stopped(running, signal.SIGINT, "idle")
    check_output(running.output.text)
    print(f"{len(running.output.text)} bytes of log")
    assert len(running.output.text) < 1_000_000
