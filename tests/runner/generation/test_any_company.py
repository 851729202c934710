"""Whoever comes, goes, rests or fails: each request gets what it gets alone, and slots hold what they say."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from functools import cache

import mlx.core as mx
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runner.cache.base import LayerMemory
from runner.cache.points import Bound
from runner.cache.slots import Held, Slots
from runner.cache.span import Span
from runner.errors import RunnerError
from runner.generation.alone import complete
from runner.generation.engine import Engine
from runner.grammar.compiler import Grammars
from runner.grammar.matcher import Matcher
from runner.kernels.rows_attention import PLAIN, AtOnce
from runner.loading.loaded_model import LoadedModel
from runner.types import (
    Chunk,
    Done,
    Event,
    Failed,
    GenerateRequest,
    Grammar,
    Progress,
    SamplingOptions,
    Started,
)
from tests.parts import tiny
from tests.parts.failing import FailingModel
from tests.parts.fakes import text_of, tokenizer
from tests.parts.models import forward, logits
from tests.parts.rows import fresh

TOLERANCE = 1e-4
SLOTS = 3
LETTERS = "ab"  # few, so that prompts share prefixes by chance too
SPOILT = tiny.BOS  # in a prompt; the model is broken behind it, and never says it
BREAKING = Grammar("regex", "[a-f]{20}")  # fails in the middle of an answer
GRAMMARS = (*[None] * 7, Grammar("regex", "[a-f]{9}-[0-9]+"), Grammar("json_schema", "{}"), BREAKING)
ACCEPTED = 4  # tokens, before a grammar that breaks does


Coming = tuple[int, str, GenerateRequest]
"""How much a prompt shares with the one before it, what it has more, and all else, with what comes behind that."""
STEPS = st.sampled_from([9, 5, 2, 0])
REQUESTS: st.SearchStrategy[Coming] = st.tuples(
    st.integers(0, 20),
    st.text(LETTERS, min_size=1, max_size=12),
    st.builds(
        GenerateRequest,
        prompt=st.sampled_from([""] * 15 + [SPOILT]),
        max_tokens=st.sampled_from([24, 24, 9, 1]),
        sampling=st.builds(
            SamplingOptions,
            temperature=st.sampled_from([0.0, 0.8, 1.5]),
            seed=st.integers(0, 3),
            repeat_last_n=st.just(8),
            presence_penalty=st.sampled_from([0.0, 2.0]),
        ),
        stop=st.sampled_from([(), (), (), ("a",)]),
        logprobs=st.booleans(),
        progress=st.booleans(),
        grammar=st.sampled_from(GRAMMARS),
    ),
)


class SpoilingModel(FailingModel):
    """Its logits behind one token are no numbers, as those of broken weights."""

    def __call__(self, tokens: mx.array, span: Span, memory: LayerMemory) -> mx.array:
        return mx.where((tokens == tiny.BOS_ID)[..., None], mx.nan, super().__call__(tokens, span, memory))


class BreakingMatcher(Matcher):
    """Comes into trouble, as a grammar whose limits an answer exceeds."""

    left = ACCEPTED

    def accept(self, token: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise RunnerError("grammar: too large")
        super().accept(token)


class BreakingGrammars(Grammars):
    """One of them breaks."""

    def matcher(self, grammar: Grammar) -> Matcher:
        return (BreakingMatcher if grammar is BREAKING else Matcher)(self._compiled(grammar).deep_copy())


@cache
def known(kind: str) -> LoadedModel:
    """With one slot."""
    found = fresh(kind, 1)
    model, coder = SpoilingModel(found.model), tokenizer(suppressed=[tiny.BOS_ID])
    grammars = BreakingGrammars(coder, model.vocab_size)
    return replace(found, model=model, tokenizer=coder, grammars=grammars)


@cache
def alone(kind: str, asked: GenerateRequest) -> list[Event]:
    """What a request gets from a model that nobody asked before."""
    found = known(kind)
    return complete(replace(found, slots=Slots(found.model.make_memory)), asked)


@dataclass(eq=False)
class Client:
    """The outlet of a request and its reader, who may stop reading, and leave."""

    asked: GenerateRequest
    events: list[Event] = field(default_factory=list)
    reads: bool = True
    left: bool = False
    rests_with: int | None = None  # events, once its last token was read

    def emit(self, event: Event) -> None:
        assert not self.has_ended, f"{event} behind the end"
        self.events.append(event)

    def flush(self) -> None:
        """Nothing was held back."""

    def has_room(self) -> bool:
        return self.reads

    def is_set(self) -> bool:
        return self.left

    @property
    def has_ended(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1], Done | Failed)


def end(events: list[Event]) -> object:
    last = events[-1]
    return last.reason if isinstance(last, Done) else last


def logprobs(events: list[Event]) -> list[float]:
    return [entry.logprob for event in events if isinstance(event, Chunk) for entry in event.logprobs]


class AnyCompany(RuleBasedStateMachine):
    """Requests come to one engine, rest, leave and fail, in any order."""

    @initialize(
        kind=st.sampled_from(["plain", "rotating", "recurrent"]),
        at_once=st.sampled_from([None, PLAIN]),
        chunk=st.sampled_from([9, 4]),
        first=st.lists(REQUESTS, min_size=2, max_size=SLOTS),
        steps=STEPS,
    )
    def load(self, kind: str, at_once: AtOnce | None, chunk: int, first: list[Coming], steps: int) -> None:
        self.kind = kind
        self.model = SpoilingModel(fresh(kind, 1).model)
        self.slots = Slots(self.model.make_memory, SLOTS, Bound(share=9.0, apart=3))
        loaded = replace(known(kind), model=self.model, slots=self.slots, prefill_chunk=chunk)
        self.tokenizer = loaded.tokenizer
        self.engine = Engine(loaded, lambda: None, at_once)
        self.live: list[Client] = []
        self.prompt = ""
        self.join(first, steps)

    # Who comes and goes.

    @precondition(lambda self: self.engine.has_room)
    @rule(coming=st.lists(REQUESTS, min_size=1, max_size=SLOTS), steps=STEPS)
    def come(self, coming: list[Coming], steps: int) -> None:
        self.join(coming, steps)

    def join(self, coming: list[Coming], steps: int) -> None:
        for shared, more, asked in coming[: SLOTS - len(self.live)]:
            self.prompt = self.prompt[:shared] + more
            asked = replace(asked, prompt=self.prompt + asked.prompt)
            client = Client(asked)
            self.engine.admit(asked, client, client)
            self.live.append(client)
        self.step(steps)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), leaves=st.sampled_from([False] * 7 + [True]), steps=STEPS)
    def rest_or_read_on_or_leave(self, data: st.DataObject, leaves: bool, steps: int) -> None:
        client = data.draw(st.sampled_from(self.live))
        if leaves:
            client.left = True
        else:
            client.reads, client.rests_with = not client.reads, None
        self.step(steps)

    # What the engine does.

    def step(self, count: int) -> None:
        for _ in range(count):
            self.engine.advance()
            for client in self.live:
                if not client.reads and not client.left and client.rests_with is None:
                    client.rests_with = len(client.events)

    @precondition(lambda self: any(client.rests_with is not None for client in self.live))
    @rule(forwards=st.integers(0, 1))
    def fail(self, forwards: int) -> None:
        """A step raises at its first forward or at its second; who rests has no part in it."""
        self.model.fail_in = forwards
        resting = [client for client in self.live if client.rests_with is not None and not client.left]
        try:
            self.step(1)
        except RuntimeError:
            self.engine.fail("injected")
        self.model.fail_in = None
        assert not any(client.has_ended for client in resting)

    @rule(steps=STEPS)
    def empty(self, steps: int) -> None:
        """Between two steps; whoever has a slot keeps what it holds."""
        before = self.slots.held()
        emptied = self.engine.empty()
        assert emptied == [slot for slot in before if not slot.busy and slot.nbytes]
        assert self.slots.held() == [slot if slot.busy else Held(False, 0, 0) for slot in before]
        self.step(steps)

    def teardown(self) -> None:
        """Nobody waits for those who rest; when they read on, they get the rest."""
        if not hasattr(self, "engine"):
            return
        self.answer_everybody_who_reads()
        for client in self.live:
            client.reads, client.rests_with = True, None
        self.answer_everybody_who_reads()
        assert not self.engine.is_live

    def answer_everybody_who_reads(self) -> None:
        """In as many steps as there are tokens, at most."""
        for _ in range(
            sum(len(client.asked.prompt) + (client.asked.max_tokens or 0) + 2 for client in self.live)
        ):
            if all(client.has_ended for client in self.live if client.reads):
                break
            self.step(1)
        assert all(client.has_ended for client in self.live if client.reads)
        self.each_has_what_it_has_alone()

    # What is always true.

    @invariant()
    def each_has_what_it_has_alone(self) -> None:
        ended = [client for client in self.live if client.has_ended]
        for client in ended:
            self.compare(client)
        self.live = [client for client in self.live if not client.has_ended]
        for client in self.live:
            assert client.rests_with in (None, len(client.events))
        assert [slot.busy for slot in self.slots.held()].count(True) == len(self.live)
        if ended:
            for number in range(SLOTS):
                self.check(number)

    def compare(self, client: Client) -> None:
        first, *middle, last = client.events
        assert isinstance(first, Started)
        told = [event for event in middle if isinstance(event, Progress)]
        assert bool(told) == client.asked.progress
        assert middle[: len(told)] == told
        chunks = middle[len(told) :]
        assert all(isinstance(event, Chunk) for event in chunks)
        processed = [event.processed_tokens for event in told]
        assert processed == sorted(processed)
        if told:
            assert processed[0] == told[0].cached_tokens
            assert not chunks or processed[-1] == told[-1].total_tokens == len(client.asked.prompt)
        expected = alone(self.kind, client.asked)
        if last == Failed("injected") or (client.left and last == Failed("request cancelled", 499)):
            assert text_of(expected).startswith(text_of(client.events))
        else:
            assert text_of(client.events) == text_of(expected)
            assert end(client.events) == end(expected)
        pairs = zip(logprobs(client.events), logprobs(expected), strict=False)
        assert all(abs(ours - theirs) < TOLERANCE for ours, theirs in pairs)

    def check(self, number: int) -> None:
        """Behind what a slot holds, and behind its checkpoints, the next logits are those of a fresh forward."""
        if not (tokens := self.slots.tokens(number)):
            return
        memory = self.slots.memory(number)
        assert memory.offset - len(tokens) in (0, 1)
        for end in {len(tokens), *map(memory.restorable, memory.points.positions)}:
            self.check_behind(number, tokens[:end])

    def check_behind(self, number: int, tokens: list[int]) -> None:
        memory = copy.deepcopy(self.slots.memory(number))
        assert memory.rewind(len(tokens))
        found = self.model.logits(forward(self.model, memory, [0]))[0, -1]
        expected = logits(self.model, [*tokens, 0])[-1]
        assert mx.allclose(found, expected, rtol=0, atol=TOLERANCE), f"slot {number} of {self.slots.held()}"


TestAnyCompany = AnyCompany.TestCase
TestAnyCompany.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)
