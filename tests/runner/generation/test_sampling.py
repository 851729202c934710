"""The sampler against hand-computed cases and against a plain Python version of the whole chain."""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from runner.errors import BadRequest
from runner.generation.sampling import (
    Candidates,
    Sampler,
    above_share,
    biased,
    drawn,
    frequency_penalised,
    make_sampler,
    narrowing,
    nucleus,
    presence_penalised,
    repeat_penalised,
    splitmix64,
    tempered,
    top_ids,
    typical,
)
from runner.types import SamplingOptions

WEYL = 0x9E3779B97F4A7C15
CONTEXT = 100
Distribution = dict[int, float]
UNHURRIED = settings(deadline=None, max_examples=60)  # the first use of an MLX operation can be slow


def values(array: mx.array) -> list[float]:
    result: list[float] = array.tolist()  # type: ignore[assignment]  # typed as object
    return result


def ids(array: mx.array) -> list[int]:
    return [int(value) for value in values(array)]


def near(array: mx.array, expected: Sequence[float]) -> bool:
    return values(array) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def candidates(*p: float) -> Candidates:
    return Candidates(mx.arange(len(p), dtype=mx.uint32), mx.array(p))


def distribution(found: Candidates) -> Distribution:
    """id -> probability of what is left, normalised."""
    total = sum(values(found.p))
    pairs = zip(values(found.ids), values(found.p), strict=True)
    return {int(i): p / total for i, p in pairs if p > 0}


def sampler_for(options: SamplingOptions, size: int, prompt: Sequence[int] = ()) -> Sampler:
    return make_sampler(options, size, prompt, CONTEXT)


def token_of(sampler: Sampler, logits: Sequence[float]) -> int:
    return ids(sampler(mx.array([logits])).token)[0]


# --- each step, by hand ----------------------------------------------------------------------------------


def test_bias_is_added_to_its_tokens() -> None:
    assert near(biased(mx.array([1.0, 2.0, 3.0]), mx.array([2, 0]), mx.array([-1.0, 5.0])), [6, 2, 2])


def test_repeat_divides_what_is_positive_and_multiplies_what_is_negative() -> None:
    logits, counts = mx.array([2.0, -2.0, 2.0, 0.0]), mx.array([1.0, 3.0, 0.0, 1.0])
    assert near(repeat_penalised(logits, counts, 2.0), [1, -4, 2, 0])


def test_presence_counts_once_and_frequency_each_time() -> None:
    logits, counts = mx.array([1.0, 1.0, 1.0]), mx.array([0.0, 1.0, 3.0])
    assert near(presence_penalised(logits, counts, 0.5), [1, 0.5, 0.5])
    assert near(frequency_penalised(logits, counts, 0.5), [1, 0.5, -0.5])


def test_top_ids_are_the_largest_in_order() -> None:
    assert values(top_ids(mx.array([1.0, 5.0, -2.0, 4.0, 3.0]), 3)) == [1, 3, 4]


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


def test_the_draw_never_gives_a_token_of_probability_zero() -> None:
    found = candidates(0.0, 1e-30, 0.0)
    assert all(drawn(found, mx.random.key(i)).tolist() == [1] for i in range(20))


@pytest.mark.parametrize("top_k", [0, 4])
def test_draws_follow_the_probabilities(top_k: int) -> None:
    p = [0.4, 0.3, 0.2, 0.1]
    options = SamplingOptions(temperature=1.0, top_k=top_k, seed=5)
    sampler = sampler_for(options, 5)
    logits = mx.array([[*map(math.log, p), -math.inf]])
    count = Counter(values(mx.concatenate([sampler(logits).token for _ in range(4000)])))
    # Four standard deviations of a share of 4000 draws are at most 0.032.
    assert [count[i] / 4000 for i in range(4)] == pytest.approx(p, abs=0.032)
    assert count[4] == 0


# --- the whole chain against plain Python ----------------------------------------------------------------


class Reference:
    """The chain in float64, one number at a time."""

    def __init__(self, options: SamplingOptions, prompt: Iterable[int]) -> None:
        last_n = options.repeat_last_n
        self.options = options
        self.ring = deque(prompt, maxlen=CONTEXT if last_n < 0 else last_n)

    def adjusted(self, logits: Sequence[float]) -> list[float]:
        result, o = list(logits), self.options
        for token, value in o.logit_bias:
            result[token] += value
        for token, count in Counter(self.ring).items():
            if o.repeat_penalty > 0:
                result[token] *= o.repeat_penalty if result[token] < 0 else 1 / o.repeat_penalty
            result[token] -= o.presence_penalty + o.frequency_penalty * count
        return result

    def distribution(self, logits: Sequence[float]) -> Distribution:
        o = self.options
        order = sorted(range(len(logits)), key=lambda i: -logits[i])
        order = order[: o.top_k] if 0 < o.top_k < len(logits) else order
        p = normalised({i: math.exp((logits[i] - logits[order[0]]) / o.temperature) for i in order})
        if 0 < o.typical_p < 1:
            mean = -sum(x * math.log(x) for x in p.values() if x > 0)
            p = normalised(up_to(p, sorted(p, key=lambda i: abs(-math.log(p[i]) - mean)), o.typical_p))
        if 0 < o.top_p < 1:
            p = up_to(p, sorted(p, key=lambda i: -p[i]), o.top_p)
        if 0 < o.min_p <= 1:
            p = {i: x for i, x in p.items() if x >= o.min_p * max(p.values())}
        return normalised(p)


