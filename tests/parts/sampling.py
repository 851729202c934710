"""The whole chain of sampling once more, in plain Python, and short ways to make and to read its arrays."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st

from runner.generation.filters import Candidates
from runner.generation.sampling import Draw, Sampler, draw, make_sampler
from runner.types import SamplingOptions

CONTEXT = 100
Distribution = dict[int, float]
UNHURRIED = settings(deadline=None, max_examples=60)  # the first use of an MLX operation can be slow


def values(array: mx.array) -> list[float]:
    result: list[float] = array.tolist()  # type: ignore[assignment]  # typed as object
    return result


def number(array: mx.array) -> float:
    return values(array.reshape(1))[0]


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


def chosen(sampler: Sampler, logits: mx.array, allowed: mx.array | None = None) -> Draw:
    """One draw of one row: logits [1,V]."""
    return draw([sampler], logits, allowed)[0]


def token_of(sampler: Sampler, logits: Sequence[float]) -> int:
    return chosen(sampler, mx.array([logits])).read().token


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


RARE = 5.0  # below so many expected draws a token is counted with the others of its kind
DEVIATIONS = 3.09  # a right die is beyond them once in a thousand seeds


def follows(seen: Sequence[int], expected: Distribution) -> bool:
    """Whether draws look like draws from a distribution: a chi-square test, its limit by Wilson and Hilferty."""
    count, draws = Counter(seen), len(seen)
    if any(expected.get(token, 0.0) == 0.0 for token in count):
        return False
    groups: list[tuple[float, float]] = []  # expected, seen
    rest = [0.0, 0.0]
    for token, share in expected.items():
        if draws * share >= RARE:
            groups.append((draws * share, count[token]))
        else:
            rest = [rest[0] + draws * share, rest[1] + count[token]]
    if rest[0] >= RARE:
        groups.append((rest[0], rest[1]))
    elif rest[1] > RARE + DEVIATIONS * math.sqrt(RARE):
        return False
    degrees = len(groups) - 1
    assert degrees > 0, "one token takes it all: nothing is tested"
    statistic = sum((met - wanted) ** 2 / wanted for wanted, met in groups)
    narrowed = 2 / (9 * degrees)
    return statistic < degrees * (1 - narrowed + DEVIATIONS * math.sqrt(narrowed)) ** 3
