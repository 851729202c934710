"""The engine on a scripted model: every way in, every way out, and what the slot holds afterwards."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import pytest

from runner.errors import EmptyPrompt, PromptTooLong
from runner.generation.alone import Collected, complete
from runner.generation.engine import Engine
from runner.loading.loaded_model import LoadedModel
from runner.types import Chunk, Done, Event, Failed, GenerateRequest, SamplingOptions, Started
from tests.parts import tiny
from tests.parts.fakes import (
    Alarm,
    RecurrentModel,
    ScriptedModel,
    held,
    loaded,
    request,
    saying,
    text_of,
    tokenizer,
)
from tests.parts.models import forward


def run(model: LoadedModel, wanted: GenerateRequest, cancel_after: int | None = None) -> list[Event]:
    return complete(model, wanted, Alarm(cancel_after))


def exhaust(engine: Engine) -> None:
    while engine.advance():
        pass


def done(events: list[Event]) -> Done:
    end = events[-1]
    assert isinstance(end, Done), events
    return end


def slot_is_true(model: LoadedModel) -> None:
    """The slot's tokens are those whose keys its storages hold, which may be one ahead."""
    tokens = model.slots.tokens(0)
    for storage in model.slots.memory(0).storages if tokens else ():
        assert held(storage)[: len(tokens)] == tokens
        assert len(held(storage)) - len(tokens) in (0, 1)


def test_a_short_answer_ends_at_eos_which_is_neither_sent_nor_counted() -> None:
    events = run(saying("fine", "how are you?"), request("how are you?"))
    assert isinstance(events[0], Started)
    assert text_of(events) == "fine"
    assert done(events).reason == "stop"
    assert done(events).usage.generated_tokens == 4


def test_a_token_that_the_models_files_suppress_is_never_sent() -> None:
    """The script then goes on as if it had been: here every other token is as likely, and the first one wins."""
    model = saying("fine", "how?")
    banned = model.tokenizer.encode("n")
    first = model.tokenizer.decode([0])
    assert (
        text_of(run(replace(model, tokenizer=tokenizer(suppressed=banned)), request("how?"))) == f"fi{first}e"
    )


def test_the_limit_ends_an_answer_with_length_and_nothing_is_forwarded_beyond_it() -> None:
    model = saying("fine", "how?")
    events = run(model, request("how?", max_tokens=2))
    assert text_of(events) == "fi"
    assert done(events).reason == "length"
    assert isinstance(model.model, ScriptedModel)
    assert sum(model.model.forwarded) == len("how?") + 1  # the last token's forward was never begun
    slot_is_true(model)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_each_generated_token_but_the_last_is_in_the_cache_after_a_limit(limit: int) -> None:
    model = saying("abcdef", "p")
    run(model, request("p", max_tokens=limit))
    assert model.tokenizer.decode(model.slots.tokens(0)) == "p" + "abcdef"[: limit - 1]
    slot_is_true(model)


def test_after_eos_the_cache_holds_the_eos_that_was_forwarded_ahead() -> None:
    model = saying("ab", "p")
    run(model, request("p"))
    assert model.slots.tokens(0)[-1] == tiny.EOS_ID
    slot_is_true(model)


def test_a_prompt_is_prefilled_in_chunks_the_last_of_which_gives_logits() -> None:
    model = saying("x", "p" * 20)
    run(model, request("p" * 20, max_tokens=1))
    assert isinstance(model.model, ScriptedModel)
    assert model.model.forwarded == [8, 8, 4]


def test_a_repeated_prompt_evaluates_its_last_token_again_and_no_other() -> None:
    model = saying("ok", "hello")
    first = done(run(model, request("hello"))).usage
    second = done(run(model, request("hello"))).usage
    assert (first.cached_tokens, second.cached_tokens) == (0, 4)
    assert second.prompt_tokens == 5
    slot_is_true(model)


