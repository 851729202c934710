"""The installed command as hosts and people start it."""

from __future__ import annotations

import json
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.parts import tiny
from tests.parts.log_lines import is_complaint
from tests.parts.processes import (
    COMMAND,
    START_S,
    Running,
    free_port,
    held_back,
    hosted,
    linux_only,
    spawned,
    wait_until,
)
from tests.parts.streams import Request, ask, endless, post


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
        not_yet = {
            "status": 1,
            "progress": 0,
            "ContextLength": 0,
            "Memory": 0,
            "model": "",
            "slots": [],
            "kv_type": "f16",
        }
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