def normalised(p: Distribution) -> Distribution:
    return {i: x / sum(p.values()) for i, x in p.items()}


def up_to(p: Distribution, order: Iterable[int], mass: float) -> Distribution:
    kept, before = {}, 0.0
    for i in order:
        assume(abs(before - mass) > 1e-4)  # at the edge, float32 and float64 may disagree
        if before < mass:
            kept[i] = p[i]
        before += p[i]
    return kept


SIZE = 12
# Steps of a sixteenth, all different: no ties, which no formula decides.
LOGITS = st.lists(st.integers(-80, 80), min_size=SIZE, max_size=SIZE, unique=True).map(
    lambda xs: [x / 16 for x in xs]
)
FILTERS: dict[str, Any] = {
    "temperature": st.sampled_from([0.3, 0.8, 1.0, 2.5]),
    "top_k": st.integers(-1, SIZE + 1),
    "top_p": st.sampled_from([0.0, 0.3, 0.7, 0.9, 1.0]),
    "min_p": st.sampled_from([0.0, 0.013, 0.17, 1.0]),
    "typical_p": st.sampled_from([0.0, 0.0, 0.2, 0.6, 0.95, 1.0]),
}
PENALTIES: dict[str, Any] = {
    "repeat_last_n": st.sampled_from([-1, 0, 1, 2, 3, 7, 1000]),
    "repeat_penalty": st.sampled_from([0.0, 1.0, 1.3, 0.7]),
    "presence_penalty": st.sampled_from([0.0, 0.7, -0.4]),
    "frequency_penalty": st.sampled_from([0.0, 0.3]),
    "logit_bias": st.sampled_from([(), ((3, 2.5), (0, -1.5))]),
}


@UNHURRIED
@given(logits=LOGITS, options=st.builds(SamplingOptions, **FILTERS))
def test_filters_agree_with_the_reference(logits: list[float], options: SamplingOptions) -> None:
    expected = Reference(options, ()).distribution(logits)
    assert distribution(narrowing(options, SIZE)(mx.array(logits))) == pytest.approx(expected, rel=1e-3)


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
    draws = [sampler(mx.array([row])).token for row in rows]  # all queued before one is known
    for row, draw in zip(rows, draws, strict=True):
        adjusted, token = reference.adjusted(row), ids(draw)[0]
        assert adjusted[token] == pytest.approx(max(adjusted), abs=1e-5)
        reference.ring.append(token)


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


# --- greedy, bias, masks ---------------------------------------------------------------------------------


def test_greedy_is_the_default_and_works_on_half_precision() -> None:
    logits = mx.array([[0.5, 4.0, 3.0]]).astype(mx.bfloat16)
    draw = sampler_for(SamplingOptions(), 3)(logits)
    assert values(draw.token) == [1]
    assert draw.token.shape == (1,)
    assert draw.arrays() == [draw.token]


def test_bias_comes_before_penalties() -> None:
    # 0 + 4 is positive, so the penalty halves it; penalised first it would stay 4 and win.
    options = SamplingOptions(logit_bias=((0, 4.0),), repeat_last_n=1, repeat_penalty=2.0)
    assert token_of(sampler_for(options, 2, prompt=[0]), [0.0, 3.0]) == 1


@pytest.mark.parametrize("token", [-1, 5, 2**40])
def test_bias_on_no_token_names_both_numbers(token: int) -> None:
    with pytest.raises(BadRequest, match=f"{token} in a vocabulary of 5"):
        sampler_for(SamplingOptions(logit_bias=((0, 1.0), (token, 1.0))), 5)


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
    assert 0 <= token_of(sampler_for(options, SIZE, prompt=[1]), [math.nan] * SIZE) < SIZE


# --- sparse and dense ------------------------------------------------------------------------------------


@UNHURRIED
@given(st.integers(0, 2**32), st.sampled_from([1, 5, 40]), st.sampled_from([0.0, 0.5, 0.9]))
def test_the_sparse_path_equals_masking_the_whole_vocabulary(seed: int, top_k: int, top_p: float) -> None:
    logits = mx.random.permutation(mx.arange(500), key=mx.random.key(seed)) / 40
    options = SamplingOptions(temperature=0.9, top_k=top_k, top_p=top_p)
    floor = mx.sort(logits)[-top_k]
    dense = narrowing(replace(options, top_k=0), 500)(mx.where(logits < floor, -math.inf, logits))
    assert distribution(narrowing(options, 500)(logits)) == pytest.approx(distribution(dense), rel=1e-4)