def test_a_longer_prompt_keeps_the_common_part_and_an_edited_one_less() -> None:
    model = saying("ok", "hello")
    run(model, request("hello"))
    assert done(run(model, request("hello there"))).usage.cached_tokens == 5
    assert done(run(model, request("help"))).usage.cached_tokens == 3
    assert done(run(model, request("zzz"))).usage.cached_tokens == 0
    slot_is_true(model)


def test_cancel_in_prefill_keeps_the_finished_chunks() -> None:
    model = saying("x", "p" * 30)
    events = run(model, request("p" * 30), cancel_after=2)
    assert isinstance(events[-1], Failed)
    assert len(model.slots.tokens(0)) == 16
    slot_is_true(model)
    assert done(run(model, request("p" * 30))).usage.cached_tokens == 16


def test_cancel_in_decode_keeps_what_was_read_and_forgets_what_was_not() -> None:
    model = saying("abcdefgh", "p")
    events = run(model, request("p"), cancel_after=4)
    assert isinstance(events[-1], Failed)
    assert text_of(events) == "abc"
    assert model.tokenizer.decode(model.slots.tokens(0)) == "pabc"
    slot_is_true(model)


def test_a_failing_forward_ends_the_request_and_empties_its_slot() -> None:
    model = saying("abcdefgh", "p")
    assert isinstance(model.model, ScriptedModel)
    model.model.fail_at = 3
    engine, outlet = Engine(model, lambda: None), Collected()
    engine.admit(request("p"), outlet, Alarm())
    with pytest.raises(RuntimeError, match="Attempting to allocate"):
        exhaust(engine)
    assert not any(isinstance(event, Done | Failed) for event in outlet.events)
    engine.fail("out of memory")
    assert outlet.events[-1] == Failed("out of memory")
    assert not engine.is_live
    assert model.slots.tokens(0) == []
    model.model.fail_at = None
    assert text_of(run(model, request("p"))) == "abcdefgh"


def test_a_stop_string_ends_the_text_before_it_whatever_the_tokens() -> None:
    events = run(saying("SENDING_MORE", "p"), request("p", stop=("END",)))
    assert text_of(events) == "S"
    assert done(events).reason == "stop"


def test_a_half_seen_stop_string_is_released_at_the_end() -> None:
    assert text_of(run(saying("the EN", "p"), request("p", stop=("END",)))) == "the EN"
    assert text_of(run(saying("the ENX", "p"), request("p", stop=("END",), max_tokens=6))) == "the EN"


def test_a_stop_string_that_only_the_end_decides_still_counts_as_stop() -> None:
    events = run(saying("xabc", "p"), request("p", stop=("bc", "abcd"), max_tokens=4))
    assert text_of(events) == "xa"
    assert done(events).reason == "stop"


def test_characters_spread_over_tokens_arrive_whole() -> None:
    events = run(saying("a👩‍👩‍👧é漢", "p"), request("p"))
    assert text_of(events) == "a👩‍👩‍👧é漢"
    assert all("�" not in event.text for event in events if isinstance(event, Chunk))


def test_an_unfinished_character_at_the_end_becomes_a_replacement_character() -> None:
    assert text_of(run(saying("é", "p"), request("p", max_tokens=1))) == "�"


def test_every_token_sent_has_its_logprob_and_none_behind_a_stop_has() -> None:
    def entries(events: list[Event]) -> list[str]:
        return [e.token for event in events if isinstance(event, Chunk) for e in event.logprobs]

    assert entries(run(saying("é!", "p"), request("p", logprobs=True))) == ["�", "�", "!"]
    assert entries(run(saying("é", "p"), request("p", logprobs=True, max_tokens=1))) == ["�"]
    assert entries(run(saying("xENDy", "p"), request("p", logprobs=True, stop=("END",)))) == ["x"]
    assert entries(run(saying("xEN", "p"), request("p", logprobs=True, stop=("END",)))) == ["x", "E", "N"]


