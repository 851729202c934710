"""Steps that fail in a runner process, as MLX would say it, and a thread that dies or does not come back."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest

from api.process.lifecycle import DEVICE_LOST, WORKER_DIED
from runner.machine.device import PREFILL_CHUNK
from tests.parts import tiny
from tests.parts.aftermath import Calm
from tests.parts.injected import Gate, fault, faulty
from tests.parts.kinds import LONG, MODELS
from tests.parts.processes import HOST_GRACE_S, Running, hosted, linux_only
from tests.parts.streams import PLAIN_TEXT, Answer, Request, ask, read_stream

pytestmark = linux_only
CHUNK = PREFILL_CHUNK["cpu"]
FAILED = "[Event::wait] An operation failed: injected"
LOST = "[METAL] Command buffer execution failed: injected"
SHORT = "out of memory: [malloc] Unable to allocate 99 bytes, injected"


@pytest.fixture(scope="module", params=["plain", "rotating", "recurrent", "zoo"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, Calm]]:
    model = MODELS[request.param](tmp_path_factory.mktemp("models") / request.param)
    with faulty(model, slots=2) as running:
        yield running, Calm.of(running)


def answer(running: Running, prompt: str, tokens: int = 12) -> Answer:
    with Request(running.port, ask(prompt, tokens, logit_bias=PLAIN_TEXT)) as request:
        return request.answer()


@pytest.mark.parametrize(("where", "number"), [("prefill", 1), ("decode", 1), ("decode", 5)])
def test_a_step_that_fails_is_one_error_and_the_next_answer_is_right(
    pair: tuple[Running, Calm], where: str, number: int
) -> None:
    """Row 41. What the slot held is forgotten with it."""
    running, calm = pair
    prompt = f"{where} {number} fails " * (2 * CHUNK // 16)
    ended = answer(running, prompt + fault(where, number, "error"))
    assert ended.error is not None
    assert (ended.error["StatusCode"], ended.error["error"]) == (500, FAILED)
    again = answer(running, prompt)
    calm.check(running)
    assert answer(running, prompt).text == again.text


def test_a_step_that_runs_out_of_memory_is_taken_once_more(pair: tuple[Running, Calm]) -> None:
    """Row 42. The second time it is an error that hosts know, and the runner goes on."""
    running, calm = pair
    prompt = "memory is short " * 4
    whole = answer(running, prompt + fault("decode", 1000, "memory"))
    assert whole.error is None
    calm.check(running)
    once = answer(running, prompt + fault("decode", 3, "memory"))
    assert once.error is None
    calm.check(running)


def test_memory_that_does_not_come_back_ends_the_runner(tiny_model: Path) -> None:
    """Row 42, behind three requests in a row."""
    with faulty(tiny_model, environment={"INJECT_AGAIN": "1"}) as running:
        for _ in range(3):
            with contextlib.suppress(AssertionError, OSError):
                assert SHORT in str(answer(running, "short " + fault("decode", 2, "memory")).error)
        assert running.exit_code() == DEVICE_LOST
    assert "Error: 3 times in a row: " in running.output.text


@pytest.mark.parametrize("where", ["prefill", "decode"])
def test_a_gpu_that_fails_is_one_error_and_the_end_of_the_runner(tiny_model: Path, where: str) -> None:
    """Row 43, said as MLX says it."""
    with faulty(tiny_model) as running:
        ended = answer(running, "lost " * 60 + fault(where, 1, "device"))
        assert ended.error is not None
        assert (ended.error["StatusCode"], ended.error["error"]) == (500, LOST)
        assert running.exit_code() == DEVICE_LOST
    assert running.output.lines[-1] == f"Error: the GPU failed: {LOST}"


@pytest.mark.parametrize("slots", [1, 3])
def test_a_thread_that_dies_tells_everybody_and_ends_the_runner(
    tiny_model: Path, slots: int, tmp_path: Path
) -> None:
    """Row 49: who is answered, who waits, and the host."""
    with faulty(tiny_model, slots=slots) as running, contextlib.ExitStack() as stack:
        gate = Gate(tmp_path / "gate")
        first = stack.enter_context(Request(running.port, ask("waits " + gate.at("decode", 2), 50)))
        stack.enter_context(gate)
        dying = stack.enter_context(Request(running.port, ask("dies " + fault("decode", 2, "death"))))
        waiting = [stack.enter_context(Request(running.port, ask(f"waits {i}"))) for i in range(4)]
        running.health()
        gate.open()
        began = time.monotonic()
        for request in (first, dying, *waiting):
            body = request.response.read()
            if request.response.status == 200:
                ended = read_stream(body)
                assert ended.error is None or "the MLX thread died" in ended.error["error"]
            else:
                assert (request.response.status, b"the MLX thread died" in body) == (500, True)
        assert running.exit_code() == WORKER_DIED
        print(f"gone {time.monotonic() - began:.2f} s after the thread was free to die")
    assert running.output.lines[-1].startswith("Error: the MLX thread died: Death: injected")


def test_a_signal_ends_a_runner_whose_step_does_not_come_back(tiny_model: Path, tmp_path: Path) -> None:
    """Row 9. Nobody opens the gate."""
    gate = Gate(tmp_path / "gate")
    with (
        faulty(tiny_model) as running,
        Request(running.port, ask("hangs " + gate.at("decode", 2))) as request,
    ):
        with gate:
            request.started()
            sent = running.send_signal(signal.SIGINT)
            assert running.exit_code() == 0
            assert time.monotonic() - sent < HOST_GRACE_S
        assert read_stream(request.response.read()).error is not None


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_an_error_at_the_first_request(tmp_path: Path, number: float) -> None:
    """Row 18."""
    folder = tiny.write(tmp_path / "model", **LONG)
    path = str(folder / "model.safetensors")
    weights = mx.load(path)
    assert isinstance(weights, dict)
    name = "model.layers.1.mlp.down_proj.weight"
    mx.save_safetensors(path, {**weights, name: weights[name] * number})
    with hosted(folder) as running:
        for _ in range(2):
            ended = answer(running, "hello")
            assert ended.error is not None
            assert "finite" in ended.error["error"]
        assert running.health() is not None
