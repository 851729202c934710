"""Clients that leave a runner process: in the queue, in a prompt, in an answer, right behind it.

Steps wait at gates, so that it is certain where a client leaves. Models of all kinds take part, with one slot and
with three.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.cache.slots import TAIL
from runner.machine.device import PREFILL_CHUNK
from tests.parts.aftermath import Calm, metric
from tests.parts.injected import Gate, faulty
from tests.parts.kinds import MODELS
from tests.parts.processes import Running, linux_only, wait_until
from tests.parts.streams import PLAIN_TEXT, Answer, Request, ask, read_stream

pytestmark = linux_only  # memory, files and threads are counted

CHUNK = PREFILL_CHUNK["cpu"]
SETTLE_S = 20.0
WAYS = pytest.mark.parametrize(
    "leave", [Request.leave, Request.reset, Request.half_close], ids=["close", "reset", "half-close"]
)


@dataclass(frozen=True)
class Side:
    """A runner, how it is when nobody asks, and how exactly its caches go back."""

    kind: str
    running: Running
    calm: Calm
    folder: Path

    def gate(self) -> Gate:
        return Gate(self.folder / f"gate-{len(list(self.folder.iterdir()))}")

    def request(self, prompt: str, tokens: int = 8) -> Request:
        return Request(self.running.port, ask(prompt, tokens, logit_bias=PLAIN_TEXT))

    def answer(self, prompt: str, tokens: int = 8) -> Answer:
        with self.request(prompt, tokens) as request:
            return request.answer()

    def wait_for(self, metric_name: str, value: float) -> None:
        wait_until(lambda: metric(self.running, metric_name) == value, SETTLE_S, f"{metric_name} of {value}")


@pytest.fixture(
    scope="module",
    params=[("plain", 1), ("plain", 3), ("rotating", 3), ("recurrent", 3), ("zoo", 1)],
    ids=lambda param: f"{param[0]}, {param[1]} slots",
)
def side(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    kind, slots = request.param
    folder = tmp_path_factory.mktemp("gates")
    model = MODELS[kind](tmp_path_factory.mktemp("models") / kind)
    with faulty(model, slots=slots) as running:
        yield Side(kind, running, Calm.of(running), folder)


@pytest.fixture
def calm(side: Side) -> Iterator[Side]:
    yield side
    side.calm.check(side.running)


@WAYS
def test_who_leaves_the_queue_is_forgotten_before_anything_is_begun(
    calm: Side, leave: Callable[[Request], float]
) -> None:
    """Row 1; the ways are row 5."""
    begun = metric(calm.running, "cache_hits_total") + metric(calm.running, "cache_misses_total")
    with contextlib.ExitStack() as stack:
        gate = calm.gate()
        first = stack.enter_context(calm.request(f"first {gate.at('decode', 2)}"))
        stack.enter_context(gate)
        queued = [stack.enter_context(calm.request(f"queued {number}")) for number in range(4)]
        calm.wait_for("queue_length", 4)
        leave(queued[1])
        calm.wait_for("queue_length", 3)
        gate.open()
        for request in (first, queued[0], queued[2], queued[3]):
            request.answer()
    hits = metric(calm.running, "cache_hits_total") + metric(calm.running, "cache_misses_total")
    assert hits == begun + 4


@WAYS
def test_who_leaves_in_its_prompt_leaves_what_was_fed(calm: Side, leave: Callable[[Request], float]) -> None:
    """Row 2."""
    prompt = f"{leave.__name__} " + "so many words " * (3 * CHUNK // 14)
    gate = calm.gate()
    with calm.request(prompt + gate.at("prefill", 1)) as request, gate:
        leave(request)
        calm.wait_for("slots_busy", 1)
        gate.open()
        calm.wait_for("slots_busy", 0)
    again = calm.answer(prompt)
    assert 1 < again.cached < len(prompt), "the chunk that was fed is kept"
    calm.calm.check(calm.running)
    assert calm.answer(prompt).text == again.text, "what was kept says something else than a fresh prompt"


@WAYS
def test_who_leaves_in_the_answer_leaves_what_was_read(calm: Side, leave: Callable[[Request], float]) -> None:
    """Row 3. With several slots others go on meanwhile and say what they say alone."""
    alone = [calm.answer(f"other {number}", 20).text for number in range(2)]
    gate, prompt = calm.gate(), f"{leave.__name__}: a story that goes on and on "
    with contextlib.ExitStack() as stack:
        leaver = stack.enter_context(calm.request(prompt + gate.at("decode", 6), 100))
        stack.enter_context(gate)
        others = [stack.enter_context(calm.request(f"other {number}", 20)) for number in range(2)]
        text = "".join(leaver.started().next_record()["content"] for _ in range(3))
        leave(leaver)
        gate.open()
        assert [other.answer().text for other in others] == alone
        calm.wait_for("slots_busy", 0)
    whole = prompt + gate.at("decode", 1000) + text
    again = calm.answer(whole)
    calm.calm.check(calm.running)
    assert calm.answer(whole).text == again.text


def test_who_leaves_right_behind_the_end_has_filled_the_cache(calm: Side) -> None:
    """Row 4."""
    prompt = "leaves when it is done " * 5
    with calm.request(prompt) as request:
        request.started()
        while not request.next_record()["done"]:
            pass
        request.reset()
    again = calm.answer(prompt)
    most = len("B" + prompt) - 1
    assert again.cached >= min(most, len("B" + prompt) - TAIL) - 1


def test_many_who_come_and_leave_lose_no_end_and_no_place(calm: Side) -> None:
    """Row 46: 50 at once behind a gate, every third of which leaves; the others have one end each, in order."""
    gate = calm.gate()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(calm.request(f"first {gate.at('decode', 2)}"))
        stack.enter_context(gate)
        requests = [stack.enter_context(calm.request(f"racer {number}", 2)) for number in range(50)]
        calm.wait_for("queue_length", 50)
        for request in requests[::3]:
            request.reset()
        calm.wait_for("queue_length", 33)
        gate.open()
        first.answer()
        kept = [request for number, request in enumerate(requests) if number % 3]
        for request in kept:
            assert read_stream(request.started().response.read()).error is None
