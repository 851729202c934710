"""Each filter by hand, all of them against plain Python."""

from __future__ import annotations

import math
from dataclasses import replace

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.generation.filters import above_share, largest_ids, narrowing, nucleus, tempered, typical
from runner.types import SamplingOptions
from tests.parts.sampling import (
    FILTERS,
    LOGITS,
    SIZE,
    UNHURRIED,
    Reference,
    candidates,
    distribution,
    near,
    values,
)


def test_the_largest_ids_are_those_of_the_largest_logits() -> None:
    assert sorted(values(largest_ids(mx.array([1.0, 5.0, -2.0, 4.0, 3.0]), 3))) == [1, 3, 4]


def test_temperature_divides_before_the_softmax() -> None:
    ratio = math.exp(2)
    assert near(tempered(mx.array([1.0, 0.0]), 0.5), [ratio / (1 + ratio), 1 / (1 + ratio)])


@pytest.mark.parametrize(
    ("mass", "kept"), [(0.49, {1}), (0.51, {1, 3}), (0.79, {1, 3}), (0.96, {0, 1, 3, 4})]
)
def test_top_p_keeps_while_the_mass_before_is_less(mass: float, kept: set[int]) -> None:
    found = nucleus(candidates(0.15, 0.5, 0.0, 0.3, 0.05), mass)
    assert set(distribution(found)) == kept


def test_top_p_keeps_the_first_whatever_it_is() -> None:
    assert distribution(nucleus(candidates(0.1, 0.6, 0.3), 1e-30)) == {1: 1.0}


def test_min_p_is_relative_to_the_most_probable() -> None:
    assert set(distribution(above_share(candidates(0.4, 0.2, 0.19, 0.1, 0.11), 0.5))) == {0, 1}
    assert set(distribution(above_share(candidates(0.4, 0.4, 0.2), 1.0))) == {0, 1}


def test_typical_keeps_what_surprises_as_much_as_the_mean() -> None:
    # H = 1.03 nats; surprises 0.51 0.92 2.30: the middle one is nearest, then the first, then the last.
    found = typical(candidates(0.5, 0.4, 0.1), 0.3)
    assert distribution(found) == {1: 1.0}
    assert distribution(typical(candidates(0.5, 0.4, 0.1), 0.45)) == pytest.approx({1: 4 / 9, 0: 5 / 9})
    assert near(mx.sum(typical(candidates(0.5, 0.4, 0.1), 0.45).p, keepdims=True), [1])


def test_a_token_of_probability_zero_is_never_typical() -> None:
    assert set(distribution(typical(candidates(0.5, 0.0, 0.5), 0.99))) == {0, 2}


@UNHURRIED
@given(logits=LOGITS, options=st.builds(SamplingOptions, **FILTERS))
def test_filters_agree_with_the_reference(logits: list[float], options: SamplingOptions) -> None:
    expected = Reference(options, ()).distribution(logits)
    assert distribution(narrowing(options, SIZE)(mx.array(logits))) == pytest.approx(expected, rel=1e-3)


@UNHURRIED
@given(st.integers(0, 2**32), st.sampled_from([1, 5, 40]), st.sampled_from([0.0, 0.5, 0.9]))
def test_the_sparse_path_equals_masking_the_whole_vocabulary(seed: int, top_k: int, top_p: float) -> None:
    logits = mx.random.permutation(mx.arange(500), key=mx.random.key(seed)) / 40
    options = SamplingOptions(temperature=0.9, top_k=top_k, top_p=top_p)
    floor = mx.sort(logits)[-top_k]
    dense = narrowing(replace(options, top_k=0), 500)(mx.where(logits < floor, -math.inf, logits))
    assert distribution(narrowing(options, 500)(logits)) == pytest.approx(distribution(dense), rel=1e-4)
