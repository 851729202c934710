"""The worker and the memory: what its status says, who waits in its queue, what it refuses, how it goes on."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.errors import ModelTooLarge, explain, is_lost_device, is_out_of_memory
from runner.machine import memory
from runner.types import Done, Failed, GenerateRequest, Started
from runner.worker import Worker
from tests.parts import fakes, tiny
from tests.parts.answer import WAIT_S, Answer
from tests.parts.fakes import saying, text_of
from tests.parts.served import give

MIB = 2**20
# 32 KiB of keys and values for each position, and little else.
WIDE = {"hidden_size": 64, "head_dim": 64, "num_attention_heads": 8, "num_key_value_heads": 8}
WIDE |= {"num_hidden_layers": 8, "max_position_embeddings": 4096}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("models") / "wide", **WIDE)


@pytest.fixture
def worker(request: pytest.FixtureRequest) -> Iterator[Worker]:
    """Its memory is what the parameter says beside what other tests hold for good, in MiB; 0: a single one."""
    gc.collect()
    budget = memory.active() + request.param * MIB if request.param else MIB
    made = Worker(5, lambda reason: None, parallel=2, memory_budget=budget)
    made.start()
    yield made
    made.stop()
    assert made.join(WAIT_S)
    memory.allow(None)


def settle(worker: Worker) -> None:
    """Until everything that can be done now is done: between two such jobs the thread takes a step."""
    for _ in range(3):
        worker._jobs.call(lambda: None, between_steps=True).result(WAIT_S)


def ask(worker: Worker, prompt: str, **fields: Any) -> Answer:
    answer = Answer()
    worker.generate(GenerateRequest(prompt, **fields), answer)
    return answer


@pytest.mark.parametrize("worker", [0], indirect=True)
def test_a_model_that_does_not_fit_is_refused_before_it_is_read(worker: Worker, wide: Path) -> None:
    with pytest.raises(ModelTooLarge, match=r"weights have \d\.\d MiB, which exceeds the memory budget of"):
        worker.load(str(wide)).result(WAIT_S)


@pytest.mark.parametrize("worker", [64], indirect=True)
def test_what_fits_is_answered_what_never_will_is_a_400_and_the_next_one_is_served(
    worker: Worker, wide: Path
) -> None:
    worker.load(str(wide)).result(WAIT_S)
    refused = ask(worker, "a" * 3000, max_tokens=3).end()
    assert isinstance(refused, Failed)
    assert refused.status == 400
    assert "exceeds what the memory budget allows" in refused.message
    assert not is_out_of_memory(RuntimeError(refused.message))
    assert isinstance(ask(worker, "b" * 300, max_tokens=3).end(), Done)


@pytest.mark.parametrize("worker", [64], indirect=True)
def test_a_request_for_which_the_memory_is_short_keeps_its_place_in_the_queue(
    worker: Worker, wide: Path
) -> None:
    worker.load(str(wide)).result(WAIT_S)
    first = Answer(is_open=False)
    job = worker.generate(GenerateRequest("a" * 900, max_tokens=3), first)
    assert isinstance(first.next(), Started)
    second, third = ask(worker, "b" * 900, max_tokens=3), ask(worker, "c", max_tokens=3)
    cancelled = Answer()
    worker.generate(GenerateRequest("d", max_tokens=3), cancelled).cancel()
    settle(worker)
    assert worker.waiting == 2
    assert second.is_silent()
    first.is_open = True
    job.resume()
    assert [type(answer.end()) for answer in (first, second, third)] == [Done] * 3
    assert cancelled.is_silent()


@pytest.mark.parametrize("worker", [64], indirect=True)
def test_who_waits_for_memory_learns_that_the_runner_stops(worker: Worker, wide: Path) -> None:
    worker.load(str(wide)).result(WAIT_S)
    first = Answer(is_open=False)
    worker.generate(GenerateRequest("a" * 900, max_tokens=3), first)
    assert isinstance(first.next(), Started)
    second = ask(worker, "b" * 900, max_tokens=3)
    settle(worker)
    worker.stop()
    assert second.end() == Failed("the runner is shutting down", 503)


@pytest.mark.parametrize("worker", [64], indirect=True)
def test_the_status_says_what_is_held_at_any_moment(worker: Worker, wide: Path) -> None:
    worker.load(str(wide)).result(WAIT_S)
    settle(worker)
    before = memory.used()
    assert worker.status.memory == pytest.approx(before, rel=0.05)
    answer = Answer()
    job = worker.generate(GenerateRequest("a" * 700, max_tokens=300), answer)
    for _ in range(100):
        answer.next()
    answer.is_open = (
        False  # in the middle of the answer, long after the last time that buffers were given back
    )
    settle(worker)
    assert memory.used() > before + 20 * MIB
    assert worker.status.memory == pytest.approx(memory.used(), rel=0.05)
    answer.is_open = True
    job.resume()
    answer.end()
    worker.empty_cache().result(WAIT_S)
    assert worker.status.memory == pytest.approx(before, rel=0.05)


@pytest.mark.parametrize("worker", [1024], indirect=True)
def test_mlx_running_out_of_memory_once_is_not_noticed(worker: Worker) -> None:
    known = saying("abcdef", "p")
    assert isinstance(known.model, fakes.ScriptedModel)
    give(worker, known)
    known.model.fail_at, known.model.fails = 3, 1
    answer = ask(worker, "p")
    assert isinstance(answer.end(), Done)
    assert text_of(answer.events) == "abcdef"


@pytest.mark.parametrize(
    "text",
    [
        "[malloc] Unable to allocate 5 bytes.",
        "[metal::malloc] Attempting to allocate 9 bytes which is greater than the maximum allowed buffer size",
        "[METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallback)",
        "cudaMallocAsync(&data, size, stream) failed: out of memory",
    ],
)
def test_every_way_to_run_out_of_memory_is_known_and_says_so(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text))
    assert explain(RuntimeError(text)).lower().count("out of memory") == 1
    assert not is_out_of_memory(RuntimeError("[matmul] Last dimension of first input"))
    assert not is_lost_device(RuntimeError(text))


@pytest.mark.parametrize(
    "text",
    [
        "[METAL] Command buffer execution failed: Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallback)",
        "cudaStreamSynchronize(stream_) failed: an illegal memory access was encountered",
        "cudaEventSynchronize(event) failed: unspecified launch failure",
    ],
)
def test_what_a_gpu_that_failed_says_is_known(text: str) -> None:
    assert is_lost_device(RuntimeError(text))
    assert not is_lost_device(RuntimeError("[matmul] Last dimension of first input"))
