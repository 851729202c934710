"""Draws under a grammar: as often as the model says of what is allowed, with log-probabilities that say so too."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.generation.alone import complete
from runner.generation.masks import Masks
from runner.generation.sampling import make_sampler
from runner.types import Chunk, Done, Grammar, SamplingOptions
from tests.parts.fakes import ScriptedModel, loaded, request, text_of, tokenizer
from tests.parts.grammars import allowed
from tests.parts.models import loaded as loaded_from
from tests.parts.models import logits as logits_of
from tests.parts.sampling import SIZE, UNHURRIED, Distribution, Reference, chosen, follows, ids, values

LETTERS = Grammar("regex", "[a-h][0-9]")
DRAWS = 2_000
FLATTER = 2  # a tiny model is sure of itself; now several letters have a share
OPTIONS = {
    "plain": SamplingOptions(temperature=1.0),
    "warm": SamplingOptions(temperature=1.6),
    "top_k": SamplingOptions(temperature=1.0, top_k=4),
    "min_p": SamplingOptions(temperature=1.0, min_p=0.1),
    "bias": SamplingOptions(temperature=1.0, logit_bias=((0, 1.5), (65, 1.0), (70, -1.0))),
}


def shares(options: SamplingOptions, logits: list[float], may: set[int]) -> Distribution:
    """The exact distribution over the allowed tokens."""
    masked = [value if token in may else -math.inf for token, value in enumerate(logits)]
    reference = Reference(options, ())
    return {token: p for token, p in reference.distribution(reference.adjusted(masked)).items() if p > 0}


@pytest.mark.parametrize("name", OPTIONS)
def test_seeds_draw_what_is_allowed_as_often_as_the_model_says(name: str, tiny_model: Path) -> None:
    model, options = loaded_from(tiny_model), OPTIONS[name]
    logits = logits_of(model.model, model.tokenizer.encode("a letter: "))[-1:] / FLATTER
    matcher = model.grammars.matcher(LETTERS)
    may, mask = allowed(matcher), Masks(model.model.vocab_size).array(matcher.allowed())
    draws = [
        chosen(make_sampler(replace(options, seed=seed), logits.shape[1], (), 100), logits, mask).token
        for seed in range(DRAWS)
    ]
    seen = ids(mx.concatenate(draws))
    right = shares(options, values(logits[0]), may)
    assert model.tokenizer.decode(sorted(right)).strip("abcdefgh") == ""
    assert follows(seen, right)
    # The same test tells other distributions apart: a little warmer, and all that may be drawn alike.
    other = replace(options, temperature=1.5 * options.temperature)
    assert not follows(seen, shares(other, values(logits[0]), may))
    assert not follows(seen, dict.fromkeys(right, 1 / len(right)))


class EvenModel(ScriptedModel):
    """Has the same logits at every position."""

    def __init__(self, row: list[float]) -> None:
        super().__init__([], 0, context_length=4096)
        self.row = row

    def logits(self, hidden: mx.array) -> mx.array:
        return mx.broadcast_to(mx.array(self.row), (1, hidden.shape[1], self.vocab_size))


def uneven() -> list[float]:
    """Most of the probability is where no grammar here allows it."""
    row = [((token * 37) % 16) / 8 for token in range(ScriptedModel.vocab_size)]
    for token in tokenizer().encode("XYZ"):
        row[token] = 9.0
    return row


def test_an_answer_draws_at_each_place_what_may_stand_there_as_often_as_the_model_says() -> None:
    """Through the engine: letters and digits take turns, so no mask may be that of the place before."""
    row, coder = uneven(), tokenizer()
    options = SamplingOptions(temperature=1.3, seed=3)
    turns = Grammar("regex", "([a-f][0-4]){1500}")
    events = complete(loaded(EvenModel(row)), request("p", grammar=turns, sampling=options))
    assert isinstance(events[-1], Done)
    seen = coder.encode(text_of(events))
    assert len(seen) == 3000
    for first, letters in enumerate(("abcdef", "01234")):
        may = {token for token in range(len(row)) if coder.piece(token) in letters}
        assert follows(seen[first::2], shares(options, row, may))
        warmer = replace(options, temperature=1.8)
        assert not follows(seen[first::2], shares(warmer, row, may))


# --- log-probabilities -----------------------------------------------------------------------------------

EXTREMES = st.sampled_from([-math.inf, -3e38, -1e9, -1e4, 1e37, 1e9])
FLOOR = -9999.0


def log_softmax(logits: list[float], allowed: bytes) -> list[float]:
    """Of what is allowed, in float64, with the floor."""
    kept = [value for value, may in zip(logits, allowed, strict=True) if may]
    highest = max(kept)
    total = highest + math.log(sum(math.exp(value - highest) for value in kept))
    pairs = zip(logits, allowed, strict=True)
    return [max(value - total, FLOOR) if may else FLOOR for value, may in pairs]


@UNHURRIED
@given(
    logits=st.lists(
        st.one_of(st.integers(-80, 80).map(lambda x: x / 16), EXTREMES), min_size=SIZE, max_size=SIZE
    ),
    allowed=st.lists(st.booleans(), min_size=SIZE, max_size=SIZE).filter(any).map(bytes),
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    seed=st.integers(0, 99),
)
def test_logprobs_are_those_of_the_allowed_tokens_and_finite(
    logits: list[float], allowed: bytes, temperature: float, seed: int
) -> None:
    sampler = make_sampler(
        SamplingOptions(temperature=temperature, seed=seed), SIZE, (), 100, top_logprobs=SIZE
    )
    drawn = chosen(
        sampler, mx.array([logits]), mx.array([0.0 if may else -math.inf for may in allowed])
    ).read()
    assert all(map(math.isfinite, (drawn.logprob or 0.0, *(value for _, value in drawn.top))))
    assert sorted(token for token, _ in drawn.top) == list(range(SIZE))
    highest = max(value for value, may in zip(logits, allowed, strict=True) if may)
    assert allowed[drawn.token] or highest == -math.inf
    if abs(highest) < 100:  # of larger numbers float32 has too few digits
        wanted = log_softmax(logits, allowed)
        assert drawn.logprob == pytest.approx(wanted[drawn.token], rel=1e-5, abs=1e-5)
        for token, value in drawn.top:
            assert value == pytest.approx(wanted[token], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_with_logprobs_says_those_of_what_the_grammar_allowed(temperature: float) -> None:
    """The second place is certain: asked for logprobs, it is drawn too, with the logprob 0."""
    row, coder = uneven(), tokenizer()
    options = SamplingOptions(temperature=temperature, seed=1)
    wanted = request(
        "p", grammar=Grammar("regex", "[a-f]-[0-4]"), sampling=options, logprobs=True, top_logprobs=8
    )
    events = complete(loaded(EvenModel(row)), wanted)
    entries = [entry for event in events if isinstance(event, Chunk) for entry in event.logprobs]
    for entry, letters in zip(entries, ("abcdef", "-", "01234"), strict=True):
        allowed = bytes(coder.piece(token) in letters for token in range(len(row)))
        right = log_softmax(row, allowed)
        assert entry.logprob == pytest.approx(right[coder.encode(entry.token)[0]], abs=1e-5)
        best = [value for _, value in entry.top]
        assert best == pytest.approx(sorted(right, reverse=True)[:8], abs=1e-5)
        assert {token for token, value in entry.top if value > FLOOR} == set(letters)
