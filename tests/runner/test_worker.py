"""The MLX thread: one job at a time, errors as values, the old model until the new one is whole."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.errors import Busy, ModelNotLoaded, RunnerError, ShuttingDown
from runner.machine import memory
from runner.types import Done, Event, Failed, GenerateRequest, Started
from runner.worker import Worker
from tests.parts import fakes, served, tiny
from tests.parts.answer import WAIT_S, Answer
from tests.parts.fakes import ScriptedModel, saying, text_of
from tests.parts.processes import wait_until


@pytest.fixture
def deaths() -> list[str]:
    return []


@pytest.fixture
def worker(deaths: list[str]) -> Iterator[Worker]:
    made = Worker(2, deaths.append)
    made.start()
    yield made
    made.stop()
    assert made.join(WAIT_S)


@pytest.fixture
def give(worker: Worker) -> Callable[[ScriptedModel], None]:
    """Put a scripted model in, on the worker's own thread."""

    return lambda model: served.give(worker, fakes.loaded(model))


def script(text: str, prompt: str) -> ScriptedModel:
    model = saying(text, prompt).model
    assert isinstance(model, ScriptedModel)
    return model


Give = Callable[[ScriptedModel], None]


def test_another_thread_sees_what_the_worker_does_and_where_and_that_it_comes_further(worker: Worker) -> None:
    began, may_end = threading.Event(), threading.Event()

    def a_long_call() -> None:
        began.set()
        may_end.wait(WAIT_S)

    call = worker._jobs.call(a_long_call)
    assert began.wait(WAIT_S)
    during = worker.pulse
    assert during.work == "a job"
    assert 0 < during.patience_s < math.inf
    assert "in a_long_call" in worker.where()
    may_end.set()
    call.result(WAIT_S)
    worker._jobs.call(lambda: None).result(WAIT_S)
    wait_until(lambda: worker.pulse.work == "", WAIT_S, "a worker that has nothing to do")
    assert worker.pulse.beats > during.beats


def test_without_a_model_a_request_fails_with_503(worker: Worker) -> None:
    answer = Answer()
    worker.generate(GenerateRequest("p"), answer)
    assert answer.end() == Failed("model not loaded", 503)
    with pytest.raises(ModelNotLoaded):
        _ = worker.tokenizer


def test_requests_are_answered_one_after_another_in_their_order(worker: Worker, give: Give) -> None:
    give(script("abc", "p"))
    first, second = Answer(is_open=False), Answer()
    job = worker.generate(GenerateRequest("p"), first)
    worker.generate(GenerateRequest("p"), second)
    assert isinstance(first.next(), Started)
    assert second.is_silent()
    first.is_open = True
    job.resume()
    assert isinstance(first.end(), Done)
    assert isinstance(second.end(), Done)
    assert text_of(first.events) == text_of(second.events) == "abc"


def test_one_more_than_may_wait_is_refused_and_a_cancelled_one_makes_room(worker: Worker, give: Give) -> None:
    give(script("abc", "p"))
    running, waiting = Answer(is_open=False), Answer()
    job = worker.generate(GenerateRequest("p"), running)
    assert isinstance(running.next(), Started)  # it has left the queue
    jobs = [worker.generate(GenerateRequest("p"), waiting) for _ in range(2)]
    with pytest.raises(Busy, match="2 requests are waiting"):
        worker.generate(GenerateRequest("p"), waiting)
    jobs[0].cancel()
    worker.generate(GenerateRequest("p"), waiting)
    running.is_open = True
    job.resume()
    assert isinstance(running.end(), Done)
    assert isinstance(waiting.end(), Done)
    assert isinstance(waiting.end(), Done)
    assert waiting.is_silent()


