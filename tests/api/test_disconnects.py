"""Clients that leave, wait, overtake or do not read, and what the others see of it."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import random
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from api.stream import BUFFERED
from runner.machine.device import PREFILL_CHUNK
from tests.parts.processes import wait_until
from tests.parts.serving import Serving, serving
from tests.parts.streams import PLAIN_TEXT, Request, ask, endless, read_stream, sleeping_reader

CHUNK = PREFILL_CHUNK["cpu"]
NOISE = 3  # attempts of a timed test, until one is quick enough: others use this machine too

Leaving = Callable[[Request], float]
WAYS_TO_LEAVE = pytest.mark.parametrize(
    "leave", [Request.leave, Request.reset, Request.half_close], ids=["close", "reset", "half-close"]
)


@pytest.fixture(scope="module")
def served(slow_model: Path) -> Iterator[Serving]:
    with serving(slow_model, limit=2) as made:
        made.answer(ask("warm", 2))
        yield made


def distinct(length: int, name: str) -> str:
    """A prompt that shares no cache with one of another name."""
    return (name * length)[:length]


def answers_at_once(request: Request) -> bool:
    """Whether something came back within a tenth of a second: a refusal, since the worker is busy."""
    request.socket.settimeout(0.1)
    try:
        return bool(request.socket.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False
    finally:
        request.socket.settimeout(60)


def seconds_until_next(served: Serving, running: Request, leave: Leaving) -> float:
    """How long after `running` leaves a request that waits behind it is taken up."""
    with served.request(ask("next", 1)) as waiting:
        assert not answers_at_once(waiting)
        left = leave(running)
        waiting.started()
        took = time.perf_counter() - left
        waiting.answer()
    return took


# Leaving.


@WAYS_TO_LEAVE
def test_leaving_in_mid_stream_frees_the_worker_at_once(served: Serving, leave: Leaving) -> None:
    took = []
    for _ in range(NOISE):
        with served.request(endless()) as running:
            for _ in range(3):
                running.started().next_record()
            took.append(seconds_until_next(served, running, leave))
        if took[-1] < 0.1:
            break
    print(f"decode, {leave.__name__}: next request after {[f'{s * 1e3:.1f} ms' for s in took]}")
    assert min(took) < 0.1


@WAYS_TO_LEAVE
def test_leaving_in_prefill_frees_the_worker_within_a_chunk(
    served: Serving, leave: Leaving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    took, chunk_s = [], []
    for attempt in range(NOISE):
        name = f"{leave.__name__} {attempt} "
        caplog.clear()
        with served.request(ask(distinct(6000, name), 1)) as running:
            running.started()
            wait_until(lambda: len(progress(caplog)) >= 3, 60, "two chunks")
            times = [record.created for record in progress(caplog)]
            chunk_s.append(max(b - a for a, b in itertools.pairwise(times)))
            took.append(seconds_until_next(served, running, leave))
        assert len(progress(caplog)) < 12, "prefill went on"
        if took[-1] < 2 * chunk_s[-1] + 0.1:
            break
    print(f"prefill, {leave.__name__}: {[f'{s * 1e3:.0f} ms' for s in took]}, chunks {chunk_s}")
    assert any(seconds < 2 * chunk + 0.1 for seconds, chunk in zip(took, chunk_s, strict=True))


def progress(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [r for r in caplog.records if r.getMessage() == "Prompt processing progress"]


@WAYS_TO_LEAVE
def test_leaving_the_queue_frees_the_place_and_starts_nothing(
    served: Serving, leave: Leaving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    took = []
    for _ in range(NOISE):
        with contextlib.ExitStack() as stack:
            running = stack.enter_context(served.request(endless()))
            running.started().next_record()
            first = stack.enter_context(served.request(ask(distinct(777, "queued"), 1)))
            second = stack.enter_context(served.request(ask("second", 1)))
            assert not answers_at_once(first)
            assert not answers_at_once(second)
            left = leave(first)
            while True:
                sent = time.perf_counter()
                latecomer = stack.enter_context(served.request(ask("latecomer", 1)))
                if not answers_at_once(latecomer):
                    break
            took.append(sent - left)
            running.leave()
            second.answer()
            latecomer.answer()
        if took[-1] < 0.1:
            break
    print(f"queue, {leave.__name__}: place free after {[f'{s * 1e3:.1f} ms' for s in took]}")
    assert min(took) < 0.1
    # A hit logs the prompt's length as total, a miss as left; BOS makes 778 of 777.
    begun = [getattr(record, "total", getattr(record, "left", None)) for record in caplog.records]
    assert 778 not in begun, "the request that left was begun"


def test_chunks_that_were_finished_serve_the_next_attempt(
    served: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    body = ask(distinct(1500, "try again "), 2)
    with served.request(body) as running:
        running.started()
        wait_until(lambda: len(progress(caplog)) >= 4, 60, "three chunks")
        running.leave()
    again = served.answer(body)
    assert again.cached >= 3 * CHUNK
    assert again.cached % CHUNK == 1  # the first attempt found BOS in the cache and prefilled from there


def test_what_was_generated_before_leaving_serves_the_continuation(served: Serving) -> None:
    prompt = distinct(100, "a story that goes on ")
    with served.request(endless(prompt)) as running:
        text = "".join(running.started().next_record()["content"] for _ in range(20))
    answer = served.answer(ask(prompt + text, 2))
    assert answer.cached >= 1 + 100 + 18  # BOS, prompt, all but the last tokens


def test_leaving_right_after_the_end_keeps_the_cache(served: Serving) -> None:
    body = ask(distinct(300, "leaves on done "), 5)
    with served.request(body) as request:
        request.started()
        while not request.next_record()["done"]:
            pass
        request.reset()
    assert served.answer(body).cached == 300


def test_leaving_before_the_body_is_complete_starts_nothing(served: Serving) -> None:
    data = json.dumps(endless("half a body")).encode()
    head = b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(data)
    for cut in (0, 1, len(data) - 1):
        served.raw(head + data[:cut]).close()
    started = time.monotonic()
    served.answer(ask("at once", 1))
    assert time.monotonic() - started < 10  # an endless one before it would take longer


def test_leaving_an_answer_in_one_piece_frees_the_worker(served: Serving) -> None:
    with served.request(endless() | {"stream": False}) as running:
        assert not answers_at_once(running)
        took = [seconds_until_next(served, running, Request.leave)]
    assert took[0] < 5  # the whole text takes half a minute


# Waiting.


def test_one_too_many_is_refused_at_once_and_disturbs_nobody(served: Serving) -> None:
    took = []
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(served.request(ask("x", 150, logit_bias=PLAIN_TEXT)))
        running.started().next_record()
        waiting = [stack.enter_context(served.request(ask(f"waiting {i}", 1))) for i in range(2)]
        assert not any(answers_at_once(request) for request in waiting)
        for _ in range(NOISE):
            sent = time.perf_counter()
            with served.request(ask("one too many", 1)) as refused:
                status, text = refused.refusal()
            took.append(time.perf_counter() - sent)
            assert status == 503
            assert text.startswith("server busy")
        assert served.http.get("/health").status_code == 200
        assert read_stream(running.response.read()).terminal["EvalCount"] == 150
        for request in waiting:
            request.answer()
    print(f"503 after {[f'{s * 1e3:.1f} ms' for s in took]}")
    assert min(took) < 0.05


def finished(served: Serving, caplog: pytest.LogCaptureFixture) -> list[Any]:
    """What this server's worker said about ends. Another server's may still speak of the test before, since
    a client has its last record before the worker logs the end.
    """
    worker = served.worker._thread.ident
    return [r for r in caplog.records if r.getMessage() == "Completion finished" and r.thread == worker]


def test_requests_are_taken_up_in_the_order_they_came(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Prompts of growing lengths tell in the log who was when."""
    caplog.set_level(logging.INFO)
    with serving(tiny_model) as served, contextlib.ExitStack() as stack:
        running = stack.enter_context(served.request(ask("x", 400)))
        running.started()
        queued = []
        for i in range(8):
            queued.append(stack.enter_context(served.request(ask("y" * (i + 2), 8))))
            served.http.get("/health")  # answered after what came before it
        for request in queued:
            request.answer()
    prompts = [record.prompt for record in finished(served, caplog)]
    assert len(prompts) == 9
    assert prompts == sorted(set(prompts))


