"""The process beside the runner: it ends a runner that cannot end itself, and never outlives it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from api.process import watcher
from api.process.lifecycle import WORKER_DIED
from tests.parts import tiny
from tests.parts.families import HOST, NAMESPACE, family, needs_namespaces
from tests.parts.log_lines import is_complaint
from tests.parts.processes import (
    COMMAND,
    EXIT_S,
    HOST_GRACE_S,
    START_S,
    Running,
    children,
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
from tests.parts.streams import Request, ask, endless, post, read_stream

# What Python imports at its start. A PyDLL keeps the GIL while it calls, as a parser of somebody else does.
HOLDS_THE_GIL = """
import ctypes, os, signal
def hold(number, frame):
    os.write(2, b"held\\n")
    ctypes.PyDLL(None).sleep(60)
signal.signal(signal.SIGUSR1, hold)
"""


@pytest.fixture
def can_be_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner that is started from here calls into C with the GIL for a minute when SIGUSR1 comes."""
    (tmp_path / "sitecustomize.py").write_text(HOLDS_THE_GIL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def watcher_of(running: Running) -> int:
    (watcher,) = children(running.pid)
    return watcher


def wait_until_gone(watcher: int) -> None:
    wait_until(lambda: not is_alive(watcher), EXIT_S, "the watcher's end")


@pytest.mark.usefixtures("can_be_held")
def test_a_runner_whose_gil_is_held_ends_with_its_host(tiny_model: Path, tmp_path: Path) -> None:
    with family(tiny_model, tmp_path) as relatives:
        wait_until(relatives.is_ready, START_S, "200 on /health")
        (watcher,) = children(relatives.runner_pid)
        os.kill(relatives.runner_pid, signal.SIGUSR1)
        relatives.output.wait_for("held")
        took = relatives.seconds_until_gone(relatives.kill_host())
        print(f"gone {took:.2f} s after its host")
        assert took < 2.0
        wait_until_gone(watcher)


@pytest.mark.usefixtures("can_be_held")
def test_a_runner_whose_gil_is_held_for_too_long_is_killed_and_the_host_reads_why(tiny_model: Path) -> None:
    with hosted(tiny_model, environment={"MLX_RUNNER_WATCHDOG": "3"}) as running:
        running.send_signal(signal.SIGUSR1)
        assert running.exit_code() == -signal.SIGKILL
        assert running.output.lines[-1] == (
            "Error: a call has held the interpreter for more than 3 s (MLX_RUNNER_WATCHDOG); "
            "the runner was killed"
        )


@linux_only
@pytest.mark.parametrize(("beats", "is_over"), [(b".!", True), (b"!.", False)])
def test_while_a_group_forms_a_call_may_hold_python_for_a_minute_and_no_longer(
    monkeypatch: pytest.MonkeyPatch, beats: bytes, is_over: bool
) -> None:
    (heard, beat), (read, said) = os.pipe(), os.pipe()
    for name, value in {"BEATS": heard, "STDERR": said, "FORMING_S": 0.1}.items():
        monkeypatch.setattr(watcher, name, value)
    os.write(beat, beats)
    if not is_over:
        os.close(beat)  # the runner's end, which ends the watcher quietly
    watcher.watch(runner=0, host=0, silence_s=600.0)
    for end in (heard, said):
        os.close(end)
    with open(read) as lines:
        assert ("held the interpreter for more than 0.1 s" in lines.read()) is is_over


def test_a_load_that_stops_ends_the_runner_and_the_host_reads_why(tiny_model: Path, tmp_path: Path) -> None:
    model = tiny.write(tmp_path / "model")
    arguments = ["runner", "--model", str(model), "--port", "PORT"]
    with (
        held_back(model / "config.json"),
        spawned(*arguments, environment={"MLX_RUNNER_WATCHDOG": "3"}) as running,
    ):
        assert running.exit_code() == WORKER_DIED
    assert is_complaint(running.output.text) == (
        "the MLX thread is stuck: a job came no further for 3 s (MLX_RUNNER_WATCHDOG)"
    )
    assert "in open_model" in running.output.text  # where it is stuck


@linux_only
def test_who_waits_behind_a_load_that_stops_is_told(tiny_model: Path, tmp_path: Path) -> None:
    model = tiny.write(tmp_path / "model")
    with (
        hosted(tiny_model, environment={"MLX_RUNNER_WATCHDOG": "3"}) as running,
        held_back(model / "config.json"),
        ThreadPoolExecutor(1) as pool,
    ):
        load = pool.submit(post, running.port, "/load", json.dumps({"model": str(model)}))
        for _ in range(10):
            running.health()  # the load was asked for before these, and has begun behind them
        with Request(running.port, ask("waits for the load")) as request:
            status, reason = request.refusal()
        assert (status, "is stuck" in reason) == (500, True)
        assert running.exit_code() == WORKER_DIED
        assert load.result()[0] == 0  # no answer


def test_what_is_no_number_of_seconds_is_a_usage_error(tiny_model: Path) -> None:
    with spawned(
        "runner", "--model", str(tiny_model), environment={"MLX_RUNNER_WATCHDOG": "soon"}
    ) as running:
        assert running.exit_code() == 2
        assert "MLX_RUNNER_WATCHDOG=soon: expected seconds" in is_complaint(running.output.text)


def test_the_watcher_ends_with_a_runner_that_is_killed(tiny_model: Path) -> None:
    with hosted(tiny_model) as running:
        watcher = watcher_of(running)
        running.process.kill()
        running.exit_code()
        wait_until_gone(watcher)


def test_the_watcher_ends_with_a_runner_that_ends(tiny_model: Path) -> None:
    with hosted(tiny_model) as running:
        watcher = watcher_of(running)
        stopped(running, signal.SIGTERM, "idle")
        wait_until_gone(watcher)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_for_the_group_is_the_runners_to_obey(slow_model: Path, number: signal.Signals) -> None:
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("whoever started these tests ignores it, as nohup does, and children do likewise")
    arguments = ["runner", "--model", str(slow_model), "--port", "PORT"]
    with spawned(*arguments, new_session=True) as running:
        running.wait_ready()
        watcher = watcher_of(running)
        with Request(running.port, endless()) as request:
            request.started().next_record()
            os.killpg(running.pid, number)
            if number != signal.SIGHUP:
                error = read_stream(request.response.read()).error
                assert error is not None
                assert error["StatusCode"] == 503
        assert running.exit_code(HOST_GRACE_S) == (0 if number != signal.SIGHUP else -number)
        assert "Traceback" not in running.output.text
        wait_until_gone(watcher)


def test_a_runner_without_its_watcher_goes_on_and_leaves_no_zombie(tiny_model: Path) -> None:
    with hosted(tiny_model, environment={"MLX_RUNNER_WATCHDOG": "4"}) as running:
        os.kill(watcher_of(running), signal.SIGKILL)
        running.output.wait_for("is gone; threads watch on")
        assert children(running.pid) == []
        answer = running.health()
        assert answer is not None
        assert answer[0] == 200


@contextlib.contextmanager
def host_as_process_1(model: Path, folder: Path) -> Iterator[int]:
    """The process id, outside, of a host that is process 1 of a namespace of its own; its runner is ready."""
    port = free_port()
    host = [*NAMESPACE, sys.executable, "-S", "-c", HOST, str(folder / "pid"), "inherits"]
    host += [COMMAND, "runner", "--model", str(model), "--port", str(port)]
    with subprocess.Popen(host, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: (ping(port) or (0,))[0] == 200, START_S, "200 on /health")
            (first,) = children(process.pid)
            yield first
        finally:
            process.kill()


@needs_namespaces
def test_the_runner_of_process_1_needs_no_watcher(tiny_model: Path, tmp_path: Path) -> None:
    with host_as_process_1(tiny_model, tmp_path) as host:
        (runner,) = children(host)
        assert children(runner) == []
        os.kill(host, signal.SIGKILL)
        took = wait_until(lambda: not is_alive(runner), EXIT_S, "the runner's end")
        print(f"gone {took:.3f} s after process 1")
