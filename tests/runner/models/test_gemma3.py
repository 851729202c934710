"""Gemma 3 beyond the common contract: names of multimodal checkpoints, the head, and half precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from runner.errors import BadModelFiles
from runner.layers.norms import ZeroCentredNorm
from runner.models import build
from tests.parts import prefixes
from tests.parts.architectures.gemma3 import FIELDS
from tests.parts.arrays import difference
from tests.parts.case import Case, some_tokens
from tests.parts.models import logits, made
from tests.parts.references import reference

TEXT = Case("Gemma3 names", "Gemma3ForCausalLM", FIELDS, windows=(9, None))
MULTIMODAL = Case("Gemma3 names", "Gemma3ForConditionalGeneration", FIELDS, windows=(9, None))
TOKENS = some_tokens(20)


@pytest.mark.parametrize(
    "spelled",
    [prefixes.outside, prefixes.inside, prefixes.bare],
    ids=["published", "transformers 5", "bare"],
)
def test_a_multimodal_checkpoint_loses_its_vision_and_nothing_else(spelled: Callable[[str], str]) -> None:
    theirs = reference(MULTIMODAL)
    vision = {
        "vision_tower.vision_model.embeddings.patch_embedding.weight": mx.zeros(3),
        "model.vision_tower.vision_model.post_layernorm.weight": mx.zeros(3),
        "multi_modal_projector.mm_input_projection_weight": mx.zeros(3),
        "model.multi_modal_projector.mm_soft_emb_norm.weight": mx.zeros(3),
    }
    weights = {spelled(name): array for name, array in theirs.weights.items()}
    model = made(MULTIMODAL, {**vision, **weights})
    assert difference(logits(model, TOKENS), theirs.logits(TOKENS)) < 1e-4


def test_vision_in_a_text_model_stays_for_the_loader_to_name() -> None:
    model = build(TEXT.config)
    assert "vision_tower.x" in model.rename({"vision_tower.x": mx.zeros(3)})


def test_a_tensor_that_is_there_under_two_prefixes_is_refused() -> None:
    model = build(TEXT.config)
    twice = {"model.layers.0.x": mx.zeros(3), "model.language_model.layers.0.x": mx.zeros(3)}
    with pytest.raises(BadModelFiles, match=r"model\.layers\.0\.x is there twice"):
        model.rename(twice)


@pytest.mark.parametrize("flag", [True, False, None])
def test_a_head_that_is_there_counts_whatever_the_flag_says(flag: bool | None) -> None:
    """transformers 5 does not tie a head to an embedding that it differs from either."""
    untied = Case(
        "Gemma3 names", "Gemma3ForCausalLM", {**FIELDS, "tie_word_embeddings": False}, windows=(9, None)
    )
    theirs = reference(untied)
    flagged = Case("Gemma3 names", "Gemma3ForCausalLM", {**FIELDS, "tie_word_embeddings": flag})
    model = made(flagged, theirs.weights)
    assert difference(logits(model, TOKENS), theirs.logits(TOKENS)) < 1e-4
    without = {name: array for name, array in theirs.weights.items() if name != "lm_head.weight"}
    tied: Any = made(flagged, without)
    assert tied.tied


def test_norms_of_bfloat16_models_are_computed_in_float32() -> None:
    """1 + weight in bfloat16, as mlx-lm has it, is off by up to 2^-9; transformers says 1 + weight.float()."""
    stored = mx.array([0.01, 0.003, -0.2, 5.3], mx.bfloat16)
    x = mx.array([[0.7, -3.0, 0.2, 1.1]], mx.bfloat16)
    weights = build(TEXT.config).rename({"model.norm.weight": stored})
    norm = ZeroCentredNorm(4, 1e-6)
    norm.weight = weights["model.norm.weight"]
    assert norm.weight.dtype == mx.float32
    assert mx.array_equal(norm.weight, 1 + stored.astype(mx.float32))
    wide = x.astype(mx.float32)
    exact = wide * mx.rsqrt((wide * wide).mean() + 1e-6) * (1 + stored.astype(mx.float32))
    assert norm(x).dtype == mx.bfloat16
    assert mx.array_equal(norm(x), exact.astype(mx.bfloat16))


def test_embeddings_are_scaled_in_the_dtype_of_the_weights() -> None:
    """transformers rounds the root of the width to that dtype; mlx-lm to bfloat16, whatever it is."""
    model: Any = build(TEXT.config)
    ids = mx.array([[1, 2]])
    rows = mx.random.normal(model.model.embed_tokens.weight.shape, key=mx.random.key(0))
    for dtype in (mx.float32, mx.bfloat16):
        model.model.embed_tokens.weight = rows.astype(dtype)
        scaled = model.model.embed(ids)
        assert scaled.dtype == dtype
        assert mx.array_equal(scaled, rows.astype(dtype)[ids] * mx.array(60**0.5, dtype))
    assert mx.array(60**0.5, mx.bfloat16).item() != pytest.approx(60**0.5, abs=1e-4), "it makes a difference"
