"""Signals: whatever the runner is doing, it ends tidily before a host would lose patience."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.parts import tiny
from tests.parts.processes import START_S, held_back, hosted, linux_only, spawned, stopped, wait_until
from tests.parts.streams import Request, ask, endless, post, read_stream

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def is_farewell(request: Request) -> None:
    """The open stream ended with a last record that says why."""
    answer = read_stream(request.response.read())
    assert answer.error is not None
    assert answer.error["StatusCode"] == 503
    assert answer.error["error"] == "the runner is shutting down"


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


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_it_at_once(slow_model: Path, number: signal.Signals) -> None:
    with hosted(slow_model) as running, Request(running.port, ask("x" * 8000, 1)) as open_stream:
        open_stream.started()
        running.send_signal(signal.SIGINT)
        running.output.wait_for("Stopping")
        stopped(running, number, "stopping", code=128 + number)


@pytest.mark.parametrize(("command", "code"), [("runner", 0), ("import", 128)])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_the_first_modules_are_imported_ends_it_without_a_word(
    tmp_path: Path, number: signal.Signals, command: str, code: int
) -> None:
    """The module of this name, which asyncio imports, takes its time."""
    (tmp_path / "fcntl.py").write_text("import os, time\nos.write(2, b'importing')\ntime.sleep(60)\n")
    with spawned(command, "--model", "demo", environment={"PYTHONPATH": str(tmp_path)}) as running:
        running.output.wait_for("importing")
        stopped(running, number, "importing", code and code + number)
        assert running.output.text == "importing"


def test_a_signal_is_obeyed_although_a_client_does_not_read(slow_model: Path) -> None:
    body = endless() | {"logprobs": True, "top_logprobs": 20}
    with hosted(slow_model) as running, Request(running.port, body) as sleeper:
        sleeper.started()
        running.health()
        stopped(running, signal.SIGINT, "serving a client that does not read")