def test_top_logprobs_come_best_first() -> None:
    events = run(saying("a", "p"), request("p", logprobs=True, top_logprobs=3))
    (entry,) = (e for event in events if isinstance(event, Chunk) for e in event.logprobs)
    assert len(entry.top) == 3
    assert entry.top[0] == (entry.token, entry.logprob)
    assert [value for _, value in entry.top] == sorted((value for _, value in entry.top), reverse=True)


@pytest.mark.parametrize(("length", "expected"), [(1, 15), (15, 1)])
def test_generation_ends_where_the_context_is_full(length: int, expected: int) -> None:
    model = saying("x" * 40, "p" * length, context_length=16)
    end = done(run(model, request("p" * length)))
    assert (end.reason, end.usage.generated_tokens) == ("length", expected)


def test_a_prompt_as_long_as_the_context_is_refused_with_both_numbers() -> None:
    with pytest.raises(
        PromptTooLong, match=r"input length \(16 tokens\) exceeds .* context length \(16 tokens\)"
    ):
        run(saying("x", "p", context_length=16), request("p" * 16))


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(EmptyPrompt, match="empty prompt"):
        run(saying("x", "p"), request(""))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_logits_that_are_not_finite_are_an_error_not_a_stream_of_nonsense(
    after: int, temperature: float
) -> None:
    class Breaking(ScriptedModel):
        def logits(self, hidden):  # type: ignore[no-untyped-def]
            return mx.where(hidden >= self.start + after, mx.nan, super().logits(hidden))

    options = SamplingOptions(temperature=temperature, top_k=1)
    coder = tokenizer()
    model = loaded(Breaking(coder.encode("abcdef"), len("prompt") - 1))
    *_, end = events = run(model, request("prompt", sampling=options))
    assert isinstance(end, Failed)
    assert "not finite" in end.message
    assert text_of(events) == "abcdef"[:after]
    assert model.slots.match(coder.encode("prompt")).matched == 0  # nothing of it is kept


def test_durations_are_positive_and_prompt_time_includes_the_first_forward() -> None:
    usage = done(run(saying("abc", "p"), request("p"))).usage
    assert usage.prompt_ns > 0
    assert usage.generate_ns > 0


def test_sampling_with_a_seed_repeats_itself() -> None:
    options = SamplingOptions(temperature=3.0, seed=7)
    model = saying("abc", "p")
    first = text_of(run(model, request("p", sampling=options, max_tokens=20)))
    assert text_of(run(model, request("p", sampling=options, max_tokens=20))) == first


def cached(model: LoadedModel, prompt: str, **fields: int) -> int:
    """How many tokens of the prompt were there already; the caches are consistent before and after."""
    slot_is_true(model)
    usage = done(run(model, request(prompt, **fields))).usage
    slot_is_true(model)
    return usage.cached_tokens


def test_a_recurrent_model_forwards_the_prompts_tail_with_the_first_step() -> None:
    """So that there is a state to come back to before it, at no cost."""
    model = saying("x", "p" * 20, kind=RecurrentModel)
    assert text_of(run(model, request("p" * 20))) == "x"
    assert isinstance(model.model, ScriptedModel)
    assert model.model.forwarded == [8, 8, 4, 1, 1]


def test_a_retry_of_a_recurrent_model_starts_before_the_prompts_tail() -> None:
    model = saying("an answer", "a prompt", kind=RecurrentModel)
    assert [cached(model, "a prompt") for _ in range(3)] == [0, 4, 4]


def test_the_next_turn_of_a_recurrent_model_keeps_everything() -> None:
    prompt = "question: "
    model = saying("answer", prompt, kind=RecurrentModel)
    assert cached(model, prompt, max_tokens=4) == 0
    assert cached(model, "question: answer? ", max_tokens=4) == len("question: ans")
    assert cached(model, "question: answer? more?", max_tokens=4) == len("question: answer? ")


