"""A memory that is just too small: a request is answered, or ends with one error; the next one is served, and all
that was taken is given back.
"""

from __future__ import annotations

import random
import threading
from dataclasses import replace

import mlx.core as mx
import pytest

from runner.cache.slots import Slots
from runner.errors import PromptTooLarge
from runner.generation.alone import Collected
from runner.generation.budget import Limits
from runner.generation.engine import Engine
from runner.generation.probe import measured
from runner.loading.loaded_model import LoadedModel
from runner.machine import memory
from runner.types import Done, Failed, GenerateRequest
from tests.parts import tiny
from tests.parts.fakes import request, tokenizer
from tests.parts.models import loaded as load

pytestmark = pytest.mark.usefixtures("nothing_left_over")

CHUNK = 256
MIB = 2**20
SMALLEST = 6 * MIB  # with less no request is served at all
# 16 KiB of keys and values for each position, and little else.
WIDE = {
    "hidden_size": 64,
    "head_dim": 64,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "num_hidden_layers": 4,
    "max_position_embeddings": 4096,
}
ROUNDS = [(1, 4), (4, 2), *(pytest.param(slots, 12, marks=pytest.mark.slow) for slots in (1, 4))]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Without a first token that all prompts share."""
    return replace(
        load(tiny.write(tmp_path_factory.mktemp("models") / "wide", **WIDE)), tokenizer=tokenizer()
    )


class Queue:
    """Requests that go to an engine as the worker would send them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.refused: list[str] = []
        self.waited = 0

    def answer(self, requests: list[GenerateRequest]) -> list[Collected]:
        """All of them, to their ends."""
        waiting = [(one, Collected()) for one in requests]
        outlets = [outlet for _, outlet in waiting]
        while waiting or self.engine.is_live:
            while waiting and self.engine.has_room:
                if not self.begin(*waiting[0]):
                    break
                waiting.pop(0)
            self.engine.advance()
        return outlets

    def begin(self, asked: GenerateRequest, outlet: Collected) -> bool:
        try:
            begun = self.engine.admit(asked, outlet, threading.Event())
        except PromptTooLarge as error:
            self.refused.append(str(error))
            outlet.emit(Failed(str(error), error.status))
            return True
        self.waited += not begun
        return begun


def engine_of(model: LoadedModel, slots: int, total: int, chunk: int = CHUNK) -> tuple[Engine, Slots]:
    held = Slots(model.model.make_memory, slots)
    engine = Engine(replace(model, slots=held, prefill_chunk=chunk), memory.release_buffers)
    engine.keep_to(Limits(total, measured(model.model, model.slots.fresh_memory()), chunk))
    return engine, held


def end(outlet: Collected) -> str:
    """How the request ended; it has one end."""
    ends = [event for event in outlet.events if isinstance(event, Done | Failed)]
    assert ends == outlet.events[-1:]
    last = ends[0]
    if isinstance(last, Done):
        return "done"
    assert last.status == 400 or "out of memory" in last.message
    return "refused" if last.status == 400 else "out of memory"


@pytest.mark.parametrize(("slots", "rounds"), ROUNDS)
def test_with_a_budget_just_too_small_every_request_has_one_end_and_the_next_one_is_served(
    wide: LoadedModel, slots: int, rounds: int
) -> None:
    draw = random.Random(slots + 1)
    ends: list[str] = []
    waited = 0
    mx.synchronize()
    before = memory.active()
    for _ in range(rounds):
        prompts = ["".join(draw.choices("abcdefgh", k=draw.randrange(100, 900))) for _ in range(slots + 1)]
        asked = [request(prompt, max_tokens=draw.choice([1, 20, 120])) for prompt in prompts]
        least = max(len(prompt) for prompt in prompts) * 16 * 1024
        memory.release_buffers()
        total = before + max(int(least * draw.uniform(1.0, 2.0)) + MIB, SMALLEST)
        engine, held = engine_of(wide, slots, total)
        mx.reset_peak_memory()
        queue = Queue(engine)
        outlets = queue.answer(asked)
        ends += map(end, outlets)
        waited += queue.waited
        assert mx.get_peak_memory() <= total
        assert end(queue.answer([request("next", max_tokens=3)])[0]) == "done"
        engine.empty()
        assert held.nbytes == 0
        assert memory.active() <= before * 1.02
    assert "done" in ends
    assert waited or {"refused", "out of memory"} & set(ends)


def test_a_request_waits_for_one_that_ends_and_then_gets_what_was_kept_for_nobody(wide: LoadedModel) -> None:
    long = request("a" * 700, max_tokens=5)
    engine, held = engine_of(wide, 2, memory.active() + 24 * MIB)
    queue = Queue(engine)
    outlets = queue.answer([long, replace(long, prompt="b" * 700)])
    assert [end(outlet) for outlet in outlets] == ["done", "done"]
    assert queue.waited == 1
    assert sorted(slot.tokens > 0 for slot in held.held()) == [False, True]  # the first one's entry had to go


def test_a_refusal_names_what_is_needed_and_what_there_is(wide: LoadedModel) -> None:
    engine, _ = engine_of(wide, 1, memory.active() + 10 * MIB)
    with pytest.raises(
        PromptTooLarge, match=r"input length \(1999 tokens\) .* needs \d+\.\d MiB, .* there are 10\.0 MiB"
    ):
        engine.admit(request("a" * 1999, max_tokens=5), Collected(), threading.Event())
    assert not engine.is_live
    assert engine.has_room


def test_chunks_shrink_before_anything_that_is_kept_goes(wide: LoadedModel) -> None:
    engine, held = engine_of(wide, 2, memory.active() + 29 * MIB)
    queue, fed = Queue(engine), [0]
    queue.answer([request("a" * 300, max_tokens=1)])
    engine.admit(request("b" * 600, max_tokens=1), Collected(), threading.Event())
    while engine.is_live:
        fed += [row.fed for row in engine._scheduler.rows if row.fed > fed[-1]]
        engine.advance()
    assert fed[1] < CHUNK
    assert [slot.tokens > 0 for slot in held.held()] == [True, True]


def test_an_answer_that_outgrows_the_memory_ends_with_one_error_and_is_forgotten(wide: LoadedModel) -> None:
    engine, held = engine_of(wide, 1, memory.active() + 14 * MIB)
    queue = Queue(engine)
    assert end(queue.answer([request("a" * 20, max_tokens=3000)])[0]) == "out of memory"
    assert held.nbytes == 0
