"""Sliding windows: the storage that shows a window, and mlx-lm's own rotating cache as a second opinion."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.cache.windowed import WindowedKVCache
from tests.parts.arrays import difference
from tests.parts.case import Case, some_tokens
from tests.parts.mlx_lm import RotatingKVCache
from tests.parts.models import logits, made
from tests.parts.references import reference

WINDOW = 9
MISTRAL = Case("Mistral window", "MistralForCausalLM", {"sliding_window": WINDOW}, windows=(WINDOW, WINDOW))


def numbered(start: int, length: int) -> mx.array:
    """Keys [1,1,L,1] that hold their own positions."""
    return mx.arange(start, start + length, dtype=mx.float32).reshape(1, 1, length, 1)


def seen(cache: WindowedKVCache, length: int) -> list[list[int]]:
    """The positions that each of the next `length` queries sees."""
    start = cache.offset
    mask = cache.mask(length)
    keys, _ = cache.update(numbered(start, length), numbered(start, length))
    shown: Any = keys.reshape(-1).tolist()
    if isinstance(mask, str):
        assert mask == "causal"
        behind = len(shown) - length
        return [shown[: behind + i + 1] for i in range(length)]
    if mask is None:
        assert length == 1
        return [shown]
    allowed: Any = mask.tolist()
    return [[key for key, yes in zip(shown, row, strict=True) if yes] for row in allowed]


@settings(deadline=None, max_examples=60)
@given(
    window=st.integers(1, 12),
    steps=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 6)), min_size=1, max_size=8),
)
def test_a_query_sees_itself_and_the_positions_before_it_up_to_the_window(
    window: int, steps: list[tuple[int, int]]
) -> None:
    """Whatever chunks and rewinds came before: i sees every j with i - window < j <= i, and nothing else."""
    cache = WindowedKVCache(window)
    for length, back in steps:
        start = cache.offset
        expected = [[j for j in range(i + 1) if j > i - window] for i in range(start, start + length)]
        assert seen(cache, length) == expected
        assert cache.rewind(max(0, cache.offset - back))


def test_decoding_needs_no_mask_and_shows_no_more_than_the_window() -> None:
    cache = WindowedKVCache(WINDOW)
    seen(cache, 30)
    assert cache.mask(1) is None
    keys, values = cache.update(numbered(30, 1), numbered(30, 1))
    assert keys.shape == values.shape == (1, 1, WINDOW, 1)


@pytest.mark.parametrize("sizes", [(40,), (5, 1), (1,)])
def test_mistral_is_mlx_lms_with_its_rotating_cache(sizes: tuple[int, ...]) -> None:
    """mlx-lm's Mistral overlooks sliding_window, but its rotating caches of that size have the same meaning.
    A chunk of ours is compared with its one token at a time.
    """
    mistral = reference(MISTRAL)
    tokens = some_tokens(40)
    caches: list[Any] = [RotatingKVCache(max_size=WINDOW) for _ in MISTRAL.windows]  # type: ignore[no-untyped-call]  # mlx-lm leaves it open
    theirs = mx.concatenate([mistral.model(mx.array([[token]]), caches)[0] for token in tokens])
    ours = made(MISTRAL, mistral.checkpoint())
    assert difference(logits(ours, tokens, sizes), theirs) < 1e-4
