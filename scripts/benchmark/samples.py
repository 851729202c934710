"""What one request gave, and the arithmetic of many.

Knows nothing about where the figures come from.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CERTAIN = 0.95


class Trouble(Exception):
    """Something that the person at the keyboard can mend; the message is one line."""


@dataclass(frozen=True)
class Prompt:
    text: str
    ids: list[int]


@dataclass(frozen=True)
class Sample:
    """One request: speeds in tokens per second, and what came, to compare. tokens: place -> id, where known.
    peak_bytes: what MLX held at most meanwhile, where known.
    """

    prefill: float
    decode: float
    first_s: float
    text: str
    tokens: dict[int, int]
    peak_bytes: int = 0


Bias = tuple[tuple[int, float], ...]
"""(token id, what is added to its logit)"""


def decode_rate(generated: int, seconds: float) -> float:
    """Tokens after the first, over the time that they took."""
    return (generated - 1) / seconds if seconds > 0 else 0.0


def median(values: Sequence[float]) -> float:
    return rounded(statistics.median(values))


def rounded(value: float) -> float:
    """Four digits: more are noise."""
    return float(f"{value:.4g}")


def speeds(found: Sequence[Sample]) -> dict[str, float]:
    return {
        "prefill": median([sample.prefill for sample in found]),
        "decode": median([sample.decode for sample in found]),
        "first_token_s": median([sample.first_s for sample in found]),
        "best_prefill": rounded(max(sample.prefill for sample in found)),
        "best_decode": rounded(max(sample.decode for sample in found)),
    }


def ratios(ours: Sequence[Sample], theirs: Sequence[Sample]) -> dict[str, list[float]]:
    """Quotients within each round."""
    both = list(zip(ours, theirs, strict=True))
    return {
        "prefill": [a.prefill / b.prefill for a, b in both],
        "decode": [a.decode / b.decode for a, b in both],
    }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the true median lies in 95 cases of 100, however values are distributed; of few values, their range.

    The k-th value from one end lies beyond the median as often as n coins show heads fewer than k times.
    """
    ordered, count = sorted(values), len(values)
    beyond, outside = 0, 0.0
    while (outside := outside + math.comb(count, beyond) / 2**count) <= (1 - CERTAIN) / 2:
        beyond += 1
    place = max(beyond - 1, 0)
    return ordered[place], ordered[-1 - place]
