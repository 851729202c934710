"""How a real Ollama starts, watches, cancels and ends our runner, and what is left when either is killed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.parts.hosts import SCRIPTS, START_S, Host, Refused, serving
from tests.parts.processes import is_alive, wait_until

LONG = {"temperature": 0, "num_predict": 8000}  # a minute of the model `endless`
SHORT = {"temperature": 0, "num_predict": 2}
PROMPT_S = 3.0  # what a request takes that waits for nobody; a long one takes many times as much
PS_S = 0.5
GRACE_S = 2.0  # a host that asks a runner to end kills it after 5
CONTEXT = 8192


def starts(records: Iterator[dict[str, Any]], count: int = 3) -> None:
    """Waits until a text is under way."""
    for _ in range(count):
        assert not next(records)["done"]


def seconds(started: float) -> float:
    return time.monotonic() - started


# Cancelling.


def test_a_client_that_leaves_makes_room_for_the_next(host: Host) -> None:
    host.generate("x", "endless", options=SHORT)
    with host.stream("/api/generate", model="endless", prompt="hello", options=LONG) as records:
        starts(records)
    started = time.monotonic()
    assert host.generate("y", "endless", options=SHORT)["eval_count"] == 2
    assert seconds(started) < PROMPT_S


def test_a_client_that_leaves_while_its_prompt_is_read_makes_room(host: Host) -> None:
    host.generate("x", "endless", options=SHORT)
    with ThreadPoolExecutor(1) as pool:

        def hang_up() -> None:
            with pytest.raises(TimeoutError), host.stream("/api/generate", timeout_s=0.3, **body):
                pass

        body = {"model": "endless", "prompt": "abcdefg " * 1000, "options": {**LONG, "num_ctx": CONTEXT}}
        pool.submit(hang_up).result()
    started = time.monotonic()
    assert host.generate("y", "endless", options=SHORT)["eval_count"] == 2
    assert seconds(started) < PROMPT_S


def test_clients_that_leave_while_they_wait_are_forgotten(host: Host) -> None:
    host.generate("x", "endless", options=SHORT)

    def hang_up(number: int) -> None:
        prompt = f"{number} waits"
        with (
            pytest.raises(TimeoutError),
            host.stream("/api/generate", timeout_s=0.5, model="endless", prompt=prompt, options=LONG),
        ):
            pass

    with host.stream("/api/generate", model="endless", prompt="hello", options=LONG) as records:
        starts(records)
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(hang_up, range(6)))
        starts(records)
    started = time.monotonic()
    assert host.generate("y", "endless", options=SHORT)["eval_count"] == 2
    assert seconds(started) < PROMPT_S


# Being looked at.


def test_ps_answers_at_once_during_a_generation_and_tells_the_truth(host: Host) -> None:
    host.unload()
    weights = _weights(host)
    # The context that is asked for at load is what a new host shows, unless the model has less.
    host.generate("x", "endless", options=SHORT | {"num_ctx": 100_000})
    with host.stream("/api/generate", model="endless", prompt="hello", options=LONG) as records:
        starts(records)
        waits = []
        for _ in range(20):
            started = time.monotonic()
            (shown,) = host.get("/api/ps")["models"]
            waits.append(seconds(started))
            next(records)
        assert max(waits) < PS_S
        assert shown["name"] == "endless:latest"
        assert shown["size"] == shown["size_vram"] >= weights
    if host.is_since("v0.21.1"):
        assert shown["context_length"] == CONTEXT
        wait_until(lambda: _shown_size(host) == host.runner_memory(), START_S, "the runner's memory in ps")


def _seconds_until_gone(pid: int) -> float:
    return wait_until(lambda: not is_alive(pid), START_S, "the runner's end")


def _weights(host: Host) -> int:
    (model,) = (model for model in host.get("/api/tags")["models"] if model["name"] == "endless:latest")
    assert isinstance(model["size"], int)
    return int(0.9 * model["size"])  # which counts the tokenizer too


def _shown_size(host: Host) -> int:
    (shown,) = host.get("/api/ps")["models"]
    assert isinstance(shown["size"], int)
    return shown["size"]


# Ends.


def test_keep_alive_0_ends_the_runner_and_the_next_request_starts_one(host: Host) -> None:
    host.unload()
    host.generate("Hello!", options=SHORT)
    first = host.runner()
    host.ask("/api/generate", model="demo", keep_alive=0)
    assert _seconds_until_gone(first) < GRACE_S
    wait_until(lambda: not host.get("/api/ps")["models"], START_S, "an empty ps")
    assert host.generate("Hello!", options=SHORT)["eval_count"] == 2
    assert host.runner() != first


def test_stop_on_the_command_line_ends_the_runner(host: Host) -> None:
    host.unload()
    host.generate("Hello!", options=SHORT)
    runner = host.runner()
    host.command("stop", "demo")
    assert _seconds_until_gone(runner) < GRACE_S


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_host_that_is_asked_to_end_takes_its_runner_along(
    program: Path, store: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with serving(program, store, tmp_path) as host:
        host.generate("x", "endless", options=SHORT)
        runner = host.runner()
        with host.stream("/api/generate", model="endless", prompt="x", options=LONG) as records:
            starts(records)
            host.process.send_signal(number)
            assert _seconds_until_gone(runner) < GRACE_S
        assert host.process.wait(START_S) == 0


def test_two_models_have_a_runner_each(host: Host) -> None:
    host.unload()
    for model in ("demo", "endless"):
        host.generate("Hello!", model, options=SHORT)
    assert len(host.runners()) == 2
    host.unload()


@pytest.mark.parametrize(
    ("model", "reason"), [("strange", "StrangeForCausalLM"), ("torn", "296 bytes, the manifest says 304")]
)
def test_why_a_model_does_not_load_reaches_the_user(host: Host, model: str, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        host.generate("Hello!", model, options=SHORT)
    assert refused.value.status == 500
    assert reason in refused.value.error, refused.value.error
    assert "Traceback" not in refused.value.error
    assert "time=" not in refused.value.error, refused.value.error
    assert host.generate("Hello!", options=SHORT)["eval_count"] == 2


def test_a_runner_that_is_not_there_is_named(program: Path, store: Path, tmp_path: Path) -> None:
    with serving(program, store, tmp_path, runner="no-such-runner") as host:
        with pytest.raises(Refused) as refused:
            host.generate("Hello!", options=SHORT)
        assert 'mlx-runner cannot be started (OLLAMA_MLX_RUNNER="no-such-runner")' in refused.value.error


def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(host: Host) -> None:
    body = {"raw": True, "options": SHORT}
    with pytest.raises(Refused) as refused:
        host.generate("abcdefg " * 1100, "endless", **body)
    assert "maximum context length (8192 tokens)" in refused.value.error
    if host.is_since("v0.21.1"):
        assert refused.value.status == 400


def test_a_runner_that_is_killed_idle_is_replaced(host: Host) -> None:
    host.unload()
    for _ in range(3):
        host.generate("Hello!", options=SHORT)
        os.kill(host.runner(), signal.SIGKILL)
        assert host.generate("Hello!", options=SHORT)["eval_count"] == 2


def test_a_runner_that_is_killed_at_work_is_replaced(host: Host) -> None:
    host.unload()
    host.generate("x", "endless", options=SHORT)
    with host.stream("/api/generate", model="endless", prompt="hello", options=LONG) as records:
        starts(records)
        os.kill(host.runner(), signal.SIGKILL)
        last = list(records)[-1]
    assert last.get("error") or not last["done"], last
    assert host.generate("y", "endless", options=SHORT)["eval_count"] == 2


@pytest.mark.parametrize("at_work", [False, True], ids=["idle", "at work"])
def test_a_killed_host_leaves_no_runner_five_times_of_five(
    program: Path, store: Path, tmp_path: Path, at_work: bool
) -> None:
    waits = []
    for _ in range(5):
        with serving(program, store, tmp_path) as host:
            host.generate("x", "endless", options=SHORT)
            runner = host.runner()
            if at_work:
                with host.stream("/api/generate", model="endless", prompt="x", options=LONG) as records:
                    starts(records)
                    host.process.kill()
            else:
                host.process.kill()
            waits.append(_seconds_until_gone(runner))
    print(f"the runner was gone after {min(waits):.3f} to {max(waits):.3f} s")
    assert max(waits) < 2


# scripts/host.


def test_the_script_starts_a_host_says_how_to_talk_to_it_and_takes_it_along(program: Path) -> None:
    version = program.parent.parent.name
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OLLAMA_")}
    with subprocess.Popen(
        [SCRIPTS / "host", version],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as script:
        assert script.stdout is not None
        try:
            printed = ""
            while "log: " not in printed:
                line = script.stdout.readline()
                assert line, printed
                printed += line
            port = int(
                re.findall(rf"ollama {version} with mlx-runner .* at http://127.0.0.1:(\d+)", printed)[0]
            )
            command = re.findall(r"^  (/.*ollama) run (demo) \"(.*)\"$", printed, re.MULTILINE)[0]
            assert command[0] == str(program)
            said = subprocess.run(
                [command[0], "run", *command[1:]],
                env=environment | {"OLLAMA_HOST": f"127.0.0.1:{port}"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=START_S,
            )
            assert said.stdout.strip() == "7 plus 5 is 12."
            script.terminate()
            assert script.wait(START_S) == 143
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
            assert script.stdout.read() == ""  # nobody holds it any more
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(script.pid, signal.SIGKILL)