@pytest.mark.parametrize("changed", [1, 2, 3, 4])
def test_a_template_that_writes_the_end_of_the_prompt_anew_costs_a_recurrent_model_its_tail(
    changed: int,
) -> None:
    """As with an opened thought that the next turn leaves out."""
    prompt = "a question<>--"
    model = saying("thoughts and answer", prompt, kind=RecurrentModel)
    cached(model, prompt)
    assert cached(model, prompt[: len(prompt) - changed] + "answer and so on") == len(prompt) - 4


def test_an_edited_last_turn_of_a_recurrent_model_starts_where_that_turn_did() -> None:
    model = saying("x", "first turn", kind=RecurrentModel)
    cached(model, "first turn", max_tokens=1)
    assert cached(model, "first turn, second turn", max_tokens=1) == len("first turn")
    assert cached(model, "first turn, another turn", max_tokens=1) == len("first turn")
    assert cached(model, "first two", max_tokens=1) == len("first turn") - 4, "the first turn's tail"
    assert cached(model, "fir", max_tokens=1) == 0, "there was no checkpoint so early"


def test_an_unwanted_last_token_costs_a_recurrent_model_nothing() -> None:
    """EOS was forwarded, but the next prompt goes on without it."""
    model = saying("ab", "prompt", kind=RecurrentModel)
    cached(model, "prompt")
    assert model.slots.tokens(0)[-1] == tiny.EOS_ID
    assert cached(model, "promptab and more") == len("promptab")


def test_a_cancelled_prefill_of_a_recurrent_model_is_taken_up_where_it_ended() -> None:
    model = saying("x", "p" * 30, kind=RecurrentModel)
    run(model, request("p" * 30), cancel_after=2)
    assert cached(model, "p" * 30) == 16


def test_a_short_prompt_of_a_recurrent_model_is_all_tail() -> None:
    model = saying("ok", "hey", kind=RecurrentModel)
    assert text_of(run(model, request("hey"))) == "ok"
    assert cached(model, "hey") == 0
    assert cached(model, "heyok, you") == len("heyok")


def test_a_slot_that_ran_ahead_goes_back_to_the_furthest_point_that_all_layers_can_restore() -> None:
    """The engine reads every token that it forwards but the last; others need not."""
    model = saying("x", "p", kind=RecurrentModel)
    slots = model.slots
    slots.take(0)
    memory = slots.begin(0, matched=0, total=9)
    forward(model.model, memory, [1, 2, 3])
    memory.checkpoint()
    for token in (4, 5, 6):
        forward(model.model, memory, [token])
    slots.give(0, [1, 2, 3, 4])
    assert slots.tokens(0) == [1, 2, 3, 4]
    assert slots.match([1, 2, 3, 4, 5]).matched == 3, "the recurrent layer holds 3, the last two and 6"
    assert slots.match([1, 2, 3]).matched == 0, "2 is no position that it holds"


def test_a_slot_that_was_taken_and_not_begun_holds_what_it_held() -> None:
    """A request may be cancelled before its first step."""
    model = saying("x", "prompt")
    run(model, request("prompt"))
    before = model.slots.tokens(0)
    assert before
    assert isinstance(run(model, request("another"), cancel_after=0)[-1], Failed)
    assert model.slots.tokens(0) == before
    slot_is_true(model)


def test_the_log_says_how_much_more_a_cache_would_have_had(caplog: pytest.LogCaptureFixture) -> None:
    model = saying("x", "a prompt", kind=RecurrentModel)
    with caplog.at_level("INFO", "runner.cache.slots"):
        for prompt in ("a prompt", "a prompt", "a private one", "a private one and"):
            run(model, request(prompt))
    told = [
        (record.msg, getattr(record, "cached", 0), getattr(record, "shared", None))
        for record in caplog.records
    ]
    assert told == [
        ("Cache miss", 0, None),
        ("Cache hit", 4, 7),
        ("Cache hit", 4, None),
        ("Cache hit", 13, None),
    ]
