"""Each request that comes to a worker is counted under one end, whatever becomes of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runner.errors import Busy
from runner.types import Done, GenerateRequest, Started
from runner.worker import Worker
from tests.parts import fakes
from tests.parts.answer import WAIT_S, Answer
from tests.parts.fakes import ScriptedModel, saying
from tests.parts.served import give

LIMIT = 2


@pytest.fixture
def model() -> ScriptedModel:
    made = saying("abcdef", "p").model
    assert isinstance(made, ScriptedModel)
    return made


@pytest.fixture
def worker(model: ScriptedModel) -> Iterator[Worker]:
    made = Worker(LIMIT, lambda reason: None)
    made.start()
    give(made, fakes.loaded(model))
    yield made
    made.stop()
    assert made.join(WAIT_S)


def ask(worker: Worker, prompt: str = "p", limit: int | None = None) -> None:
    answer = Answer()
    worker.generate(GenerateRequest(prompt, limit), answer)
    answer.end()


def ends(worker: Worker) -> dict[str, int]:
    return {end: count for end, count in worker.totals.ends.items() if count}


def test_answers_are_counted_by_their_reason(worker: Worker) -> None:
    ask(worker)
    ask(worker, limit=2)
    assert ends(worker) == {"stop": 1, "length": 1}


def test_a_prompt_that_is_refused_is_counted(worker: Worker) -> None:
    ask(worker, prompt="")
    ask(worker, prompt="p" * 600)
    assert ends(worker) == {"refused": 2}
    assert worker.totals.misses == 0


def test_a_failure_is_an_error_and_the_next_answer_is_none(worker: Worker, model: ScriptedModel) -> None:
    model.fail_at = 3
    ask(worker)
    model.fail_at = None
    ask(worker)
    assert ends(worker) == {"error": 1, "stop": 1}


def test_the_queue_is_told_and_who_leaves_it_or_finds_it_full_is_counted(worker: Worker) -> None:
    resting = Answer(is_open=False)
    running = worker.generate(GenerateRequest("p"), resting)
    assert isinstance(resting.next(), Started)
    assert worker.waiting == 0
    waiting = [(worker.generate(GenerateRequest("p"), answer), answer) for answer in (Answer(), Answer())]
    assert worker.waiting == LIMIT
    with pytest.raises(Busy):
        worker.generate(GenerateRequest("p"), Answer())
    for _ in range(2):  # repeatedly, as a client's end and a stream's may
        waiting[0][0].cancel()
    assert worker.waiting == 1
    running.cancel()
    resting.end()
    assert isinstance(waiting[1][1].end(), Done)
    assert ends(worker) == {"refused": 1, "cancelled": 2, "stop": 1}


def test_the_cache_is_emptied_before_what_waits_and_beside_what_runs(worker: Worker) -> None:
    resting = Answer(is_open=False)
    running = worker.generate(GenerateRequest("p"), resting)
    assert isinstance(resting.next(), Started)
    waiting = Answer()
    worker.generate(GenerateRequest("p"), waiting)
    assert worker.empty_cache().result(WAIT_S) == ()  # the only slot has a request
    assert worker.waiting == 1
    resting.is_open = True
    running.resume()
    assert isinstance(resting.end(), Done)
    assert isinstance(waiting.end(), Done)
    (emptied,) = worker.empty_cache().result(WAIT_S)
    assert not emptied.busy
    assert emptied.tokens == len("pabcdef") + 1
    assert emptied.bytes > 0
    assert [slot.bytes for slot in worker.status.slots] == [0]
    assert worker.empty_cache().result(WAIT_S) == ()


def test_there_is_nothing_to_empty_without_a_model() -> None:
    worker = Worker(LIMIT, lambda reason: None)
    worker.start()
    assert worker.empty_cache().result(WAIT_S) == ()
    worker.stop()
    assert worker.join(WAIT_S)
