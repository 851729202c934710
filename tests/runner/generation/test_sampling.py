"""The sampler as a whole: what it draws when options meet, when they are extreme, when tokens are masked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from runner.errors import RunnerError
from runner.generation.sampling import arrays, draw, make_sampler
from runner.kernels import choice
from runner.kernels.choosing import PLAIN, Choosing
from runner.types import SamplingOptions
from tests.parts.choosing import PAIRS
from tests.parts.sampling import (
    CONTEXT,
    FILTERS,
    LOGITS,
    PENALTIES,
    SIZE,
    UNHURRIED,
    Reference,
    chosen,
    sampler_for,
    token_of,
    values,
)


@UNHURRIED
@given(
    rows=st.lists(LOGITS, min_size=4, max_size=4),
    prompt=st.lists(st.integers(0, SIZE - 1), max_size=8),
    options=st.builds(SamplingOptions, seed=st.integers(0, 2**64 - 1), **FILTERS, **PENALTIES),
)
def test_every_drawn_token_is_one_that_the_reference_allows(
    rows: list[list[float]], prompt: list[int], options: SamplingOptions
) -> None:
    sampler, reference = sampler_for(options, SIZE, prompt), Reference(options, prompt)
    for row in rows:
        adjusted = reference.adjusted(row)
        gaps = sorted(adjusted)
        assume(all(b - a > 1e-4 for a, b in pairwise(gaps)))
        token = token_of(sampler, row)
        assert token in reference.distribution(adjusted)
        reference.ring.append(token)


@UNHURRIED
@given(
    steps=st.lists(st.lists(LOGITS, min_size=3, max_size=3), min_size=2, max_size=4),
    prompts=st.lists(st.lists(st.integers(0, SIZE - 1), max_size=8), min_size=3, max_size=3),
    options=st.builds(SamplingOptions, **FILTERS, **PENALTIES),
)
def test_rows_drawn_together_get_what_each_gets_alone(
    steps: list[list[list[float]]], prompts: list[list[int]], options: SamplingOptions
) -> None:
    """Rows of one kind differ in their seeds and in what they said."""
    together, alone = (
        [sampler_for(replace(options, seed=seed), SIZE, prompt) for seed, prompt in enumerate(prompts)]
        for _ in range(2)
    )
    for rows in steps:
        drawn = [one.read() for one in draw(together, mx.array(rows))]
        assert drawn == [chosen(one, mx.array([row])).read() for one, row in zip(alone, rows, strict=True)]


def test_greedy_is_the_default_and_works_on_half_precision() -> None:
    logits = mx.array([[0.5, 4.0, 3.0]]).astype(mx.bfloat16)
    found = chosen(sampler_for(SamplingOptions(), 3), logits)
    assert values(found.token) == [1]
    assert found.token.shape == (1,)
    assert [values(array) for array in arrays([found])] == [[1]]


@UNHURRIED
@given(options=st.builds(SamplingOptions, seed=st.integers(0, 99), **FILTERS, **PENALTIES))
def test_a_masked_token_stays_impossible(options: SamplingOptions) -> None:
    logits = [0.1 * i if i in (4, 7) else -math.inf for i in range(SIZE)]
    assert token_of(sampler_for(options, SIZE, prompt=[4, 1, 2]), logits) in (4, 7)


EXTREMES: list[dict[str, Any]] = [
    *({"temperature": t} for t in (-1, 0, 1e-45, 1e-30, 1e30, 1e308)),
    *({"temperature": 1.0, "top_k": k} for k in (-5, 0, 1, SIZE, 10**9)),
    *({"temperature": 1.0, "top_p": p} for p in (-1, 0, 1e-45, 2)),
    *({"temperature": 1.0, "typical_p": p} for p in (-1, 0, 1e-45, 2)),
    *({"temperature": 1.0, "min_p": p} for p in (-1, 1e-45, 1, 2)),
    *({"repeat_last_n": n, "repeat_penalty": 1.1, "frequency_penalty": 1e308} for n in (-1, 1, 10**9)),
    *({"repeat_last_n": 9, "repeat_penalty": r, "presence_penalty": -1e308} for r in (-1, 1e-300, 1e308)),
    *({"temperature": 1.0, "seed": s} for s in (-1, 0, 2**63, 2**64, 10**30)),
    {
        "temperature": 1e-45,
        "logit_bias": ((3, 1e308), (4, -1e308)),
        "repeat_last_n": 3,
        "repeat_penalty": 1e-9,
    },
]


@pytest.mark.parametrize("mask", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("extreme", EXTREMES, ids=str)
def test_extreme_options_still_give_a_token_that_may_be_drawn(extreme: dict[str, Any], mask: bool) -> None:
    logits = [-math.inf if mask and i % 2 else math.sin(i) * 30 for i in range(SIZE)]
    sampler = sampler_for(SamplingOptions(**extreme), SIZE, prompt=[4, 1, 2])
    tokens = [token_of(sampler, logits) for _ in range(5)]
    assert all(0 <= token < SIZE and logits[token] > -math.inf for token in tokens)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_do_not_crash(temperature: float) -> None:
    options = SamplingOptions(
        temperature=temperature, top_k=3, top_p=0.9, repeat_last_n=4, repeat_penalty=1.2
    )
    found = chosen(sampler_for(options, SIZE, prompt=[1]), mx.array([[math.nan] * SIZE]))
    assert 0 <= values(found.token)[0] < SIZE


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(temperature=0.0),
        SamplingOptions(temperature=0.0, logit_bias=((1, 1e15),)),
        SamplingOptions(temperature=1.0, seed=3),
        SamplingOptions(temperature=1.0, seed=3, top_k=3, top_p=0.9, min_p=0.01, typical_p=0.9),
        SamplingOptions(temperature=1.0, seed=3, repeat_penalty=1.5, presence_penalty=-2.0, repeat_last_n=8),
    ],
)
def test_a_suppressed_token_is_never_drawn(options: SamplingOptions) -> None:
    """However likely it is and whatever is asked for; an id outside the vocabulary is nobody's."""
    sampler = make_sampler(options, 4, [1, 1], CONTEXT, suppressed={1, 3, 4, 99})
    drawn_ids = {int(values(chosen(sampler, mx.array([[1.0, 50.0, 0.5, 20.0]])).token)[0]) for _ in range(30)}
    assert drawn_ids <= {0, 2}


