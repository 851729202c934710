"""Log-probabilities: of which logits, how many, and as numbers."""

from __future__ import annotations

import math

import mlx.core as mx
import pytest

from runner.generation.sampling import Drawn, arrays, make_sampler
from runner.types import SamplingOptions
from tests.parts.sampling import CONTEXT, chosen


def test_a_suppressed_token_has_no_part_in_logprobs() -> None:
    sampler = make_sampler(SamplingOptions(), 3, [], CONTEXT, top_logprobs=3, suppressed=[1])
    drawn = chosen(sampler, mx.array([[math.log(1), 9.0, math.log(3)]])).read()
    assert drawn.token == 2
    assert drawn.logprob == pytest.approx(math.log(0.75))
    assert [other for other, _ in drawn.top] == [2, 0, 1]
    assert [value for _, value in drawn.top] == pytest.approx([math.log(0.75), math.log(0.25), -9999.0])


def test_logprobs_are_those_of_the_raw_logits() -> None:
    options = SamplingOptions(logit_bias=((0, 50.0),), temperature=0.1, top_k=1, seed=1)
    p = [0.1, 0.2, 0.7]
    draw = chosen(
        make_sampler(options, 3, [], CONTEXT, top_logprobs=2), mx.array([[math.log(x) + 3 for x in p]])
    )
    drawn = draw.read()
    assert drawn.token == 0
    assert drawn.logprob == pytest.approx(math.log(0.1), abs=1e-5)
    assert [other for other, _ in drawn.top] == [2, 1]
    assert [value for _, value in drawn.top] == pytest.approx([math.log(0.7), math.log(0.2)], abs=1e-5)
    assert len(arrays([draw])) == 4


def test_the_top_list_is_no_wider_than_the_vocabulary_and_has_a_floor() -> None:
    draw = chosen(make_sampler(SamplingOptions(), 3, [], CONTEXT, 20), mx.array([[1.0, -math.inf, -1e6]]))
    assert draw.read().top == ((0, 0.0), (2, -9999.0), (1, -9999.0))


def test_no_alternatives_and_no_logprobs_are_two_things() -> None:
    logits = mx.array([[0.0, 0.0]])
    drawn = chosen(make_sampler(SamplingOptions(), 2, [], CONTEXT, 0), logits).read()
    assert drawn.logprob == pytest.approx(math.log(0.5))
    assert drawn.top == ()
    assert chosen(make_sampler(SamplingOptions(), 2, [], CONTEXT), logits).read() == Drawn(0)