def test_a_failure_of_mlx_is_one_error_record_and_the_next_request_is_served(
    worker: Worker, give: Give
) -> None:
    model = script("abcdef", "p")
    give(model)
    model.fail_at = 3
    answer = Answer()
    worker.generate(GenerateRequest("p"), answer)
    end = answer.end()
    assert isinstance(end, Failed)
    assert end.status == 500
    assert end.message.startswith("out of memory: [metal::malloc] Attempting to allocate 99 bytes which")
    model.fail_at = None
    again = Answer()
    worker.generate(GenerateRequest("p"), again)
    assert isinstance(again.end(), Done)
    assert text_of(again.events) == "abcdef"
    assert answer.is_silent()


def test_a_failed_request_leaves_no_array_behind(
    worker: Worker, give: Give, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("runner.worker"), "propagate", False)  # pytest keeps what is logged
    model = script("abcdef", "p")
    give(model)
    model.fail_at = 3
    answer = Answer()
    worker.generate(GenerateRequest("p"), answer)
    answer.end()
    worker.unload().result(WAIT_S)  # comes after the end of the job
    before = worker.status.memory
    for _ in range(3):
        give(model)
        worker.generate(GenerateRequest("p"), answer)
        assert isinstance(answer.end(), Failed)
    worker.unload().result(WAIT_S)
    assert worker.status.memory <= before  # less, if what other tests left was collected meanwhile


def test_a_model_is_replaced_as_a_whole_and_a_failed_load_changes_nothing(
    worker: Worker, tmp_path: Path
) -> None:
    one, two = tiny.write(tmp_path / "one"), tiny.write(tmp_path / "two", max_position_embeddings=64)
    worker.load(str(one)).result(WAIT_S)
    assert (worker.status.ready, worker.status.model, worker.status.context_length) == (True, "one", 512)
    (tmp_path / "broken").mkdir()
    with pytest.raises(RunnerError, match=r"config\.json: no such file"):
        worker.load(str(tmp_path / "broken")).result(WAIT_S)
    assert (worker.status.model, worker.status.progress) == ("one", 100)
    worker.load(str(two)).result(WAIT_S)
    assert (worker.status.model, worker.status.context_length) == ("two", 64)
    assert worker.status.memory > 0


@pytest.mark.slow
def test_the_progress_of_a_load_is_seen_while_it_goes_on(worker: Worker, big_model: Path) -> None:
    loading = worker.load(str(big_model))
    seen = [worker.status.progress]
    while not loading.done():
        seen.append(worker.status.progress)
        time.sleep(0.001)
    loading.result()
    assert seen == sorted(seen)
    assert len(set(seen)) > 5
    assert worker.status.progress == 100


