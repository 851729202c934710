"""Sliding windows: mlx-lm's own rotating cache as a second opinion."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from tests.parts.arrays import difference
from tests.parts.case import Case, some_tokens
from tests.parts.mlx_lm import RotatingKVCache
from tests.parts.models import logits, made
from tests.parts.references import reference

WINDOW = 9
MISTRAL = Case("Mistral window", "MistralForCausalLM", {"sliding_window": WINDOW}, windows=(WINDOW, WINDOW))


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