def test_racing_clients_that_leave_at_random_lose_no_end_and_no_place(tiny_model: Path) -> None:
    chance = random.Random(7)
    with serving(tiny_model) as served:
        alone = {i: served.answer(ask(f"racer {i}", 30)).text for i in range(20)}

        def race(i: int) -> str | None:
            leaves_after = chance.choice([None, None, None, 0.0, 0.01, 0.1])
            with served.request(ask(f"racer {i}", 30)) as request:
                if leaves_after is None:
                    return request.answer().text
                time.sleep(leaves_after)
                return None

        with ThreadPoolExecutor(20) as pool:
            for _ in range(2):
                for i, text in enumerate(pool.map(race, range(20))):
                    assert text is None or text == alone[i]
        assert served.answer(ask("racer 0", 30)).text == alone[0]


# Not reading.


def test_a_client_that_does_not_read_is_cut_off_and_memory_stays_bounded(
    slow_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    # Twenty alternatives a token make some kilobytes a record, so that the sockets' buffers are soon full.
    body = endless() | {"logprobs": True, "top_logprobs": 20}
    with serving(slow_model, stall_s=0.5, send_buffer=4096) as served:
        with sleeping_reader(served.port, body) as reader:
            sent = time.perf_counter()
            with served.request(ask("next", 1)) as waiting:
                waiting.answer()
            took = time.perf_counter() - sent
            assert "Client reads too slowly, cut off" in caplog.messages
            received = drained(reader)
        assert b'"done":true' not in received
        generated: int = finished(served, caplog)[0].generated
        records = received.count(b'"done":false')
        print(f"cut off after {took:.2f} s, {generated} tokens generated, {records} records received")
        assert generated - records < 2 * BUFFERED + 100, "events piled up"


def drained(reader: socket.socket) -> bytes:
    """What is still to be had from a connection that the other side dropped."""
    received = b""
    reader.settimeout(10)
    with contextlib.suppress(ConnectionResetError):
        while block := reader.recv(65536):
            received += block
    return received


def test_a_client_that_does_not_read_and_then_leaves_is_forgotten(slow_model: Path) -> None:
    """What it did not read waits in its stream; its leaving must be seen behind all of that."""
    body = endless() | {"logprobs": True, "top_logprobs": 20}
    with serving(slow_model, send_buffer=4096) as served:
        for _ in range(4):
            with sleeping_reader(served.port, body):
                wait_until(lambda: unread(served) >= 20, 60, "events that nobody reads")
            wait_until(lambda: len(served.streams) == 0, 10, "the answer's end")
        assert served.answer(ask("next", 1)).text


def unread(served: Serving) -> int:
    """Events that wait in the only open stream."""
    return sum(len(stream._events) for stream in served.streams._open)


def test_a_client_that_reads_without_hurry_gets_everything(tiny_model: Path) -> None:
    body = ask("x", 500, logit_bias=PLAIN_TEXT) | {"logprobs": True, "top_logprobs": 20}
    with serving(tiny_model, stall_s=2.0, send_buffer=4096) as served:
        whole = served.answer(body)
        with sleeping_reader(served.port, body) as reader:
            received = b""
            while b'"done":true' not in received:
                received += reader.recv(8192)
                time.sleep(0.002)
    assert received.count(b'"done":false') == len(whole.records) - 1