def test_a_worker_that_nobody_wants_gives_unused_buffers_back_once(
    worker: Worker, give: Give, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where buffers are kept between steps, as with CUDA."""
    releases: queue.Queue[bool] = queue.Queue()
    give(script("abc", "p"))
    monkeypatch.setattr(memory, "tidy_up", lambda: None)
    monkeypatch.setattr(memory, "release_buffers", lambda: releases.put(worker._is_live))
    monkeypatch.setattr("runner.worker.REST_AFTER_S", 0.05)
    for _ in range(2):
        answer = Answer()
        worker.generate(GenerateRequest("p"), answer)
        assert isinstance(answer.end(), Done)
        assert releases.get(timeout=WAIT_S) is False
    with pytest.raises(queue.Empty):
        releases.get(timeout=0.2)


def test_unloading_frees_the_model(worker: Worker, tmp_path: Path) -> None:
    worker.load(str(tiny.write(tmp_path / "tiny"))).result(WAIT_S)
    before = worker.status.memory
    worker.unload().result(WAIT_S)
    assert not worker.status.ready
    assert before - worker.status.memory > 200_000  # its weights; other tests' models may be there too


def test_an_error_in_a_job_that_is_no_request_is_its_result(worker: Worker) -> None:
    def fail() -> None:
        raise ZeroDivisionError("by zero")

    with pytest.raises(RunnerError, match="by zero"):
        worker._jobs.call(fail).result(WAIT_S)


@pytest.mark.parametrize("error", [ModelNotLoaded(), Busy(3)])
def test_an_error_of_our_own_comes_back_as_it_is_without_its_frames(
    worker: Worker, error: RunnerError
) -> None:
    def fail() -> None:
        raise error

    result = worker._jobs.call(fail)
    assert result.exception(WAIT_S) is error
    assert error.__traceback__ is None


def test_a_stopped_worker_refuses_what_waits_and_what_comes(deaths: list[str]) -> None:
    worker = Worker(2, deaths.append)
    waiting = Answer()
    worker.generate(GenerateRequest("p"), waiting)  # the thread was never started
    worker.stop()
    assert waiting.end() == Failed("the runner is shutting down", 503)
    with pytest.raises(ShuttingDown):
        worker.generate(GenerateRequest("p"), waiting)
    assert not deaths


def test_the_death_of_the_thread_is_reported() -> None:
    died = queue.Queue[str]()
    worker = Worker(2, died.put)
    worker.start()

    def die() -> None:
        raise SystemExit("gone")

    worker._jobs.call(die)
    assert died.get(timeout=WAIT_S) == "the MLX thread died: SystemExit: gone"


def test_a_request_whose_reader_does_not_read_rests_and_a_cancel_ends_it(worker: Worker, give: Give) -> None:
    give(script("abc", "p"))
    resting = Answer(is_open=False)
    job = worker.generate(GenerateRequest("p"), resting)
    assert isinstance(resting.next(), Started)
    job.cancel()
    assert resting.end() == Failed("request cancelled", 499)
    again = Answer()
    worker.generate(GenerateRequest("p"), again)
    assert isinstance(again.end(), Done)


def test_a_load_waits_for_the_request_before_it_and_the_request_behind_waits_for_the_load(
    worker: Worker, give: Give, tmp_path: Path
) -> None:
    give(script("abc", "p"))
    before, behind = Answer(is_open=False), Answer()
    job = worker.generate(GenerateRequest("p"), before)
    loading = worker.load(str(tiny.write(tmp_path / "tiny")))
    worker.generate(GenerateRequest("p", 2), behind)
    assert isinstance(before.next(), Started)
    assert not loading.done()
    assert behind.is_silent()
    before.is_open = True
    job.resume()
    assert isinstance(before.end(), Done)
    loading.result(WAIT_S)
    assert isinstance(behind.end(), Done)
    assert text_of(before.events) == "abc"
    assert worker.status.model == "tiny"


def test_a_worker_gives_up_when_memory_does_not_come_back() -> None:
    deaths: list[str] = []
    lost: queue.Queue[str] = queue.Queue()
    worker = Worker(9, deaths.append, on_lost_device=lost.put)
    worker.start()
    model = script("abcdef", "p")
    served.give(worker, fakes.loaded(model))

    def ends(fail_at: int | None) -> type[Event]:
        model.fail_at = fail_at
        answer = Answer()
        worker.generate(GenerateRequest("p"), answer)
        return type(answer.end())

    assert [ends(at) for at in (3, 3, None, 3, 3)] == [Failed, Failed, Done, Failed, Failed]
    assert lost.empty()  # no three in a row
    assert ends(3) is Failed
    assert lost.get(timeout=WAIT_S).startswith("3 times in a row: out of memory: ")
    assert worker.join(WAIT_S)
    assert not deaths


class Looking(Answer):
    """Notes at the end what the status says by then."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self.busy: list[bool] = []
        self._worker = worker

    def emit(self, event: Event) -> None:
        if isinstance(event, Done | Failed):
            self.busy = [slot.busy for slot in self._worker.status.slots]
        super().emit(event)


@pytest.mark.parametrize("fail_at", [None, 3])
def test_the_status_knows_of_an_end_before_anybody_else_does(
    worker: Worker, give: Give, fail_at: int | None
) -> None:
    model = script("abc", "p")
    give(model)
    model.fail_at = fail_at
    answer = Looking(worker)
    worker.generate(GenerateRequest("p"), answer)
    assert isinstance(answer.end(), Done if fail_at is None else Failed)
    assert answer.busy == [False]
