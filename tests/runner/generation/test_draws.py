"""The draw from what is left: shares, seeds, keys."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import mlx.core as mx
import pytest

from runner.generation.draws import drawn, splitmix64
from runner.generation.sampling import Sampler
from runner.types import SamplingOptions
from tests.parts.sampling import SIZE, candidates, sampler_for, token_of, values

WEYL = 0x9E3779B97F4A7C15


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
