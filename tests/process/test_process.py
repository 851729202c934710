"""The installed command as hosts treat it: how it is started, asked, stopped, killed and orphaned."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from api.process.lifecycle import PARENT_GONE
from tests.parts import tiny
from tests.parts.processes import (
    COMMAND,
    EXIT_S,
    FIRST_PROCESS,
    HOST,
    NAMESPACE,
    START_S,
    Running,
    family,
    free_port,
    has_namespaces,
    held_back,
    hosted,
    is_alive,
    ping,
    spawned,
    wait_until,
)
from tests.parts.streams import PLAIN_TEXT, Request, ask, read_stream

HOST_GRACE_S = 5.0  # a host waits so long after SIGINT before it kills
SIGNALS = [signal.SIGINT, signal.SIGTERM]
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs what only Linux has")
needs_namespaces = pytest.mark.skipif(not has_namespaces(), reason="may not make process namespaces")

# What a host's status writer looks for in our output: these exactly, and those in any spelling.
ALARMS = ["mlx:", "MLX:", "panic:", "fatal error:", "error:", "Error:", "CUDA error", "ROCm error"]
ALARMS += ["cudaMalloc failed", '"ERR"', "error loading model", "GGML_ASSERT"]
MEMORY_ALARMS = ["out of memory", "out of device memory", "cudamalloc failed", "hipmalloc failed"]
MEMORY_ALARMS += ["failed to allocate", "allocation failed", "not enough memory", "insufficient memory"]
MEMORY_ALARMS += ["failed to reserve graph", "vk_error_out_of_device_memory", "erroroutofmemory"]
SLOG = re.compile(
    r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|[+-]\d\d:\d\d) level=(TRACE|DEBUG|INFO|WARN|ERROR)"
    r' source=\w+\.py:\d+( \w+=([^\s"=]+|"([^"\\]|\\.)*"))+'
)


def endless(prompt: str = "x") -> dict[str, object]:
    return ask(prompt, 8000, logit_bias=PLAIN_TEXT)


def is_complaint(output: str) -> str:
    """The reason after `Error: `, if the output is as a host wants it from a runner that cannot start."""
    lines = output.splitlines()
    assert output.endswith("\n")
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:], output
    assert "Traceback" not in output
    assert len(lines[-1].encode()) < 8192
    for line in lines[:-1]:
        assert SLOG.fullmatch(line), line
    return lines[-1].removeprefix("Error: ")


# Starting.


@pytest.mark.parametrize(
    "arguments",
    [
        ["runner", "--mlx-engine", "--model", "MODEL", "--port", "PORT"],
        ["runner", "--model", "MODEL", "--port", "PORT"],
        ["runner", "-model=MODEL", "-port=PORT", "-verbose=true"],
        ["--model", "MODEL", "--port", "PORT"],
    ],
    ids=["before v0.34.3", "v0.34.3", "Go's other spelling", "a person"],
)
def test_every_caller_can_start_it(tiny_model: Path, arguments: list[str]) -> None:
    spelled = [argument.replace("MODEL", str(tiny_model)) for argument in arguments]
    with spawned(*spelled) as running:
        running.wait_ready()
        with Request(running.port, ask("hello", 3)) as request:
            assert request.answer().terminal["EvalCount"] == 3
        said = "is ready" in running.output.text
        assert said == (arguments[0] != "runner")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--unknown"],
        ["runner", "--model", "m", "--unknown", "1"],
        ["runner", "--port", "1"],
        ["runner", "--model", "m", "--port", "x"],
        ["--port", "70000"],
        ["serve"],
    ],
)
def test_a_wrong_command_line_explains_the_right_one(arguments: list[str]) -> None:
    done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("usage: mlx-runner")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["runner", "--help"]])
def test_help_and_version_go_to_stdout(arguments: list[str]) -> None:
    done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (0, "")
    assert "mlx-runner" in done.stdout


@linux_only
def test_pings_say_503_until_the_model_is_loaded(tmp_path: Path) -> None:
    model = tiny.write(tmp_path / "model")
    arguments = ["runner", "--model", str(model), "--port", "PORT"]
    with held_back(model / "config.json") as release, spawned(*arguments) as running:
        wait_until(lambda: running.health() is not None, START_S, "an answer while it loads")
        not_yet = {"status": 1, "progress": 0, "ContextLength": 0, "Memory": 0, "model": ""}
        assert [running.health() for _ in range(20)] == [(503, not_yet)] * 20
        assert post(running.port, "/completion", json.dumps(ask("early"))) == (503, b"model not loaded\n")
        assert post(running.port, "/v1/tokenize", "early")[0] == 503
        release()
        running.wait_ready()
        answer = running.health()
        assert answer is not None
        assert (answer[1]["status"], answer[1]["progress"], answer[1]["ContextLength"]) == (0, 100, 512)


@linux_only
def test_the_old_model_answers_pings_until_the_new_one_is_there(tiny_model: Path, tmp_path: Path) -> None:
    model = tiny.write(tmp_path / "new")
    with (
        hosted(tiny_model) as running,
        ThreadPoolExecutor(1) as pool,
        held_back(model / "config.json") as release,
    ):
        load = pool.submit(post, running.port, "/load", json.dumps({"model": str(model)}))
        with Request(running.port, ask("waits for the load")) as request:
            answer = running.health()
            assert answer is not None
            assert (answer[0], answer[1]["model"]) == (200, "tiny")
            release()
            assert load.result() == (200, b'{"Success":true}\n')
            request.answer()
        answer = running.health()
        assert answer is not None
        assert (answer[0], answer[1]["model"]) == (200, "new")


def test_a_taken_port_ends_it_before_anything_is_loaded(tiny_model: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with spawned("runner", "--model", str(tiny_model), "--port", "PORT", port=port) as running:
            assert running.exit_code() == 3
        assert is_complaint(running.output.text) == f"listen tcp 127.0.0.1:{port}: address already in use"
        assert "MLX ready" not in running.output.text


def test_of_two_that_start_on_one_port_one_serves_and_one_says_so(tiny_model: Path) -> None:
    port = free_port()
    arguments = ["runner", "--model", str(tiny_model), "--port", "PORT"]
    with spawned(*arguments, port=port) as one, spawned(*arguments, port=port) as two:
        wait_until(lambda: ended(one) or ended(two), START_S, "one of the two to end")
        loser, winner = (one, two) if ended(one) else (two, one)
        assert loser.exit_code() == 3
        assert "address already in use" in is_complaint(loser.output.text)
        winner.wait_ready()


def ended(running: Running) -> bool:
    return running.process.poll() is not None


def test_a_port_is_free_again_right_after_a_kill(tiny_model: Path) -> None:
    with hosted(tiny_model) as first, Request(first.port, endless()) as request:
        request.started()
        first.process.kill()
        first.exit_code()
        with spawned("runner", "--model", str(tiny_model), "--port", "PORT", port=first.port) as second:
            second.wait_ready()


def a_missing_directory(folder: Path) -> None:
    shutil.rmtree(folder)


def a_config_that_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"architectures": [')


def a_config_that_is_a_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def an_unknown_architecture(folder: Path) -> None:
    config = tiny.CONFIG | {"architectures": ["Nothing\nError: nothing\x1b[31m"]}
    (folder / "config.json").write_text(json.dumps(config))


def an_endless_architecture(folder: Path) -> None:
    config = tiny.CONFIG | {"architectures": ["日" * 100_000]}
    (folder / "config.json").write_text(json.dumps(config))


def truncated_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def missing_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def weights_that_are_a_pipe(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def a_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Nothing"}}')


@pytest.mark.parametrize(
    "damage",
    [
        a_missing_directory,
        a_config_that_is_no_json,
        a_config_that_is_a_list,
        an_unknown_architecture,
        an_endless_architecture,
        truncated_weights,
        missing_weights,
        weights_that_are_a_pipe,
        a_broken_tokenizer,
    ],
)
def test_a_model_that_cannot_be_loaded_is_one_last_line(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    folder = tiny.write(tmp_path / "model")
    damage(folder)
    with spawned("runner", "--model", str(folder), "--port", "PORT") as running:
        assert running.exit_code(START_S) == 4
    assert is_complaint(running.output.text)


# Stopping.


def is_farewell(request: Request) -> None:
    """The open stream ended with a last record that says why."""
    answer = read_stream(request.response.read())
    assert answer.error is not None
    assert answer.error["StatusCode"] == 503
    assert answer.error["error"] == "the runner is shutting down"


def stopped(running: Running, number: signal.Signals, state: str) -> None:
    """Send the signal; the process must be gone, tidily, before a host would lose patience."""
    sent = running.send_signal(number)
    assert running.exit_code() == 0
    took = time.monotonic() - sent
    print(f"{number.name} while {state}: gone after {took:.2f} s")
    assert took < HOST_GRACE_S
    assert "Error:" not in running.output.text


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_an_idle_runner(tiny_model: Path, number: signal.Signals) -> None:
    with hosted(tiny_model) as running:
        stopped(running, number, "idle")


@linux_only
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_runner_that_loads(tmp_path: Path, number: signal.Signals) -> None:
    model = tiny.write(tmp_path / "model")
    arguments = ["runner", "--model", str(model), "--port", "PORT"]
    with held_back(model / "config.json"), spawned(*arguments) as running:
        wait_until(lambda: running.health() is not None, START_S, "an answer while it loads")
        stopped(running, number, "loading")


@linux_only
def test_a_signal_ends_a_runner_whose_server_is_not_there_yet(tmp_path: Path) -> None:
    model = tiny.write(tmp_path / "model")
    arguments = ["runner", "--model", str(model), "--port", "PORT"]
    with held_back(model / "config.json"), spawned(*arguments) as running:
        running.output.wait_for("MLX ready")
        stopped(running, signal.SIGINT, "starting")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_decode_tells_the_stream_and_the_queue(slow_model: Path, number: signal.Signals) -> None:
    with hosted(slow_model) as running, Request(running.port, endless()) as open_stream:
        open_stream.started().next_record()
        with Request(running.port, endless("queued")) as queued, ThreadPoolExecutor(1) as pool:
            load = pool.submit(post, running.port, "/load", json.dumps({"model": str(slow_model)}))
            running.health()
            stopped(running, number, "decoding, one queued")
            is_farewell(open_stream)
            assert queued.refusal() == (503, "the runner is shutting down")
            assert load.result()[0] in (0, 503)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_prefill_does_not_wait_for_it(slow_model: Path, number: signal.Signals) -> None:
    with hosted(slow_model) as running, Request(running.port, ask("x" * 8000, 1)) as open_stream:
        open_stream.started()
        running.output.wait_for("processed=256")
        stopped(running, number, "in prefill")
        is_farewell(open_stream)


def test_a_second_signal_ends_it_at_once(slow_model: Path) -> None:
    with hosted(slow_model) as running, Request(running.port, ask("x" * 8000, 1)) as open_stream:
        open_stream.started()
        running.send_signal(signal.SIGINT)
        running.output.wait_for("Stopping")
        stopped(running, signal.SIGINT, "stopping")


def test_a_signal_is_obeyed_although_a_client_does_not_read(slow_model: Path) -> None:
    body = endless() | {"logprobs": True, "top_logprobs": 20}
    with hosted(slow_model) as running, Request(running.port, body) as sleeper:
        sleeper.started()
        running.health()
        stopped(running, signal.SIGINT, "serving a client that does not read")


def post(port: int, path: str, body: str) -> tuple[int, bytes]:
    """Status and body; status 0 if the connection was closed without an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (ConnectionError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


# Losing the host.


def orphaned(model: Path, folder: Path, state: str) -> float:
    """Seconds between the host's SIGKILL and the end of its runner, which is in this state then."""
    with family(model, folder) as relatives, contextlib.ExitStack() as stack:
        if state != "starting":
            wait_until(relatives.is_ready, START_S, "200 on /health")
        if state == "decoding":
            stack.enter_context(Request(relatives.port, endless())).started().next_record()
        if state == "prefilling":
            stack.enter_context(Request(relatives.port, ask("x" * 8000, 1))).started()
        assert is_alive(relatives.runner_pid)
        took = relatives.seconds_until_gone(relatives.kill_host())
        assert relatives.output.closed.wait(EXIT_S)
        assert not relatives.is_ready()
    return took


@pytest.mark.parametrize("state", ["starting", "idle", "decoding"])
def test_a_runner_ends_with_the_host_that_is_killed(slow_model: Path, tmp_path: Path, state: str) -> None:
    took = orphaned(slow_model, tmp_path, state)
    print(f"{state}: gone {took:.2f} s after its host")
    assert took < 2.0


@pytest.mark.slow
def test_twenty_of_twenty_runners_end_with_their_hosts(slow_model: Path, tmp_path: Path) -> None:
    states = ["starting", "idle", "decoding", "prefilling"] * 5
    took = sorted(orphaned(slow_model, tmp_path, state) for state in states)
    print(
        f"20 hosts killed, runner gone after {took[0]:.2f} to {took[-1]:.2f} s, {statistics.median(took):.2f}"
    )
    assert took[-1] < 2.0


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


# Too many of everything.


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


# Being heard.


def check_output(text: str) -> None:
    assert text.endswith("\n")
    for line in text.splitlines():
        assert SLOG.fullmatch(line), line
        assert len(line.encode()) < 65_535
        assert not [alarm for alarm in ALARMS if alarm in line], line
        assert not [alarm for alarm in MEMORY_ALARMS if alarm in line.lower()], line


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


# Pings while the machine is busy.


def pinged(port: int, busy: list[bool]) -> list[float]:
    """Seconds per ping, on a kept connection, one after another while `busy` is not empty."""
    took = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while busy:
        asked = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        took.append(time.perf_counter() - asked)
        time.sleep(0.005)
    connection.close()
    return took


def summary(took: list[float]) -> str:
    worst = sorted(took)[-1]
    return f"{len(took)} pings, median {statistics.median(took) * 1e3:.1f} ms, worst {worst * 1e3:.1f} ms"


def test_pings_are_answered_all_through_a_long_prefill(slow_model: Path) -> None:
    with hosted(slow_model) as running, ThreadPoolExecutor(1) as pool:
        busy = [True]
        with Request(running.port, ask("x" * 4096, 1)) as request:
            request.started()
            pings = pool.submit(pinged, running.port, busy)
            request.response.read()
            busy.clear()
        took = pings.result()
    print(f"prefill of 4,096 tokens: {summary(took)}")
    assert len(took) > 20
    assert statistics.median(took) < 0.05


@pytest.mark.slow
def test_pings_are_answered_all_through_a_load(tiny_model: Path, big_model: Path) -> None:
    with hosted(tiny_model) as running, ThreadPoolExecutor(1) as pool:
        busy = [True]
        pings = pool.submit(pinged, running.port, busy)
        assert post(running.port, "/load", json.dumps({"model": str(big_model)}))[0] == 200
        busy.clear()
        took = pings.result()
    print(f"load of a gigabyte: {summary(took)}")
    assert len(took) > 5
    assert statistics.median(took) < 0.05
