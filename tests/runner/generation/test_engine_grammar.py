"""Rows with a grammar: what comes out, what is fed without a draw, and what happens when it cannot go on."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest

from runner.cache.slots import Slots
from runner.errors import BadGrammar
from runner.generation.alone import Collected
from runner.generation.engine import Engine
from runner.loading.loaded_model import LoadedModel
from runner.types import Chunk, Done, Event, Failed, Grammar
from tests.parts.fakes import Alarm, RecurrentModel, ScriptedModel, held, request, saying, text_of

KEYED = Grammar("lark", 'start: "{\\"name\\":\\"" /[a-z]+/ "\\"}"')


def run(model: LoadedModel, prompt: str, grammar: Grammar, **fields: object) -> list[Event]:
    from runner.generation.alone import complete

    return complete(model, request(prompt, grammar=grammar, **fields), Alarm(None))


def done(events: list[Event]) -> Done:
    assert isinstance(events[-1], Done), events
    return events[-1]


def slot_is_true(model: LoadedModel) -> None:
    """The slot's tokens are those whose keys its storages hold, which may be one ahead."""
    tokens = model.slots.tokens(0)
    for storage in model.slots.memory(0).storages:
        assert held(storage)[: len(tokens)] == tokens
        assert len(held(storage)) - len(tokens) in (0, 1)


@pytest.mark.parametrize("kind", [ScriptedModel, RecurrentModel])
def test_an_answer_keeps_to_its_grammar_and_ends_with_it(kind: type[ScriptedModel]) -> None:
    """The script says something else: where the grammar forbids it, the first allowed token wins."""
    model = saying('{"name":"bob"} and more', "p", kind=kind)
    events = run(model, "p", KEYED)
    assert text_of(events) == '{"name":"bob"}'
    assert done(events).reason == "stop"
    assert done(events).usage.generated_tokens == 14
    slot_is_true(model)


def test_what_is_certain_is_fed_together_and_without_a_draw() -> None:
    model = saying('{"name":"bob"}', "p")
    assert isinstance(model.model, ScriptedModel)
    run(model, "p", KEYED)
    # "p", then the nine certain tokens at once, then b, o, b and the quote; the brace is certain, and last.
    assert model.model.forwarded == [1, 9, 1, 1, 1, 1]


def test_with_logprobs_or_a_bias_every_token_is_drawn_and_the_text_is_the_same() -> None:
    for fields in ({"logprobs": True}, {"sampling": biased()}):
        model = saying('{"name":"bob"}', "p")
        assert isinstance(model.model, ScriptedModel)
        events = run(model, "p", KEYED, **fields)
        assert text_of(events) == '{"name":"bob"}'
        assert set(model.model.forwarded) == {1}


def biased() -> object:
    from runner.types import SamplingOptions

    return SamplingOptions(logit_bias=((65, 1.0),))


def test_logprobs_are_of_what_the_grammar_allows_and_finite() -> None:
    events = run(saying("zzz", "p"), "p", Grammar("regex", "[ab]"), logprobs=True, top_logprobs=3)
    (entry,) = (entry for event in events if isinstance(event, Chunk) for entry in event.logprobs)
    assert entry.logprob == pytest.approx(-0.6931, abs=1e-3)
    assert [value for _, value in entry.top] == [pytest.approx(-0.6931, abs=1e-3)] * 2 + [-9999.0]


@pytest.mark.parametrize("limit", range(1, 14))
def test_at_the_limit_the_text_is_a_beginning_and_nothing_is_fed_beyond_it(limit: int) -> None:
    model = saying('{"name":"bob"}', "p")
    events = run(model, "p", KEYED, max_tokens=limit)
    assert text_of(events) == '{"name":"bob"}'[:limit]
    assert done(events).reason == "length"
    assert done(events).usage.generated_tokens == limit
    assert isinstance(model.model, ScriptedModel)
    assert sum(model.model.forwarded) <= limit
    slot_is_true(model)


