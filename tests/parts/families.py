"""A host process and the runner that it spawned: who is whose child, and what happens when the host is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts.processes import COMMAND, EXIT_S, START_S, Output, free_port, is_alive, ping, wait_until

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

# Process 1 of a namespace. argv: the descriptor of the host's output, the host. It closes its own end of that
# before a runner can look, and exits with the largest code of all orphans that it gets: a watcher's is 0.
FIRST_PROCESS = """
import os, subprocess, sys
output, *command = sys.argv[1:]
host = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=int(output), stderr=int(output))
os.close(int(output))
host.wait()
codes = []
try:
    while True:
        codes.append(os.waitstatus_to_exitcode(os.wait()[1]))
except ChildProcessError:
    os._exit(max(codes))
"""
NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def has_namespaces() -> bool:
    """Whether we may make a process namespace, which takes Linux and most often root."""
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


needs_namespaces = pytest.mark.skipif(not has_namespaces(), reason="may not make process namespaces")


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
