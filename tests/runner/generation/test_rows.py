"""Several requests at once: each gets what it gets alone, whoever comes and goes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache

import pytest

from runner.cache.slots import Slots
from runner.generation.alone import complete
from runner.generation.engine import Engine
from runner.kernels import choice
from runner.kernels.rows_attention import PLAIN, AtOnce
from runner.loading.loaded_model import LoadedModel
from runner.types import Chunk, Done, Event, Failed, GenerateRequest, Grammar, SamplingOptions
from tests.parts.choosing import PAIRS
from tests.parts.failing import FailingModel
from tests.parts.fakes import RecurrentModel, ScriptedModel, request, saying, text_of
from tests.parts.rows import KINDS, fresh

REQUESTS, SLOTS = 34, 4


@dataclass
class Client:
    """An outlet that may have no room, and a reader who may leave."""

    leaves_after: int | None
    draw: random.Random
    rests: bool | None = None  # None: now and then
    events: list[Event] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def flush(self) -> None:
        """Nothing was held back."""

    def has_room(self) -> bool:
        return self.draw.random() < 0.8 if self.rests is None else not self.rests

    def is_set(self) -> bool:
        return self.leaves_after is not None and len(self.events) > self.leaves_after

    @property
    def text(self) -> str:
        return text_of(self.events)

    @property
    def end(self) -> object:
        last = self.events[-1]
        return last.reason if isinstance(last, Done) else last


def drawn(draw: random.Random) -> GenerateRequest:
    """Prompts share beginnings; options are of every kind."""
    prompt = "one two three "[: draw.randrange(1, 14)] + "".join(draw.choices("abc ", k=draw.randrange(30)))
    sampling = SamplingOptions(
        temperature=draw.choice([0.0, 0.8, 1.5]),
        top_k=draw.choice([0, 5]),
        seed=draw.randrange(9),
        repeat_last_n=draw.choice([0, 8]),
        presence_penalty=draw.choice([0.0, 2.0]),
    )
    return request(
        prompt,
        max_tokens=draw.randrange(1, 16),
        sampling=sampling,
        stop=draw.choice([(), ("a",)]),
        logprobs=draw.random() < 0.3,
        grammar=draw.choice([None, None, Grammar("regex", "[a-f]{9}-[0-9]+"), Grammar("json_schema", "{}")]),
    )


@cache
def alone(kind: str) -> list[tuple[GenerateRequest, list[Event]]]:
    """Requests, and what each of them gets from a model that nobody asked before."""
    draw = random.Random(kind)
    wanted = [drawn(draw) for _ in range(REQUESTS)]
    return [(one, complete(fresh(kind, 1), one)) for one in wanted]


def in_company(
    loaded_model: LoadedModel, wanted: list[GenerateRequest], draw: random.Random, at_once: AtOnce | None
) -> list[Client]:
    """All requests on one engine; they come when there is room, or a little later."""
    engine = Engine(loaded_model, lambda: None, at_once)
    clients = [Client(draw.choice([None, None, None, 2, 5]), draw) for _ in wanted]
    coming = list(zip(wanted, clients, strict=True))
    while coming or engine.is_live:
        while coming and engine.has_room and draw.random() < 0.6:
            one, client = coming.pop(0)
            engine.admit(one, client, client)
        engine.advance()
    return clients


def exhaust(engine: Engine) -> None:
    while engine.is_live:
        engine.advance()


def logprobs_of(events: list[Event]) -> list[float]:
    return [entry.logprob for event in events if isinstance(event, Chunk) for entry in event.logprobs]


@pytest.mark.parametrize(("slots", "at_once"), [(1, None), (SLOTS, None), (SLOTS, PLAIN)])
@pytest.mark.parametrize("kind", KINDS)
def test_random_requests_get_what_each_gets_alone(kind: str, slots: int, at_once: AtOnce | None) -> None:
    wanted, expected = zip(*alone(kind), strict=True)
    draw = random.Random(f"{kind} {slots}")
    clients = in_company(fresh(kind, slots), list(wanted), draw, at_once)
    for client, events in zip(clients, expected, strict=True):
        if client.leaves_after is not None and isinstance(client.end, Failed):
            assert text_of(events).startswith(client.text)
            continue
        assert client.text == text_of(events)
        assert isinstance(events[-1], Done)
        assert client.end == events[-1].reason
        assert logprobs_of(client.events) == pytest.approx(logprobs_of(events), abs=1e-3)


def test_requests_get_the_same_where_tokens_are_told_in_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, expected = zip(*alone("plain"), strict=True)
    monkeypatch.setattr(choice, "choosing", lambda: PAIRS)
    engine = Engine(fresh("plain", len(wanted)), lambda: None, PLAIN)
    clients = [Client(None, random.Random(), rests=False) for _ in wanted]
    for one, client in zip(wanted, clients, strict=True):
        engine.admit(one, client, client)
    exhaust(engine)
    for client, events in zip(clients, expected, strict=True):
        assert client.text == text_of(events)
        assert isinstance(client.events[-1], Done)


@pytest.mark.parametrize("kind", [ScriptedModel, RecurrentModel])
def test_rows_that_decode_share_a_forward(kind: type[ScriptedModel]) -> None:
    known = saying("abcdef", "p")
    engine = Engine(replace(known, slots=Slots(known.model.make_memory, 2)), lambda: None)
    clients = [Client(None, random.Random(), rests=False) for _ in range(2)]
    for client in clients:
        engine.admit(request("p", max_tokens=5), client, client)
    exhaust(engine)
    assert [client.text for client in clients] == ["abcde", "abcde"]
    assert isinstance(known.model, ScriptedModel)
    assert len(known.model.forwarded) < 10  # alone they would be ten


def test_a_step_that_fails_ends_its_rows_and_the_others_wait_in_peace() -> None:
    known = saying("abcdefgh", "p")
    assert isinstance(known.model, ScriptedModel)
    engine = Engine(replace(known, slots=Slots(known.model.make_memory, 3)), lambda: None)
    clients = [Client(None, random.Random(), rests=False) for _ in range(2)]
    for client in clients:
        engine.admit(request("p"), client, client)
    known.model.fail_at = 4
    with pytest.raises(RuntimeError):
        exhaust(engine)
    engine.fail("out of memory")
    assert [client.events[-1] for client in clients] == [Failed("out of memory")] * 2
    known.model.fail_at = None
    third = Client(None, random.Random(), rests=False)
    engine.admit(request("p"), third, third)
    exhaust(engine)
    assert third.text == "abcdefgh"


@pytest.mark.parametrize("at_once", [None, PLAIN])
def test_a_row_that_rests_while_another_one_fails_goes_on_in_new_company(at_once: AtOnce | None) -> None:
    known = fresh("plain", 3)
    model = FailingModel(known.model)
    engine = Engine(replace(known, model=model), lambda: None, at_once)
    wanted = [request(prompt, max_tokens=30) for prompt in ("one", "two", "three")]
    resting, failing, coming = (Client(None, random.Random(), rests=False) for _ in wanted)

    def steps(count: int) -> None:
        for _ in range(count):
            engine.advance()

    for one, client in zip(wanted, (resting, failing), strict=False):
        engine.admit(one, client, client)
    steps(9)
    resting.rests = True
    steps(3)
    model.fail_in = 0
    with pytest.raises(RuntimeError):
        steps(1)
    engine.fail("injected")
    model.fail_in = None
    engine.admit(wanted[-1], coming, coming)
    steps(6)
    resting.rests = False
    exhaust(engine)
    assert failing.end == Failed("injected")
    assert resting.text == text_of(complete(fresh("plain", 1), wanted[0]))
    assert coming.text == text_of(complete(fresh("plain", 1), wanted[-1]))


def test_a_request_takes_the_free_slot_that_holds_most_of_its_prompt() -> None:
    known = saying("", "p")
    slots = Slots(known.model.make_memory, 2)
    both = replace(known, slots=slots)
    for prompt in ("first question", "second question"):
        complete(both, request(prompt, max_tokens=1))
    assert slots.match(known.tokenizer.encode("first question?")).matched == len("first question")
    assert slots.match(known.tokenizer.encode("second thought")).matched == len("second ")


class Logged(Client):
    """Notes in a list that it shares with others whenever it is filled or flushed."""

    def __init__(self, log: list[tuple[str, Logged]]) -> None:
        super().__init__(None, random.Random(0))
        self._log = log

    def emit(self, event: Event) -> None:
        super().emit(event)
        self._log.append(("chunk" if isinstance(event, Chunk) else "other", self))

    def flush(self) -> None:
        self._log.append(("flush", self))

    def has_room(self) -> bool:
        return True


def steps(request_of: Callable[[str], GenerateRequest]) -> Iterator[list[tuple[str, Logged]]]:
    """What three rows' outlets note in each step."""
    said = saying("abcdefgh", "row 0")
    engine = Engine(replace(said, slots=Slots(said.model.make_memory, 3)), lambda: None)
    log: list[tuple[str, Logged]] = []
    for number in range(3):
        client = Logged(log)
        engine.admit(request_of(f"row {number}"), client, client)
    while engine.is_live:
        log.clear()
        engine.advance()
        yield list(log)


def test_the_chunks_of_a_step_are_flushed_when_every_row_was_read() -> None:
    whole = 0
    for log in steps(lambda prompt: request(prompt, max_tokens=8)):
        kinds = [kind for kind, _ in log]
        if kinds.count("chunk") == 3 and "other" not in kinds:
            assert kinds == ["chunk"] * 3 + ["flush"] * 3
            whole += 1
    assert whole >= 4


@pytest.mark.parametrize(
    "grammar", [None, Grammar("choice", '["abcdefgh"]'), Grammar("regex", "abcd[a-h]{4}")]
)
def test_no_chunk_stays_behind_when_a_step_is_over(grammar: Grammar | None) -> None:
    chunks = 0
    for log in steps(lambda prompt: request(prompt, grammar=grammar)):
        for place, (kind, client) in enumerate(log):
            if kind == "chunk":
                chunks += 1
                assert any(later is client and what != "chunk" for what, later in log[place:])
    assert chunks == 3 * 8
