"""Where a request takes up what earlier ones left, in models that go back to checkpoints only."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import pytest

from runner.cache.points import Bound
from runner.cache.slots import Slots
from runner.generation.alone import complete
from runner.loading.loaded_model import LoadedModel
from runner.types import Done
from tests.parts.fakes import RecurrentModel, RotatingModel, ScriptedModel, loaded, request, tokenizer
from tests.parts.rows import fresh

BOTH = pytest.mark.parametrize("kind", [RecurrentModel, RotatingModel])


def cached(model: LoadedModel, prompt: str, limit: int) -> int:
    """How many tokens of the prompt were there already."""
    end = complete(model, request(prompt, max_tokens=limit))[-1]
    assert isinstance(end, Done)
    return end.usage.cached_tokens


USER = "[INST]"
OPENING = "talk of this and that. " * 5


def with_turns(model: ScriptedModel, chunk: int = 8) -> LoadedModel:
    """Loaded, with a token that begins a user's turn."""
    model.vocab_size += 1
    return replace(loaded(model, chunk), tokenizer=tokenizer(more=[USER]))


@BOTH
def test_an_edited_last_turn_starts_where_that_turn_did_though_the_request_began_elsewhere(
    kind: type[ScriptedModel],
) -> None:
    """At its mark; the prompt was fed whole."""
    model = with_turns(kind([0], 500))
    assert cached(model, f"{OPENING}{USER}a question, longer than the window", 40) == 0
    assert cached(model, f"{OPENING}{USER}an edit", 40) == len(OPENING)


def test_a_turn_that_begins_near_to_where_the_request_does_ends_no_chunk() -> None:
    made = RotatingModel([0], 500)
    model = with_turns(made, 64)
    cached(model, "a" * 99, 2)
    made.forwarded.clear()
    assert cached(model, f"{'a' * 99}{USER}and more of it", 1) == 99
    assert made.forwarded == [len("_and more of it")]


def test_where_a_model_goes_back_anywhere_no_chunk_ends_at_a_turn() -> None:
    made = ScriptedModel([0], 500)
    model = with_turns(made, 64)
    cached(model, f"{'a' * 45}{USER}{'b' * 10}", 1)
    assert made.forwarded == [56]


def test_a_rotating_model_repeats_a_prompt_from_its_end_whatever_it_answered() -> None:
    """The answer is far longer than the window: the prompt's keys are gone from one layer's buffer."""
    model = loaded(RotatingModel([0], 500))
    prompt = "a prompt of some length"
    assert [cached(model, prompt, 40) for _ in range(3)] == [0, len(prompt) - 1, len(prompt) - 1]
    assert cached(model, prompt[:-2] + "er prompt", 40) == len(prompt) - 2


@BOTH
def test_a_prompt_that_differs_deep_inside_starts_at_the_last_chunk_before_that(
    kind: type[ScriptedModel],
) -> None:
    model = loaded(kind([0], 500), chunk=64)
    slots = Slots(model.model.make_memory, bound=Bound(share=9.0, least=1, apart=64))
    model = replace(model, slots=slots)
    assert cached(model, "a" * 300, 40) == 0
    assert cached(model, "a" * 200 + "b" * 100, 40) == 192
    assert cached(model, "a" * 200 + "b" * 10 + "c" * 50, 40) == 192
    assert cached(model, "a" * 70 + "b" * 200, 40) == 64


@BOTH
def test_checkpoints_stay_within_their_bound_however_long_a_chat_grows(kind: type[ScriptedModel]) -> None:
    model = loaded(kind([0], 500))
    model = replace(model, slots=Slots(model.model.make_memory, bound=Bound(share=0.5, least=1, apart=8)))
    for turn in range(1, 12):
        cached(model, "some words. " * turn * 3, 9)
        memory = model.slots.memory(0)
        points = memory.points.positions
        assert len(points) == 1 or memory.kept_bytes <= 0.5 * (memory.nbytes - memory.kept_bytes)


@pytest.mark.usefixtures("nothing_left_over")
@pytest.mark.parametrize("kind", ["rotating", "shared"])
def test_a_slot_with_checkpoints_holds_what_it_says_and_nothing_behind_it(kind: str) -> None:
    """No buffer that a copy was made from, and no graph that was never computed."""
    known = fresh(kind, 1)
    model = replace(known, slots=Slots(known.model.make_memory, bound=Bound(share=9.0, apart=16)))
    prompt = "what happens to be said " * 12
    for limit in (1, 9, 30):
        assert cached(model, prompt[: 7 * limit], limit) >= 0
    memory = model.slots.memory(0)
    assert len(memory.points.positions) > 4
    told, before = memory.nbytes, mx.get_active_memory()
    del memory
    model.slots.drop(0)
    assert before - mx.get_active_memory() == pytest.approx(told, rel=0.1)


def test_the_slot_that_can_restore_most_is_taken_not_the_one_that_shares_most() -> None:
    model = loaded(RecurrentModel([0], 500), chunk=64)
    model = replace(model, slots=Slots(model.model.make_memory, 2))
    long, short = "b" * 40 + "c" * 90, "b" * 30
    assert [cached(model, prompt, 1) for prompt in (long, short)] == [0, 0]
    match = model.slots.match(model.tokenizer.encode("b" * 40 + "d"))
    assert match.matched == len(short)
    assert model.slots.tokens(match.slot) == model.tokenizer.encode(short)
