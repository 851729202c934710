"""A runner that loses its host ends, and one that has its host does not."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from api.process.lifecycle import PARENT_GONE
from runner.store.header_text import MAX_MEMBERS
from runner.store.safetensors_header import make_header
from tests.parts import tiny
from tests.parts.families import FIRST_PROCESS, HOST, NAMESPACE, family, needs_namespaces
from tests.parts.log_lines import check_output
from tests.parts.processes import (
    COMMAND,
    EXIT_S,
    START_S,
    free_port,
    held_back,
    hosted,
    is_alive,
    linux_only,
    ping,
    spawned,
    stopped,
    wait_until,
)
from tests.parts.streams import Request, ask, endless


def orphaned(model: Path, folder: Path, state: str) -> float:
    """Seconds between the host's SIGKILL and the end of its runner, which is in this state then."""
    with contextlib.ExitStack() as stack:
        release = None
        if state == "reading a header":
            release = stack.enter_context(held_back(model / "model.safetensors"))
        relatives = stack.enter_context(family(model, folder))
        if release is not None:
            wait_until(lambda: ping(relatives.port, START_S) is not None, START_S, "an answer while it loads")
            release()  # from now on it parses a second's worth of names
        elif state != "starting":
            wait_until(relatives.is_ready, START_S, "200 on /health")
        if state == "decoding":
            stack.enter_context(Request(relatives.port, endless())).started().next_record()
        if state == "prefilling":
            stack.enter_context(Request(relatives.port, ask("x" * 8000, 1))).started()
        assert is_alive(relatives.runner_pid), relatives.output.text
        took = relatives.seconds_until_gone(relatives.kill_host())
        assert relatives.output.closed.wait(EXIT_S)
        assert not relatives.is_ready()
    return took


@pytest.fixture(scope="module")
def wide_header(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights have as many names as we take, so that to parse them takes a second."""
    folder = tiny.write(tmp_path_factory.mktemp("models") / "wide")
    header = make_header(((f"tensor {number}", "F32", (0,)) for number in range(MAX_MEMBERS)), {})
    (folder / "model.safetensors").write_bytes(header)
    return folder


@pytest.mark.parametrize("state", ["starting", "idle", "decoding"])
def test_a_runner_ends_with_the_host_that_is_killed(slow_model: Path, tmp_path: Path, state: str) -> None:
    took = orphaned(slow_model, tmp_path, state)
    print(f"{state}: gone {took:.2f} s after its host")
    assert took < 2.0


LIVES = 100


@pytest.mark.slow
def test_every_one_of_many_runners_ends_with_its_host(
    slow_model: Path, wide_header: Path, tmp_path: Path
) -> None:
    states = ["starting", "reading a header", "idle", "decoding", "prefilling"] * (LIVES // 5)
    took: dict[str, list[float]] = {}
    for state in states:
        model = wide_header if state == "reading a header" else slow_model
        took.setdefault(state, []).append(orphaned(model, tmp_path, state))
    for state, seconds in took.items():
        print(f"{state}: {len(seconds)} hosts killed, gone after {min(seconds):.2f} to {max(seconds):.2f} s")
    assert max(map(max, took.values())) < 2.0


@pytest.mark.parametrize(
    "manner",
    [
        ["leaves"],
        ["leaves", "own-pipe"],
        pytest.param(["leaves", "own-pipe", "adopted"], marks=linux_only),
    ],
    ids=["by the system", "and its pipe is closed", "by somebody in the same session"],
)
def test_a_runner_that_was_adopted_before_it_could_look_ends(
    tiny_model: Path, tmp_path: Path, manner: list[str]
) -> None:
    with family(tiny_model, tmp_path, *manner) as relatives:
        took = relatives.seconds_until_gone(time.monotonic())
        print(f"gone {took:.2f} s after it was begun")


@needs_namespaces
def test_a_runner_that_process_1_of_its_own_session_adopted_ends(tiny_model: Path, tmp_path: Path) -> None:
    port = free_port()
    host = [sys.executable, "-S", "-c", HOST, str(tmp_path / "pid"), "leaves"]
    host += [COMMAND, "runner", "--model", str(tiny_model), "--port", str(port)]
    reading, writing = os.pipe()
    first = [*NAMESPACE, sys.executable, "-S", "-c", FIRST_PROCESS, str(writing), *host]
    with subprocess.Popen(first, pass_fds=[writing]) as process:
        os.close(writing)
        try:
            assert process.wait(START_S) == PARENT_GONE
        finally:
            process.kill()
            os.close(reading)


@needs_namespaces
@pytest.mark.parametrize("manner", ["own-pipe", "inherits"])
def test_a_host_that_is_process_1_is_a_host_all_the_same(
    tiny_model: Path, tmp_path: Path, manner: str
) -> None:
    port = free_port()
    host = [*NAMESPACE, sys.executable, "-S", "-c", HOST, str(tmp_path / "pid"), manner]
    host += [COMMAND, "runner", "--model", str(tiny_model), "--port", str(port)]
    with subprocess.Popen(host, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            wait_until(lambda: (ping(port) or (0,))[0] == 200, START_S, "200 on /health")
        finally:
            process.kill()


def test_a_host_in_another_session_is_a_host_all_the_same(tiny_model: Path) -> None:
    with spawned("runner", "--model", str(tiny_model), "--port", "PORT", new_session=True) as running:
        running.wait_ready()
        stopped(running, signal.SIGINT, "idle in its own session")


def test_output_to_a_file_is_no_reason_to_leave(tiny_model: Path, tmp_path: Path) -> None:
    with spawned("runner", "--model", str(tiny_model), "--port", "PORT", output=tmp_path / "log") as running:
        running.wait_ready()
    check_output((tmp_path / "log").read_text())


def test_nobody_but_the_runner_holds_its_output(slow_model: Path) -> None:
    with hosted(slow_model) as running, Request(running.port, endless()) as request:
        request.started().next_record()
        running.process.kill()
        assert running.process.wait(EXIT_S) == -signal.SIGKILL
        killed = time.monotonic()
        assert running.output.closed.wait(EXIT_S)
        assert time.monotonic() - killed < 1.0
