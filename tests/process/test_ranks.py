"""Several processes with one model, over sockets: they answer as one, and live and die as one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.parts import tiny
from tests.parts.injected import fault, faulty
from tests.parts.processes import (
    EXIT_S,
    START_S,
    Running,
    children,
    free_port,
    held_back,
    hosted,
    is_alive,
    linux_only,
    spawned,
    wait_until,
)
from tests.parts.streams import Answer, Request, ask, endless, read_stream

pytestmark = linux_only
CONFIG: dict[str, Any] = {"num_key_value_heads": 6, "max_position_embeddings": 8192}
PROMPT = "a long prompt, of several chunks. " * 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("models") / "tiny", **CONFIG)


@contextlib.contextmanager
def group(model: Path, size: int) -> Iterator[tuple[Running, list[int]]]:
    """Rank 0, ready to answer, and the process ids of those that follow. None of them outlives it."""
    arguments = ["--model", str(model), "--port", "PORT", "--tensor-parallel", str(size), "--parallel", "2"]
    with spawned("runner", *arguments) as running:
        running.wait_ready()
        others = followers(running)
        assert len(others) == size - 1
        yield running, others
        running.process.kill()
    wait_until(lambda: not any(map(is_alive, others)), EXIT_S, "the end of all")


def followers(running: Running) -> list[int]:
    return [pid for pid in children(running.pid) if b"follow" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def logprobs(answer: Answer) -> list[float]:
    return [one["logprob"] for record in answer.records for one in record.get("Logprobs", [])]


def asked(port: int, body: dict[str, Any]) -> Answer:
    with Request(port, body) as request:
        return request.answer()


@pytest.mark.parametrize("size", [2, 3])
def test_two_clients_at_once_get_of_several_processes_what_one_gives(model: Path, size: int) -> None:
    bodies = [ask(text, 6) | {"logprobs": True, "top_logprobs": 3} for text in (PROMPT, "and a short one")]
    with hosted(model) as alone:
        expected = [asked(alone.port, body) for body in bodies]
    with group(model, size) as (running, _), ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda body: asked(running.port, body), bodies))
        assert "rank=1" in running.output.text
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.text == theirs.text
        assert logprobs(ours) == pytest.approx(logprobs(theirs), abs=1e-4)
        assert len(logprobs(ours)) == 6


def is_lost(running: Running, stream: Request, reason: str) -> None:
    """The open answer was told, the log says why, the exit code is that of a lost rank."""
    answer = read_stream(stream.response.read())
    assert answer.error is not None
    assert reason in answer.error["error"]
    assert running.exit_code() == 8
    errors = [line for line in running.output.lines if line.startswith("Error:")]
    assert errors == [f"Error: {answer.error['error']}"]


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_who_is_killed_takes_all_with_it_and_open_answers_are_told(model: Path, phase: str) -> None:
    body = endless() if phase == "decode" else ask("x" * 8000, 1)
    with group(model, 2) as (running, [other]), Request(running.port, body) as stream:
        stream.started()
        if phase == "decode":
            stream.next_record()
        os.kill(other, signal.SIGKILL)
        is_lost(running, stream, "rank 1 of 2 is lost: it was ended by SIGKILL")


@pytest.mark.parametrize(("where", "what"), [("prefill", "error"), ("decode", "memory")])
def test_a_step_that_fails_ends_all(model: Path, where: str, what: str) -> None:
    """The others wait for its part of a sum, so it cannot be taken once more."""
    prompt = PROMPT + fault(where, 1, what)
    with faulty(model, "--tensor-parallel", "2") as running, Request(running.port, ask(prompt)) as stream:
        [other] = followers(running)
        stream.started()
        is_lost(running, stream, "injected")
        wait_until(lambda: not is_alive(other), EXIT_S, "the end of all")


ARGUMENTS = ("--port", "PORT", "--tensor-parallel", "2")


def test_who_is_killed_before_there_is_a_group_takes_all_with_it(model: Path) -> None:
    with spawned("runner", "--model", str(model), *ARGUMENTS) as running:
        wait_until(lambda: bool(followers(running)), START_S, "a process that follows")
        os.kill(followers(running)[0], signal.SIGKILL)
        assert running.exit_code() == 8
        assert "Error: rank 1 of 2 is lost: it was ended by SIGKILL" in running.output.text


@pytest.mark.parametrize("rank", [0, 1])
def test_who_is_killed_while_all_load_takes_all_with_it(tmp_path: Path, rank: int) -> None:
    model = tiny.write(tmp_path / "model", **CONFIG)
    with held_back(model / "config.json"), spawned("runner", "--model", str(model), *ARGUMENTS) as running:
        running.output.wait_for("Ranks joined")
        [other] = followers(running)
        os.kill(other if rank else running.pid, signal.SIGKILL)
        assert running.exit_code() == (8 if rank else -signal.SIGKILL)
        wait_until(lambda: not is_alive(other), EXIT_S, "the end of all")


@pytest.mark.parametrize(("hang", "prompt"), [("feed:2", "x" * 2000), ("drawn:9", "x")])
def test_who_lives_and_never_does_its_part_takes_all_with_it(model: Path, hang: str, prompt: str) -> None:
    said = {"INJECT_RANK": f"2:{hang}"}
    with (
        faulty(model, "--tensor-parallel", "3", environment=said) as running,
        Request(running.port, ask(prompt, 400)) as stream,
    ):
        others = followers(running)
        stream.started()
        is_lost(running, stream, "rank 2 of 3 is lost: it computes nothing, and all have waited for it for")
        wait_until(lambda: not any(map(is_alive, others)), EXIT_S, "the end of all")


@pytest.mark.slow
def test_who_stands_still_takes_all_with_it(model: Path) -> None:
    with group(model, 2) as (running, [other]), Request(running.port, endless()) as stream:
        stream.started().next_record()
        os.kill(other, signal.SIGSTOP)
        is_lost(running, stream, "rank 1 of 2 is lost: it has said nothing for 4 s")


def test_an_idle_group_is_lost_with_one_of_it(model: Path) -> None:
    with group(model, 3) as (running, others):
        os.kill(others[1], signal.SIGKILL)
        assert running.exit_code() == 8
        assert "Error: rank 2 of 3 is lost: it was ended by SIGKILL" in running.output.text


@pytest.mark.parametrize("phase", ["idle", "decode"])
def test_without_rank_0_all_are_gone(model: Path, phase: str) -> None:
    with group(model, 3) as (running, others), Request(running.port, endless()) as stream:
        if phase == "decode":
            stream.started().next_record()
        running.process.kill()
        killed = time.monotonic()
        wait_until(lambda: not any(map(is_alive, others)), EXIT_S, "the end of all")
        print(f"gone after {time.monotonic() - killed:.2f} s")
        assert running.output.closed.wait(EXIT_S)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_ends_all_tidily(model: Path, number: signal.Signals) -> None:
    with group(model, 2) as (running, [other]), Request(running.port, endless()) as stream:
        stream.started().next_record()
        os.kill(other, number)
        running.send_signal(number)
        assert running.exit_code() == 0
        answer = read_stream(stream.response.read())
        assert answer.error is not None
        assert answer.error["error"] == "the runner is shutting down"
        assert "Error:" not in running.output.text


def test_a_model_that_cannot_be_divided_is_one_error(tmp_path: Path) -> None:
    model = tiny.write(tmp_path / "model", num_attention_heads=3, num_key_value_heads=3)
    said = {"MLX_RUNNER_TENSOR_PARALLEL": "2"}
    with spawned("runner", "--model", str(model), "--port", "PORT", environment=said) as running:
        assert running.exit_code(60.0) == 4
        errors = [line for line in running.output.lines if "Error:" in line]
        assert errors == ["Error: --tensor-parallel 2: the model has 3 heads, which 2 does not divide"]


@contextlib.contextmanager
def launched(model: Path, hostfile: Path, said: str = "2") -> Iterator[list[Running]]:
    """Two processes by the same command, as a launcher on two machines starts them."""
    hostfile.write_text(json.dumps([[f"127.0.0.1:{free_port()}"] for _ in range(2)]))
    arguments = ["--model", str(model), "--port", "PORT", "--tensor-parallel", said]
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                spawned(*arguments, environment={"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hostfile)})
            )
            for rank in range(2)
        ]


def test_processes_that_a_launcher_started_answer_through_the_first_and_end_with_one(
    model: Path, tmp_path: Path
) -> None:
    with launched(model, tmp_path / "hosts.json") as (first, second):
        first.wait_ready()
        assert len(asked(first.port, ask(PROMPT, 3)).text) > 0
        assert second.health() is None
        with Request(first.port, endless()) as stream:
            stream.started().next_record()
            second.process.kill()
            is_lost(first, stream, "rank 1 of 2 is lost: it ended")


def test_a_launched_process_ends_when_the_first_does(model: Path, tmp_path: Path) -> None:
    with launched(model, tmp_path / "hosts.json") as (first, second):
        first.wait_ready()
        first.process.kill()
        assert second.exit_code() == 8


def test_a_launch_of_another_size_is_refused(model: Path, tmp_path: Path) -> None:
    with launched(model, tmp_path / "hosts.json", said="3") as both:
        for running in both:
            assert running.exit_code() == 2
            assert "Error: --tensor-parallel 3: 2 processes were launched" in running.output.text


def test_nothing_is_kept_on_the_disk_and_the_log_says_so(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with spawned("--model", str(model), *ARGUMENTS, "--cache-dir", str(folder)) as running:
        running.wait_ready()
        assert "Nothing is kept on the disk: several processes have the model" in running.output.text
        asked(running.port, ask(PROMPT, 3))
        running.send_signal(signal.SIGINT)
        assert running.exit_code() == 0
    assert not [file for file in folder.rglob("*") if file.suffix == ".safetensors"]
