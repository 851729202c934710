"""Bias and penalties by hand, and against plain Python token by token."""

from __future__ import annotations

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import BadRequest
from runner.generation.penalties import biased, frequency_penalised, presence_penalised, repeat_penalised
from runner.types import SamplingOptions
from tests.parts.sampling import (
    LOGITS,
    PENALTIES,
    SIZE,
    UNHURRIED,
    Reference,
    chosen,
    ids,
    near,
    sampler_for,
    token_of,
)


def test_bias_is_added_to_its_tokens() -> None:
    assert near(biased(mx.array([1.0, 2.0, 3.0]), mx.array([2, 0]), mx.array([-1.0, 5.0])), [6, 2, 2])


def test_repeat_divides_what_is_positive_and_multiplies_what_is_negative() -> None:
    logits, counts = mx.array([2.0, -2.0, 2.0, 0.0]), mx.array([1.0, 3.0, 0.0, 1.0])
    assert near(repeat_penalised(logits, counts, 2.0), [1, -4, 2, 0])


def test_presence_counts_once_and_frequency_each_time() -> None:
    logits, counts = mx.array([1.0, 1.0, 1.0]), mx.array([0.0, 1.0, 3.0])
    assert near(presence_penalised(logits, counts, 0.5), [1, 0.5, 0.5])
    assert near(frequency_penalised(logits, counts, 0.5), [1, 0.5, -0.5])


@UNHURRIED
@given(
    rows=st.lists(LOGITS, min_size=6, max_size=6),
    prompt=st.lists(st.integers(0, SIZE - 1), max_size=8),
    options=st.builds(SamplingOptions, **PENALTIES),
)
def test_greedy_with_penalties_agrees_with_the_reference_token_by_token(
    rows: list[list[float]], prompt: list[int], options: SamplingOptions
) -> None:
    sampler, reference = sampler_for(options, SIZE, prompt), Reference(options, prompt)
    draws = [chosen(sampler, mx.array([row])).token for row in rows]  # all queued before one is known
    for row, draw in zip(rows, draws, strict=True):
        adjusted, token = reference.adjusted(row), ids(draw)[0]
        assert adjusted[token] == pytest.approx(max(adjusted), abs=1e-5)
        reference.ring.append(token)


def test_the_oldest_token_leaves_the_ring() -> None:
    sampler = sampler_for(SamplingOptions(repeat_last_n=2, presence_penalty=10.0), 4, prompt=[3, 2, 0])
    logits = [3.0, 2.0, 1.0, 0.0]
    # Before each choice the ring holds 2 0, 0 1, 1 3, 3 0, 0 1.
    assert [token_of(sampler, logits) for _ in range(5)] == [1, 2, 0, 1, 2]


def test_the_same_token_may_enter_and_leave_at_once() -> None:
    sampler = sampler_for(SamplingOptions(repeat_last_n=1, presence_penalty=1.0), 2, prompt=[0])
    assert [token_of(sampler, [9.0, 0.0]) for _ in range(4)] == [0, 0, 0, 0]


def test_prompt_ids_outside_the_vocabulary_are_not_counted() -> None:
    sampler = sampler_for(SamplingOptions(repeat_last_n=4, presence_penalty=1.0), 2, prompt=[7, -1, 10**6])
    assert token_of(sampler, [0.0, 0.5]) == 1


def test_penalties_need_a_ring() -> None:
    sampler = sampler_for(SamplingOptions(repeat_last_n=0, presence_penalty=10.0), 2, prompt=[0])
    assert token_of(sampler, [1.0, 0.0]) == 0


def test_bias_comes_before_penalties() -> None:
    # 0 + 4 is positive, so the penalty halves it; penalised first it would stay 4 and win.
    options = SamplingOptions(logit_bias=((0, 4.0),), repeat_last_n=1, repeat_penalty=2.0)
    assert token_of(sampler_for(options, 2, prompt=[0]), [0.0, 3.0]) == 1


@pytest.mark.parametrize("token", [-1, 5, 2**40])
def test_bias_on_no_token_names_both_numbers(token: int) -> None:
    with pytest.raises(BadRequest, match=f"{token} in a vocabulary of 5"):
        sampler_for(SamplingOptions(logit_bias=((0, 1.0), (token, 1.0))), 5)