# --- seeds -----------------------------------------------------------------------------------------------


def test_splitmix64_known_values() -> None:
    outputs = [splitmix64(WEYL * n) for n in (1, 2, 3)]
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_each_draw_uses_the_key_of_its_number() -> None:
    logits = mx.array([[0.3, 1.0, -0.5, 0.0]])
    sampler = sampler_for(SamplingOptions(temperature=1.0, seed=2**63 + 7), 4)
    keys = [mx.random.key(splitmix64(2**63 + 7 + WEYL * (n + 1))) for n in range(20)]
    expected = [mx.random.categorical(logits[0], key=key).item() for key in keys]
    assert [sampler(logits).token.item() for _ in range(20)] == expected


def row_of(step: int) -> list[float]:
    return [random.Random(step).gauss(0, 2) for _ in range(SIZE)]


def tokens_of(sampler: Sampler, steps: Iterable[int]) -> list[int]:
    return [token_of(sampler, row_of(step)) for step in steps]


SEEDED = SamplingOptions(temperature=1.0, top_k=8, top_p=0.95, repeat_last_n=4, repeat_penalty=1.2, seed=11)


def test_the_same_seed_gives_the_same_tokens_beside_another_request() -> None:
    alone = tokens_of(sampler_for(SEEDED, SIZE), range(20))
    sampler, other = sampler_for(SEEDED, SIZE), sampler_for(replace(SEEDED, seed=12), SIZE)
    beside = []
    for step in range(20):
        mx.random.seed(step)  # the global state has no part in it either
        token_of(other, row_of(step))
        beside.append(token_of(sampler, row_of(step)))
    assert beside == alone
    assert tokens_of(sampler_for(replace(SEEDED, seed=13), SIZE), range(20)) != alone


def test_queued_draws_equal_draws_read_one_by_one() -> None:
    sampler = sampler_for(SEEDED, SIZE)
    queued = [sampler(mx.array([row_of(step)])).token for step in range(20)]
    assert values(mx.concatenate(queued)) == tokens_of(sampler_for(SEEDED, SIZE), range(20))


def test_without_a_seed_two_requests_differ() -> None:
    unseeded = replace(SEEDED, temperature=5.0, seed=None)
    first, second = sampler_for(unseeded, SIZE), sampler_for(unseeded, SIZE)
    assert tokens_of(first, range(60)) != tokens_of(second, range(60))


# --- suppressed tokens -----------------------------------------------------------------------------------


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
    drawn_ids = {int(values(sampler(mx.array([[1.0, 50.0, 0.5, 20.0]])).token)[0]) for _ in range(30)}
    assert drawn_ids <= {0, 2}


def test_a_suppressed_token_has_no_part_in_logprobs() -> None:
    sampler = make_sampler(SamplingOptions(), 3, [], CONTEXT, top_logprobs=3, suppressed=[1])
    entry = sampler(mx.array([[math.log(1), 9.0, math.log(3)]])).read()
    assert entry.token == 2
    assert entry.logprob == pytest.approx(math.log(0.75))
    assert [token for token, _ in entry.top] == [2, 0, 1]
    assert [value for _, value in entry.top] == pytest.approx([math.log(0.75), math.log(0.25), -9999.0])


# --- log-probabilities -----------------------------------------------------------------------------------


def test_logprobs_are_those_of_the_raw_logits() -> None:
    options = SamplingOptions(logit_bias=((0, 50.0),), temperature=0.1, top_k=1, seed=1)
    p = [0.1, 0.2, 0.7]
    draw = make_sampler(options, 3, [], CONTEXT, top_logprobs=2)(mx.array([[math.log(x) + 3 for x in p]]))
    entry = draw.read()
    assert entry.token == 0
    assert entry.logprob == pytest.approx(math.log(0.1), abs=1e-5)
    assert [token for token, _ in entry.top] == [2, 1]
    assert [value for _, value in entry.top] == pytest.approx([math.log(0.7), math.log(0.2)], abs=1e-5)
    assert len(draw.arrays()) == 4


def test_the_top_list_is_no_wider_than_the_vocabulary_and_has_a_floor() -> None:
    draw = make_sampler(SamplingOptions(), 3, [], CONTEXT, 20)(mx.array([[1.0, -math.inf, -1e6]]))
    assert draw.read().top == ((0, 0.0), (2, -9999.0), (1, -9999.0))


def test_no_alternatives_and_no_logprobs_are_two_things() -> None:
    logits = mx.array([[0.0, 0.0]])
    entry = make_sampler(SamplingOptions(), 2, [], CONTEXT, 0)(logits).read()
    assert entry.logprob == pytest.approx(math.log(0.5))
    assert entry.top == ()
    assert make_sampler(SamplingOptions(), 2, [], CONTEXT)(logits).read().logprob is None
