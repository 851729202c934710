"""From a checkpoint's names to ours, and whether the head is tied."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from runner.errors import BadModelFiles
from tests.parts.reference import Case, Reference, difference, feed, load, some_tokens

UNTIED = Case("Llama untied", "LlamaForCausalLM")
TIED = Case("Llama tied", "LlamaForCausalLM", {"tie_word_embeddings": True})


class Checkpoint(Reference):
    """A reference whose checkpoint has been tampered with."""

    def __init__(self, case: Case, tampered: dict[str, mx.array]) -> None:
        super().__init__(case)
        self._tampered = tampered

    def checkpoint(self) -> dict[str, mx.array]:
        return self._tampered


def test_a_tied_model_drops_the_copies_of_its_embedding() -> None:
    """A quantized head is several tensors; all go."""
    reference = Reference(TIED)
    extra = {"lm_head.weight": mx.zeros((2, 2)), "lm_head.scales": mx.zeros((2, 2))}
    model = load(TIED, Checkpoint(TIED, {**reference.weights, **extra}))
    tokens = some_tokens(5)
    assert difference(feed(model, model.make_caches(), tokens), reference.logits(tokens)) < 1e-4


def test_an_untied_model_without_a_head_is_tied() -> None:
    reference = Reference(UNTIED)
    weights = {name: array for name, array in reference.weights.items() if name != "lm_head.weight"}
    model: Any = load(UNTIED, Checkpoint(UNTIED, weights))
    assert model.tied
    assert "lm_head" not in model.parameters()
    hidden = model(mx.array([some_tokens(5)]), model.make_caches())
    by_hand = hidden @ weights["model.embed_tokens.weight"].T
    assert difference(model.logits(hidden), by_hand) < 1e-4


def test_the_prefix_of_multimodal_checkpoints_is_dropped() -> None:
    reference = Reference(UNTIED)
    prefixed = {f"language_model.{name}": array for name, array in reference.weights.items()}
    model = load(UNTIED, Checkpoint(UNTIED, prefixed))
    tokens = some_tokens(5)
    assert difference(feed(model, model.make_caches(), tokens), reference.logits(tokens)) < 1e-4


def test_a_tensor_that_is_there_twice_is_refused() -> None:
    reference = Reference(UNTIED)
    name = "model.norm.weight"
    twice = {**reference.weights, f"language_model.{name}": mx.ones(64)}
    with pytest.raises(BadModelFiles, match=f"tensor {name} is there twice"):
        load(UNTIED, Checkpoint(UNTIED, twice))


def test_old_tables_of_rotary_frequencies_are_dropped() -> None:
    reference = Reference(UNTIED)
    table = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": mx.ones(8),
        "model.rotary_emb.inv_freq": mx.ones(8),
    }
    load(UNTIED, Checkpoint(UNTIED, {**reference.weights, **table}))


def test_what_is_not_known_to_be_useless_stays_for_the_loader_to_name() -> None:
    reference = Reference(UNTIED)
    model: Any = load(UNTIED, reference)
    renamed = model.rename({**reference.weights, "model.layers.0.self_attn.sinks": mx.ones(6)})
    assert "model.layers.0.self_attn.sinks" in renamed
