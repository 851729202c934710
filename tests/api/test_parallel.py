"""Several requests at once over HTTP: each as alone, and the status tells who has a slot."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.parts.serving import Serving, serving
from tests.parts.streams import ask, endless

SLOTS = 3


@pytest.fixture(scope="module")
def wide(tiny_model: Path) -> Iterator[Serving]:
    with serving(tiny_model, parallel=SLOTS) as made:
        yield made


def slots(served: Serving) -> Any:
    return served.http.get("/v1/status").json()["slots"]


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
        assert [slot["busy"] for slot in slots(served)].count(
            True
        ) == 1  # the first one, which takes half a minute


def test_the_status_tells_what_each_slot_holds(wide: Serving) -> None:
    before = wide.answer(ask("hello", 5))
    held = slots(wide)
    assert len(held) == SLOTS
    assert not any(slot["busy"] for slot in held)
    assert before.terminal["PromptEvalCount"] + 4 in [slot["tokens"] for slot in held]
