"""Log-probabilities of a draw: of the token that was drawn, and of the most probable ones.

V vocabulary, W entries of the top list.

Knows nothing about options or text.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from runner.generation.filters import largest_ids

LOGPROB_FLOOR = -9999.0  # the host's: JSON has no -inf


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Unevaluated. of_token [1] float32; top_ids [W] and top [W] float32, most probable first; W may be 0."""

    of_token: mx.array
    top_ids: mx.array
    top: mx.array

    @classmethod
    def measure(cls, raw: mx.array, token: mx.array, count: int) -> Logprobs:
        """log_softmax of the raw logits [V] at the token [1], and at the `count` largest (V at most)."""
        total = mx.logsumexp(raw)
        best = largest_ids(raw, min(count, raw.shape[0])) if count > 0 else mx.zeros(0, mx.uint32)
        best = best[mx.argsort(-raw[best])]
        return cls(raw[token] - total, best, raw[best] - total)

    def arrays(self) -> list[mx.array]:
        """What to evaluate."""
        return [self.of_token, self.top_ids, self.top]

    def read(self) -> tuple[float, tuple[tuple[int, float], ...]]:
        """As numbers: the token's, and (id, logprob) of the others; waits for the device."""
        top = zip(_ints(self.top_ids), _floored(self.top), strict=True)
        return _floored(self.of_token)[0], tuple(top)


def _ints(array: mx.array) -> list[int]:
    return array.tolist()  # type: ignore[return-value]  # typed as object


def _floored(array: mx.array) -> list[float]:
    values: list[float] = array.tolist()  # type: ignore[assignment]  # typed as object
    return [value if value > LOGPROB_FLOOR else LOGPROB_FLOOR for value in values]
