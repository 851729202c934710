"""What the runner writes, to a host that reads it and to one that does not."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.parts.log_lines import ALARMS, MEMORY_ALARMS, check_output, is_complaint
from tests.parts.processes import (
    COMMAND,
    EXIT_S,
    HOST_GRACE_S,
    START_S,
    free_port,
    hosted,
    linux_only,
    spawned,
    stopped,
)
from tests.parts.streams import Request, ask, post

BUSY_S = 0.1  # until a host that has other things to do reads what is there


def test_a_busy_session_logs_lines_that_alarm_no_host(tiny_model: Path) -> None:
    scary = "\n".join([*ALARMS, *MEMORY_ALARMS]) + '\x1b[0m "quoted" \u2028 \x85 é 日本'

    def be_busy(i: int) -> None:
        with Request(running.port, ask(f"{scary} {i}"[:400], 20)) as request:
            request.answer()
        for body in ("{", json.dumps({"prompt": ""}), json.dumps({"prompt": "x" * 9000}), '{"prompt":5}'):
            assert post(running.port, "/completion", body)[0] == 400
        options = {"num_batch": i, "use_mmap": True, "num_thread": 5}
        assert post(running.port, "/completion", json.dumps(ask("x") | {"Options": options}))[0] == 200
        assert post(running.port, "/load", json.dumps({"model": scary[:100]}))[0] == 404
        assert post(running.port, f"/Error:%20out%20of%20memory%0aError:{'x' * 9000}", "")[0] == 404
        with Request(running.port, ask(f"leaves {i}", 300)) as request:
            request.started()
        with contextlib.closing(socket.create_connection(("127.0.0.1", running.port))) as noise:
            noise.sendall(b"Error: panic: \r\n\r\n")
            noise.recv(100)

    with hosted(tiny_model, {"OLLAMA_DEBUG": "2"}) as running:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(be_busy, range(6)))
        with Request(running.port, ask("still there")) as request:
            request.answer()
        stopped(running, signal.SIGINT, "idle after a busy session")
    check_output(running.output.text)
    assert running.output.text.count('msg="Completion finished"') >= 12
    assert not [asked for asked in ("quoted", "leaves", "still there") if asked in running.output.text]


@linux_only
def test_every_line_is_one_write(tiny_model: Path) -> None:
    with spawned("runner", "--model", str(tiny_model), "--port", "PORT", packets=True) as running:
        running.wait_ready()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: post(running.port, "/completion", json.dumps(ask(f"{i}"))), range(20)))
        stopped(running, signal.SIGINT, "idle")
    writes = running.output.reads
    assert len(writes) > 40
    for block in writes:
        assert block.endswith(b"\n")
        assert block.count(b"\n") == 1


@linux_only
def test_a_host_that_stops_reading_our_output_stops_nothing_else(tiny_model: Path) -> None:
    with spawned("runner", "--model", str(tiny_model), "--port", "PORT", read=False) as running:
        running.wait_ready()
        for i in range(10):
            with Request(running.port, ask(f"{i}")) as request:
                request.answer()
        took = []
        for _ in range(20):
            asked = time.perf_counter()
            assert running.health() is not None
            took.append(time.perf_counter() - asked)
        print(f"/health with a full pipe: median {statistics.median(took) * 1e3:.1f} ms")
        assert statistics.median(took) < 0.05
        sent = running.send_signal(signal.SIGINT)
        assert running.process.wait(EXIT_S) == 0
        assert time.monotonic() - sent < HOST_GRACE_S


@linux_only
def test_a_host_that_does_not_read_the_reason_cannot_keep_us(tmp_path: Path) -> None:
    with spawned("runner", "--model", str(tmp_path / "none"), "--port", "PORT", read=False) as running:
        assert running.process.wait(START_S) == 4


def failing(folder: Path) -> subprocess.Popen[bytes]:
    """A runner that cannot load its model; nobody reads its output yet."""
    command = [COMMAND, "runner", "--model", str(folder / "none"), "--port", str(free_port())]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)


def read_as_v0_17(process: subprocess.Popen[bytes]) -> bytes:
    """All that a busy host of v0.17 has read when the process ends. It closes the pipe then; the rest is lost."""
    assert process.stderr is not None
    pipe, read = process.stderr.fileno(), b""
    while select.select([pipe], [], []):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(BUSY_S)
            return read
        read += os.read(pipe, 65536)
    raise AssertionError


@linux_only
def test_a_busy_host_has_read_the_reason_when_the_runner_ends(tmp_path: Path) -> None:
    with failing(tmp_path) as process:
        assert is_complaint(read_as_v0_17(process).decode())
        assert process.returncode == 4


def test_a_host_that_never_reads_though_there_is_room_cannot_keep_us(tmp_path: Path) -> None:
    with failing(tmp_path) as process:
        assert process.wait(START_S) == 4
