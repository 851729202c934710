"""A runner process as a host spawns it, asked over HTTP and watched from outside."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.samples import Trouble
from benchmark.servers import own_command

SILENT_S = 60.0  # without a byte: it hangs
START_S = 120.0
STOP_S = 10.0
POLL_S = 0.01
KIB = 1024


class Gone(Exception):
    """The process has ended, or closed a connection without an answer."""


class Hangs(Exception):
    """Nothing came for SILENT_S."""


@dataclass(frozen=True)
class Reply:
    status: int
    content_type: str
    body: bytes
    seconds: float


@dataclass(frozen=True)
class Footprint:
    """What the system says of a process."""

    resident_bytes: int
    peak_bytes: int
    files: int
    threads: int


class Process:
    """One runner, and a connection to it that is kept."""

    def __init__(self, popen: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.popen = popen
        self.port = port
        self.log = log
        self._read = 0  # bytes of the log
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SILENT_S)

    def ask(self, method: str, path: str, body: bytes | None = None) -> Reply:
        """Raises Gone or Hangs."""
        began = time.perf_counter()
        try:
            self._connection.request(method, path, body, {} if body is None else {"Content-Type": "x"})
            response = self._connection.getresponse()
            data = response.read()
        except TimeoutError:
            self._connection.close()
            raise Hangs(f"{method} {path}") from None
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise Gone(f"{method} {path}: {type(error).__name__}: {error}") from None
        seconds = time.perf_counter() - began
        return Reply(response.status, response.headers.get("content-type", ""), data, seconds)

    @property
    def has_ended(self) -> bool:
        return self.popen.poll() is not None

    def log_since(self) -> str:
        """What was logged since this was asked last."""
        with self.log.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        self._read += len(text)
        return text.decode(errors="replace")

    def footprint(self) -> Footprint:
        folder = Path("/proc") / str(self.popen.pid)
        lines = (folder / "status").read_text().splitlines()
        fields = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
        return Footprint(
            int(fields["VmRSS"][0]) * KIB,
            int(fields["VmHWM"][0]) * KIB,
            len(os.listdir(folder / "fd")),
            int(fields["Threads"][0]),
        )

    def stop(self) -> int:
        """Ask it to end, as a host does; its exit code."""
        self._connection.close()
        self.popen.send_signal(signal.SIGINT)
        return self.popen.wait(STOP_S)


@contextlib.contextmanager
def spawned(
    model: str, log: Path, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """A runner that has loaded its model; killed at the end if it is still there. Raises Trouble."""
    port = _free_port()
    command = [*own_command(), "runner", "--model", model, "--port", str(port), *arguments]
    with log.open("wb") as file:
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=os.environ | dict(environment or {}),
        )
    process = Process(popen, port, log)
    try:
        _wait_ready(process)
        yield process
    finally:
        popen.kill()
        popen.wait()


def _wait_ready(process: Process) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and not process.has_ended:
        with contextlib.suppress(Gone):
            if process.ask("GET", "/health").status == 200:
                return
        time.sleep(POLL_S)
    raise Trouble(f"the runner did not start: {process.log.read_text(errors='replace')[-500:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