def test_an_answer_that_is_whole_at_the_limit_has_stopped() -> None:
    assert done(run(saying("ab", "p"), "p", Grammar("regex", "ab"), max_tokens=2)).reason == "stop"


def test_a_stop_string_ends_an_answer_in_what_is_certain_too() -> None:
    events = run(saying("", "p"), "p", KEYED, stop=("me",))
    assert text_of(events) == '{"na'
    assert done(events).reason == "stop"


def test_penalties_remember_what_came_without_a_draw() -> None:
    from runner.types import SamplingOptions

    def text(penalty: float) -> str:
        options = SamplingOptions(repeat_last_n=-1, presence_penalty=penalty)
        grammar = Grammar("lark", 'start: "aaaa" /[ab]/')
        return text_of(run(saying("aaaaa", "p"), "p", grammar, sampling=options))

    assert text(0.0) == "aaaaa"
    assert text(20.0) == "aaaab"


def test_the_same_seed_gives_the_same_text_with_a_warm_cache() -> None:
    from runner.types import SamplingOptions

    model = saying("", "p")
    options = SamplingOptions(temperature=3.0, seed=5)
    first, second = (
        text_of(run(model, "p", Grammar("regex", "[a-z]{20}"), sampling=options)) for _ in range(2)
    )
    assert first == second
    assert len(first) == 20
    assert len(set(first)) > 3


def test_a_grammar_against_a_ban_ends_that_request_with_an_error_and_the_next_is_served() -> None:
    from runner.types import SamplingOptions

    model = saying("a", "p")
    banned = SamplingOptions(logit_bias=((model.tokenizer.encode("a")[0], -float("inf")),))
    events = run(model, "p", Grammar("regex", "a"), sampling=banned)
    assert isinstance(events[-1], Failed)
    assert events[-1].message.startswith("grammar: accept sampled token")
    assert text_of(run(model, "p", Grammar("regex", "a"))) == "a"


def test_a_grammar_that_cannot_be_compiled_is_refused_before_anything_is_emitted() -> None:
    outlet, engine = Collected(), Engine(saying("a", "p"), lambda: None)
    with pytest.raises(BadGrammar):
        engine.admit(request("p", grammar=Grammar("regex", "(")), outlet, threading.Event())
    assert outlet.events == []
    assert not engine.is_live


class Sleepy(Collected):
    """An outlet that may have no room."""

    awake = True

    def has_room(self) -> bool:
        return self.awake


def test_a_row_without_a_draw_under_way_ends_with_the_step_that_it_took_part_in() -> None:
    """What was fed without a draw is computed later: if the next step fails, it may be that which failed."""
    known = saying("abcdefgh", "p")
    assert isinstance(known.model, ScriptedModel)
    engine = Engine(replace(known, slots=Slots(known.model.make_memory, 2)), lambda: None)
    certain, other = Sleepy(), Collected()
    engine.admit(request("p", grammar=Grammar("regex", "a[a-z]cdef[a-z]h")), certain, threading.Event())
    while len(text_of(certain.events)) < 6:
        engine.advance()
    certain.awake = False
    engine.admit(request("q" * 40), other, threading.Event())
    known.model.fail_at = 7
    with pytest.raises(RuntimeError):
        engine.advance()
    engine.fail("out of memory")
    assert certain.events[-1] == other.events[-1] == Failed("out of memory")


def test_a_cancelled_request_leaves_what_was_fed() -> None:
    from runner.generation.alone import complete

    model = saying('{"name":"bobbobbob"}', "p")
    events = complete(model, request("p", grammar=KEYED), Alarm(5))
    assert isinstance(events[-1], Failed)
    slot_is_true(model)
    assert text_of(run(model, "p", KEYED)) == '{"name":"bobbobbob"}'


def test_json_of_any_shape_parses() -> None:
    events = run(saying('{"a": [1, {"b": null}]}', "p"), "p", Grammar("json_schema", '{"type":"object"}'))
    assert json.loads(text_of(events)) == {"a": [1, {"b": None}]}
