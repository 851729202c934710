"""How much context a request has, who says so, and that a long one costs nothing before it is filled."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import replace

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.config.fields import MAX_POSITIONS
from runner.errors import PromptTooLong
from runner.generation.alone import complete
from runner.generation.penalties import ROOM, History
from runner.models import build
from runner.types import Done, SamplingOptions
from tests.parts import fakes
from tests.parts.architectures import CASES
from tests.parts.case import VOCABULARY, some_tokens
from tests.parts.fakes import Alarm, request, saying, text_of
from tests.parts.sampling import ids
from tests.parts.streams import PLAIN_TEXT

MODELS_OWN = 64
SMALL = 20_000_000  # bytes; an array of one number for each position would have 8.6 thousand million


def generated(prompt: str, loaded: int, asked: int | None, limit: int | None = None) -> tuple[str, int]:
    """How the answer of an endless model ends, and behind how many tokens."""
    model = replace(saying("x" * 100, prompt, context_length=MODELS_OWN), context_length=loaded)
    end = complete(model, request(prompt, max_tokens=limit, context_length=asked))[-1]
    assert isinstance(end, Done)
    return end.reason, end.usage.generated_tokens


@pytest.mark.parametrize(
    ("loaded", "asked", "context"),
    [(64, None, 64), (16, None, 16), (64, 16, 16), (16, 12, 12), (12, 16, 12), (64, 100, 64), (64, 64, 64)],
)
def test_the_least_of_what_model_loader_and_request_say_is_the_context(
    loaded: int, asked: int | None, context: int
) -> None:
    assert generated("p" * 5, loaded, asked) == ("length", context - 5)
    assert generated("p" * 5, loaded, asked, limit=3) == ("length", 3)
    assert generated("p" * (context - 1), loaded, asked) == ("length", 1)
    with pytest.raises(PromptTooLong, match=rf"\({context} tokens\) exceeds .* length \({context} tokens\)"):
        generated("p" * context, loaded, asked)


@pytest.mark.parametrize(
    ("loaded", "asked", "end"),
    [
        (64, None, "(64 tokens)"),
        (64, 99, "(64 tokens)"),
        (16, None, "(16 tokens), set by --context-length or OLLAMA_CONTEXT_LENGTH"),
        (16, 16, "(16 tokens), set by --context-length or OLLAMA_CONTEXT_LENGTH"),
        (16, 8, "(8 tokens), set by num_ctx"),
    ],
)
def test_the_refusal_says_who_set_the_limit(loaded: int, asked: int | None, end: str) -> None:
    with pytest.raises(PromptTooLong) as refused:
        generated("p" * 64, loaded, asked)
    assert str(refused.value).endswith(end)


@settings(max_examples=20)
@given(
    prompt=st.integers(0, 2 * ROOM).map(some_tokens),
    said=st.integers(0, 5 * ROOM).map(some_tokens),
    size=st.integers(1, 4 * ROOM),
)
def test_a_ring_that_grows_forgets_what_one_of_full_size_forgets(
    prompt: list[int], said: list[int], size: int
) -> None:
    history = History(VOCABULARY, size, prompt)
    for token in said:
        history.add(mx.array([token]))
    kept = Counter(deque([*prompt, *said], maxlen=size))
    assert ids(history.counts) == [kept[token] for token in range(VOCABULARY)]


@pytest.mark.usefixtures("nothing_left_over")
@pytest.mark.parametrize("name", CASES)
def test_a_context_of_two_thousand_million_tokens_costs_nothing(name: str) -> None:
    """No table, ring or mask has its size: not in a layer, not in a cache, not for penalties on all of it."""
    fields = {**CASES[name].fields, "max_position_embeddings": MAX_POSITIONS}
    model = build(replace(CASES[name], fields=fields).config)
    mx.eval(model.parameters())
    penalised = SamplingOptions(
        repeat_last_n=-1, repeat_penalty=1.1, logit_bias=tuple((int(i), v) for i, v in PLAIN_TEXT.items())
    )
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    events = complete(fakes.loaded(model), request("p" * 20, sampling=penalised), Alarm(9))
    assert len(text_of(events)) > 3
    assert mx.get_peak_memory() - held < SMALL
