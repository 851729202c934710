"""The installed command as a host runs it: a child process with stdin from nowhere and one pipe for its output.

Everything waits for a condition with a deadline; nothing outlives its `with`.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

COMMAND = str(Path(sys.executable).with_name("mlx-runner"))
START_S = 60.0  # until a model must be loaded; a hint to fail by, not a measure
EXIT_S = 10.0
HOST_GRACE_S = 5.0  # a host waits so long after SIGINT before it kills
# Of this process of pytest-xdist, which says gw0, gw1 and so on.
_process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 10
PORTS = range(12_000 + 2_000 * _process, 14_000 + 2_000 * _process)
_turns = itertools.count(random.randrange(len(PORTS)))  # other runs of these tests begin elsewhere

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs what only Linux has")


def free_port() -> int:
    """One that nobody has. It is below those that systems give to connections, and among those of this process:
    what binding to 0 finds may be another test's before the runner binds it.
    """
    while True:
        port = PORTS.start + next(_turns) % len(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def ping(port: int, timeout_s: float = 5.0) -> tuple[int, dict[str, Any]] | None:
    """Status and JSON of /health, on a connection of its own; None while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except ConnectionError:
        return None
    finally:
        connection.close()


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> float:
    """Poll; the seconds it took. Fails with `what` after the deadline."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout_s:
            raise AssertionError(f"waited {timeout_s} s for {what}")
        time.sleep(0.005)
    return time.monotonic() - started


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody has waited for does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):  # the latter when it ends between open and read
        if Path("/proc/self/stat").exists():
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def children(parent: int) -> list[int]:
    """Process ids; from /proc where there is one, else from ps."""
    found = []
    if Path("/proc/self/stat").exists():
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                    found.append(int(stat.parent.name))
        return found
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    for line in table.stdout.splitlines():
        pid, of = map(int, line.split())
        if of == parent:
            found.append(pid)
    return found


class Output:
    """A pipe's read end, drained by a thread until every writer has closed it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.reads: list[bytes] = []
        self.closed = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._drain, daemon=True).start()

    @property
    def text(self) -> str:
        return b"".join(self.reads).decode(errors="replace")

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    def wait_for(self, text: str, timeout_s: float = START_S) -> None:
        wait_until(lambda: text in self.text, timeout_s, f"{text!r} in the output")

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            while block := os.read(self._descriptor, 65536):
                self.reads.append(block)
        os.close(self._descriptor)
        self.closed.set()


class Running:
    """One runner process and what can be seen of it from outside."""

    def __init__(self, process: subprocess.Popen[bytes], output: Output, port: int) -> None:
        self.process = process
        self.output = output
        self.port = port
        self.pid = process.pid

    def health(self) -> tuple[int, dict[str, Any]] | None:
        return ping(self.port)

    def wait_ready(self) -> float:
        """Until the first 200, as a host waits; the seconds it took."""

        def ready() -> bool:
            assert self.process.poll() is None, self.output.text
            answer = ping(
                self.port, START_S
            )  # on a machine that is busy, the server's code is imported for seconds
            return answer is not None and answer[0] == 200

        return wait_until(ready, START_S, "200 on /health")

    def send_signal(self, number: signal.Signals) -> float:
        """When it was sent, on the monotonic clock."""
        self.process.send_signal(number)
        return time.monotonic()

    def exit_code(self, timeout_s: float = EXIT_S) -> int:
        """Wait for the end, and for the output to be complete."""
        code = self.process.wait(timeout_s)
        assert self.output.closed.wait(timeout_s), "somebody else holds the output pipe"
        return code


def packet_pipe() -> tuple[int, int]:
    """A pipe of which each read returns one write."""
    if sys.platform == "linux":
        return os.pipe2(os.O_DIRECT)
    raise NotImplementedError("only Linux has such pipes")


@contextlib.contextmanager
def spawned(
    *arguments: str,
    port: int | None = None,
    environment: Mapping[str, str] | None = None,
    read: bool = True,
    packets: bool = False,
    output: Path | None = None,
    new_session: bool = False,
    files: str = "",
) -> Iterator[Running]:
    """`mlx-runner ARGUMENTS`, with PORT in them replaced; killed at the end if it is still there.

    With read=False the output pipe is full and nobody reads it; with packets (Linux) each read of it returns one
    write; with output it is a file and no pipe. files are arguments of `ulimit`.
    """
    port = free_port() if port is None else port
    reading, writing = packet_pipe() if packets else os.pipe()
    file = os.open(output, os.O_WRONLY | os.O_CREAT) if output else os.dup(writing)
    command = [COMMAND, *(argument.replace("PORT", str(port)) for argument in arguments)]
    if files:
        command = ["sh", "-c", f'ulimit {files} && exec "$0" "$@"', *command]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=file,
        env=os.environ | (environment or {}),
        start_new_session=new_session,
    )
    drained = Output(reading)
    try:
        if not read:
            fill(writing)
        os.close(file)
        os.close(writing)
        if read:
            drained.start()
        yield Running(process, drained, port)
    finally:
        process.kill()
        process.wait()


def fill(pipe: int) -> None:
    """Write into a pipe until not one byte more fits."""
    os.set_blocking(pipe, False)
    for block in (b"-" * 4096, b"-"):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(pipe, block)
    os.set_blocking(pipe, True)


@contextlib.contextmanager
def held_back(path: Path) -> Iterator[Callable[[], None]]:
    """Linux: who opens the file waits, as on a slow disk, until the yielded function is called, or for 45 s."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # says that somebody waits
    file = os.open(path, os.O_RDWR)
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    try:

        def release() -> None:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)

        yield release
    finally:
        os.close(file)
        signal.signal(signal.SIGIO, before)


@contextlib.contextmanager
def hosted(model: Path | str, environment: Mapping[str, str] | None = None) -> Iterator[Running]:
    """The runner as hosts since v0.34.3 spawn it, ready to answer."""
    with spawned("runner", "--model", str(model), "--port", "PORT", environment=environment) as running:
        running.wait_ready()
        yield running


def stopped(running: Running, number: signal.Signals, state: str, code: int = 0) -> None:
    """Send the signal; the process must be gone, tidily, before a host would lose patience."""
    sent = running.send_signal(number)
    assert running.exit_code() == code
    took = time.monotonic() - sent
    print(f"{number.name} while {state}: gone after {took:.2f} s")
    assert took < HOST_GRACE_S
    assert "Error:" not in running.output.text
