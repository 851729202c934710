"""The installed command as a host runs it: a child process with stdin from nowhere and one pipe for its output.

Everything waits for a condition with a deadline; nothing outlives its `with`.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

COMMAND = str(Path(sys.executable).with_name("mlx-runner"))
START_S = 60.0  # until a model must be loaded; a hint to fail by, not a measure
EXIT_S = 10.0

# A host in a few lines. argv: a file for the child's process id, how to behave, the command.
HOST = """
import os, subprocess, sys
pid_file, manner, *command = sys.argv[1:]
pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if "own-pipe" in manner else {}
child = subprocess.Popen(command, stdin=subprocess.DEVNULL, **pipe)
with open(pid_file + ".new", "w") as file:
    file.write(str(child.pid))
os.rename(pid_file + ".new", pid_file)
if "leaves" in manner:
    os._exit(0)
child.wait()
"""

# Linux: whose grandchildren become its children when their parents die, as under a container's first process.
ADOPTER = """
import ctypes, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1)
subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
while True:
    time.sleep(60)
"""

# Process 1 of a namespace. argv: the descriptor of the host's output, the host. Exits as the orphan that it gets.
FIRST_PROCESS = """
import os, subprocess, sys
output, *host = sys.argv[1:]
subprocess.run(host, stdin=subprocess.DEVNULL, stdout=int(output), stderr=int(output))
os.close(int(output))
os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def has_namespaces() -> bool:
    """Whether we may make a process namespace, which takes Linux and most often root."""
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def free_port() -> int:
    """As hosts find one: bind to 0, close, hope."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
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
            answer = self.health()
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
    reading, writing = os.pipe2(os.O_DIRECT) if packets else os.pipe()
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


class Family:
    """A throw-away host process and its runner, which is nobody's child once the host is gone."""

    def __init__(self, host: subprocess.Popen[bytes], output: Output, runner_pid: int, port: int) -> None:
        self.host = host
        self.output = output
        self.runner_pid = runner_pid
        self.port = port

    def is_ready(self) -> bool:
        answer = ping(self.port)
        return answer is not None and answer[0] == 200

    def kill_host(self) -> float:
        """When, on the monotonic clock."""
        self.host.kill()
        return time.monotonic()

    def seconds_until_gone(self, since: float, timeout_s: float = EXIT_S) -> float:
        wait_until(lambda: not is_alive(self.runner_pid), timeout_s, "the runner's end")
        return time.monotonic() - since


@contextlib.contextmanager
def family(model: Path, folder: Path, *manner: str) -> Iterator[Family]:
    """A host that spawned a runner.

    manner: "leaves" ends the host at once, before its child can look around; "own-pipe" makes the host read its
    child's output, where else we do; "adopted" gives the runner a new parent in the same session.
    """
    port = free_port()
    pid_file = folder / f"runner-{port}.pid"
    command = [sys.executable, "-S", "-c", HOST, str(pid_file), ",".join(manner), COMMAND]
    command += ["runner", "--model", str(model), "--port", str(port)]
    if "adopted" in manner:
        command = [sys.executable, "-S", "-c", ADOPTER, *command]
    reading, writing = os.pipe()
    host = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writing, stderr=writing)
    os.close(writing)
    output = Output(reading)
    output.start()
    runner_pid = None
    try:
        wait_until(pid_file.exists, START_S, "the host's child")
        runner_pid = int(pid_file.read_text())
        yield Family(host, output, runner_pid, port)
    finally:
        host.kill()
        host.wait()
        if runner_pid is not None and is_alive(runner_pid):
            os.kill(runner_pid, signal.SIGKILL)
