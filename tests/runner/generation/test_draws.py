"""The draw from what is left: shares, noise, seeds."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.generation.draws import draw_key, drawn, exponentials, splitmix64, words
from runner.generation.filters import Candidates, narrowing
from runner.generation.sampling import Sampler
from runner.types import SamplingOptions
from tests.parts.sampling import (
    SIZE,
    UNHURRIED,
    candidates,
    chosen,
    ids,
    number,
    sampler_for,
    token_of,
    values,
)

WEYL = 0x9E3779B97F4A7C15


def test_the_draw_never_gives_a_token_of_probability_zero() -> None:
    found = candidates(0.0, 1e-30, 0.0)
    assert all(drawn(found, words(key)).tolist() == [1] for key in range(20))


@pytest.mark.parametrize("top_k", [0, 4])
def test_draws_follow_the_probabilities(top_k: int) -> None:
    p = [0.4, 0.3, 0.2, 0.1]
    options = SamplingOptions(temperature=1.0, top_k=top_k, seed=5)
    sampler = sampler_for(options, 5)
    logits = mx.array([[*map(math.log, p), -math.inf]])
    count = Counter(values(mx.concatenate([chosen(sampler, logits).token for _ in range(1000)])))
    # Four standard deviations of a share of 1000 draws are at most 0.062.
    assert [count[i] / 1000 for i in range(4)] == pytest.approx(p, abs=0.062)
    assert count[4] == 0


def test_splitmix64_known_values() -> None:
    outputs = [splitmix64(WEYL * n) for n in (1, 2, 3)]
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_each_draw_uses_the_key_of_its_number() -> None:
    """Seen from outside: a token's noise is what SplitMix64 gives at its id, counted from the draw's key."""
    logits = [0.3, 1.0, -0.5, 0.0]
    sampler = sampler_for(SamplingOptions(temperature=1.0, seed=2**63 + 7), 4)

    def arrival(number: int, token: int) -> float:
        key = splitmix64(2**63 + 7 + WEYL * (number + 1))
        uniform = (splitmix64(key + WEYL * (token + 1)) // 2**32 + 0.5) / 2**32
        return -math.log1p(-uniform) / math.exp(logits[token])

    expected = [min(range(4), key=lambda token: arrival(number, token)) for number in range(40)]
    assert [token_of(sampler, logits) for _ in range(40)] == expected


def test_rare_tokens_are_drawn_as_often_as_they_should() -> None:
    p = [0.5, 0.3, 0.19, 0.009, 0.001]
    places, draws = mx.array([7, 0, 151_935, 40, 8]), 200_000
    keys = words(*(draw_key(3, number) for number in range(draws)))
    winners = mx.argmin(exponentials(keys[:, None], places) / mx.array(p), axis=1)
    seen = [number(mx.sum(winners == place)) for place in range(len(p))]
    # The statistic of a right die exceeds 18.5 once in a thousand seeds (chi-square, 4 degrees of freedom).
    assert sum((n - draws * share) ** 2 / (draws * share) for n, share in zip(seen, p, strict=True)) < 18.5


def test_the_noise_of_neighbouring_ids_and_draws_has_nothing_in_common() -> None:
    draws = 20_000
    keys = words(*(draw_key(5, number) for number in range(draws)))
    noise = exponentials(keys[:, None], mx.arange(16)) - 1  # mean 0, variance 1
    together = noise.T @ noise / draws
    following = noise[1:].T @ noise[:-1] / draws
    # A correlation of 20,000 pairs is 0.007 from 0, a variance of so many 0.02 from 1: five times that.
    assert number(mx.max(mx.abs(together * (1 - mx.eye(16))))) < 0.035
    assert number(mx.max(mx.abs(mx.diag(together) - 1))) < 0.1
    assert number(mx.max(mx.abs(following))) < 0.035


# --- noise belongs to ids --------------------------------------------------------------------------------


@UNHURRIED
@given(st.integers(0, 2**64 - 1), st.permutations(range(8)), st.sets(st.integers(0, 7)))
def test_neither_the_order_of_candidates_nor_the_losers_matter(
    key: int, order: list[int], leaving: set[int]
) -> None:
    p = [0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.04, 0.01]
    (winner,) = ids(drawn(candidates(*p), words(key)))
    left = [place for place in order if place == winner or place not in leaving]
    found = Candidates(mx.array(left, mx.uint32), mx.array([p[place] for place in left]))
    assert ids(drawn(found, words(key))) == [winner]


CHAINS = {
    "top_p": SamplingOptions(temperature=1.0, top_p=0.9),
    "typical_p": SamplingOptions(temperature=1.0, typical_p=0.9),
    "top_k": SamplingOptions(temperature=1.0, top_k=40),
    "all": SamplingOptions(temperature=1.0, top_k=60, typical_p=0.9, top_p=0.9, min_p=0.05),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_rounding_changes_a_draw_only_where_it_moves_probability(name: str) -> None:
    """Logits in steps of 1/16, as half precision has them, have ties on every rank, and 1e-6 makes these change
    places. At the edge of a filter a tie decides who is in, and only there may a winner change: in a few of 2,000
    draws, where noise by rank changes hundreds.
    """
    rows, size = 2_000, 300
    narrow = narrowing(CHAINS[name], size)
    logits = mx.round(24 * mx.random.normal((rows, size), key=mx.random.key(1))) / 16
    rounded = logits + 1e-6 * mx.random.normal((rows, size), key=mx.random.key(2))
    keys = words(*(draw_key(9, row) for row in range(rows)))[:, None]
    draw = mx.vmap(lambda row, key: drawn(narrow(row), key))
    changed = number(mx.sum(draw(logits, keys) != draw(rounded, keys)))
    left = mx.vmap(lambda row: dense(narrow(row), size))
    moved = mx.abs(left(logits) - left(rounded)).sum(axis=1) / 2
    expected = number(mx.sum(2 * moved / (1 + moved)))  # at most so many: a law of such races
    assert changed <= expected + 4 * math.sqrt(expected)


def dense(found: Candidates, size: int) -> mx.array:
    """Candidates as a distribution over the whole vocabulary."""
    return mx.put_along_axis(mx.zeros(size), found.ids, found.p / mx.sum(found.p), axis=0)


# --- seeds -----------------------------------------------------------------------------------------------


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
    queued = [chosen(sampler, mx.array([row_of(step)])).token for step in range(20)]
    assert values(mx.concatenate(queued)) == tokens_of(sampler_for(SEEDED, SIZE), range(20))


def test_without_a_seed_two_requests_differ() -> None:
    unseeded = replace(SEEDED, temperature=5.0, seed=None)
    first, second = sampler_for(unseeded, SIZE), sampler_for(unseeded, SIZE)
    assert tokens_of(first, range(60)) != tokens_of(second, range(60))