BAD = [math.nan, math.inf]
ANY = [
    SamplingOptions(),
    SamplingOptions(temperature=1.0, top_k=3, top_p=0.9),
    SamplingOptions(temperature=1.0),
    SamplingOptions(logit_bias=((2, -math.inf),)),
]


@pytest.mark.parametrize("choosing", [PLAIN, PAIRS], ids=["plain", "told in pairs"])
@pytest.mark.parametrize("options", ANY, ids=["greedy", "filtered", "sampled", "greedy and biased"])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("places", [[2], range(SIZE)], ids=["one", "all"])
def test_a_row_whose_logits_are_no_numbers_is_an_error_and_those_beside_it_are_drawn(
    options: SamplingOptions,
    bad: float,
    places: Sequence[int],
    choosing: Choosing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choice, "choosing", lambda: choosing)
    good = [0.5 * i for i in range(SIZE)]
    broken = [bad if i in places else value for i, value in enumerate(good)]
    samplers = [sampler_for(replace(options, seed=3), SIZE) for _ in range(3)]
    first, second, third = draw(samplers, mx.array([good, broken, good]))
    alone = chosen(sampler_for(replace(options, seed=3), SIZE), mx.array([good])).read()
    assert first.read() == third.read() == alone
    with pytest.raises(RunnerError, match="not finite"):
        second.read()
    assert values(second.token)[0] < SIZE  # the next step feeds it before anybody has read it
