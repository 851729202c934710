"""From a checkpoint's names to ours, and whether the head is tied."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from runner.errors import BadModelFiles
from tests.parts.arrays import difference
from tests.parts.case import Case, some_tokens
from tests.parts.models import Conversation, logits, made
from tests.parts.references import reference

UNTIED = Case("Llama untied", "LlamaForCausalLM")
TIED = Case("Llama tied", "LlamaForCausalLM", {"tie_word_embeddings": True})


def test_a_tied_model_drops_the_copies_of_its_embedding() -> None:
    """A quantized head is several tensors; all go."""
    theirs = reference(TIED)
    extra = {"lm_head.weight": mx.zeros((2, 2)), "lm_head.scales": mx.zeros((2, 2))}
    model = made(TIED, {**theirs.weights, **extra})
    tokens = some_tokens(5)
    assert difference(logits(model, tokens), theirs.logits(tokens)) < 1e-4


def test_an_untied_model_without_a_head_is_tied() -> None:
    theirs = reference(UNTIED)
    weights = {name: array for name, array in theirs.weights.items() if name != "lm_head.weight"}
    model: Any = made(UNTIED, weights)
    assert model.tied
    assert "lm_head" not in model.parameters()
    hidden = Conversation(model).forward(some_tokens(5))
    by_hand = hidden @ weights["model.embed_tokens.weight"].T
    assert difference(model.logits(hidden), by_hand) < 1e-4


def test_the_prefix_of_multimodal_checkpoints_is_dropped() -> None:
    theirs = reference(UNTIED)
    prefixed = {f"language_model.{name}": array for name, array in theirs.weights.items()}
    model = made(UNTIED, prefixed)
    tokens = some_tokens(5)
    assert difference(logits(model, tokens), theirs.logits(tokens)) < 1e-4


def test_a_tensor_that_is_there_twice_is_refused() -> None:
    theirs = reference(UNTIED)
    name = "model.norm.weight"
    twice = {**theirs.weights, f"language_model.{name}": mx.ones(64)}
    with pytest.raises(BadModelFiles, match=f"tensor {name} is there twice"):
        made(UNTIED, twice)


def test_old_tables_of_rotary_frequencies_are_dropped() -> None:
    theirs = reference(UNTIED)
    table = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": mx.ones(8),
        "model.rotary_emb.inv_freq": mx.ones(8),
    }
    made(UNTIED, {**theirs.weights, **table})


def test_what_is_not_known_to_be_useless_stays_for_the_loader_to_name() -> None:
    theirs = reference(UNTIED)
    model = made(UNTIED, theirs.checkpoint())
    renamed = model.rename({**theirs.weights, "model.layers.0.self_attn.sinks": mx.ones(6)})
    assert "model.layers.0.self_attn.sinks" in renamed
