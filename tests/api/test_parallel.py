"""Several requests at once over HTTP: each as alone, and the status tells who has a slot."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.parts import tiny
from tests.parts.processes import wait_until
from tests.parts.serving import Serving, serving
from tests.parts.streams import DEADLINE_S, Request, ask, endless, read_stream, sleeping_reader

SLOTS = 3
LONG = 300  # tokens, a hundred times as many as a newcomer wants


@pytest.fixture(scope="module")
def wide(tiny_model: Path) -> Iterator[Serving]:
    with serving(tiny_model, parallel=SLOTS) as made:
        yield made


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Serving]:
    """Four slots, tokens in milliseconds, and thousands of them."""
    model = tiny.write(tmp_path, max_position_embeddings=8192)
    with serving(model, parallel=4, send_buffer=4096) as made:
        yield made


def slots(served: Serving) -> Any:
    return served.http.get("/v1/status").json()["slots"]


def busy(served: Serving) -> list[int]:
    """The slots that a request has."""
    return [number for number, slot in enumerate(slots(served)) if slot["busy"]]


def test_answers_at_once_are_those_of_one_after_the_other(wide: Serving) -> None:
    bodies = [ask(f"{number} of them", 40, temperature=number % 3, seed=number) for number in range(12)]
    one_by_one = [wide.answer(body).text for body in bodies]
    with ThreadPoolExecutor(len(bodies)) as pool:
        at_once = list(pool.map(lambda body: wide.answer(body).text, bodies))
    assert at_once == one_by_one


def test_a_second_request_is_answered_while_the_first_goes_on(slow_model: Path) -> None:
    with serving(slow_model, parallel=2) as served, served.request(endless()) as long:
        long.started().next_record()
        assert served.answer(ask("y", 3)).terminal["EvalCount"] == 3
        assert len(busy(served)) == 1  # the first one, which takes half a minute


def test_the_status_tells_what_each_slot_holds(wide: Serving) -> None:
    before = wide.answer(ask("hello", 5))
    held = slots(wide)
    assert len(held) == SLOTS
    assert not busy(wide)
    assert before.terminal["PromptEvalCount"] + 4 in [slot["tokens"] for slot in held]


def test_one_who_does_not_read_and_one_who_leaves_cost_the_others_nothing(patient: Serving) -> None:
    lively = {"temperature": 1.0, "seed": 7}
    seeded = ask("a seed", LONG, **lively)
    bound = ask("a grammar", LONG + 1, **lively)
    bound["format"] = {"type": "regex", "pattern": f"[a-z ]{{{LONG}}}"}
    short = ask("short", 3)
    alone = [patient.answer(body).text for body in (seeded, bound, short)]
    assert len(alone[1]) == LONG

    def rests() -> bool:
        """Whether the slot of the only request holds as much after somebody's answer as it held before."""
        (number,) = busy(patient)
        before = slots(patient)[number]["tokens"]
        assert patient.answer(short).text == alone[2]
        return bool(slots(patient)[number]["tokens"] == before)

    with contextlib.ExitStack() as stack:
        # Twenty alternatives a token make some kilobytes a record, so that the sockets' buffers are soon full.
        sleepy = endless("sleepy") | {"logprobs": True, "top_logprobs": 20}
        stack.enter_context(sleeping_reader(patient.port, sleepy))
        wait_until(lambda: bool(busy(patient)), DEADLINE_S, "a request that has a slot")
        wait_until(rests, DEADLINE_S, "a request that rests")

        def begun(body: dict[str, Any]) -> tuple[Request, str]:
            request = stack.enter_context(patient.request(body)).started()
            return request, request.next_record()["content"]

        leaving, *others = [begun(body) for body in (endless("leaves"), seeded, bound)]
        assert len(busy(patient)) == 4
        newcomer = stack.enter_context(patient.request(short))
        leaving[0].leave()
        assert newcomer.answer().text == alone[2]
        assert len(busy(patient)) == 3  # so the newcomer had the slot of the one that left
        assert [first + read_stream(request.response.read()).text for request, first in others] == alone[:2]
        assert rests()
