"""Architectures of mlx-lm behind our contracts: what they compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from runner.config.fields import Config
from runner.models import zoo
from runner.models.base import Model
from tests.parts.arrays import difference
from tests.parts.models import Conversation, logits
from tests.parts.zoo import TOKENS, config_of, expected, ours, weights, write

TOLERANCE = 1e-4


def test_one_chunk_gives_the_logits_of_mlx_lm(pair: tuple[Model, mx.array]) -> None:
    model, theirs = pair
    assert difference(logits(model, TOKENS), theirs) < TOLERANCE


def test_many_chunks_give_the_logits_of_mlx_lm(pair: tuple[Model, mx.array]) -> None:
    model, theirs = pair
    assert difference(logits(model, TOKENS, (1, 3, 7, 20)), theirs) < TOLERANCE


def test_decoding_gives_the_logits_of_mlx_lm(pair: tuple[Model, mx.array]) -> None:
    model, theirs = pair
    conversation = Conversation(model)
    parts = [conversation.feed(TOKENS[:5]), conversation.feed(TOKENS[5:], (1,))]
    assert difference(mx.concatenate(parts), theirs) < TOLERANCE


def test_prefill_never_computes_the_head(tmp_path: Path, folders: dict[str, Path]) -> None:
    """The head is a tensor that cannot be read: as soon as anything asks for it, that fails."""
    path = tmp_path / "head.safetensors"
    model: Any = zoo.Model(config_of("Phi3ForCausalLM"), "phi3")
    made = weights(config_of("Phi3ForCausalLM"))
    mx.save_safetensors(str(path), {"head": made["lm_head.weight"]})
    lazy: Any = mx.load(str(path))
    path.write_bytes(path.read_bytes()[:-8])
    model.load_weights(list((made | {"lm_head.weight": lazy["head"]}).items()))
    conversation = Conversation(model)
    for _ in range(2):
        hidden = conversation.forward(TOKENS[:20])
        mx.eval(conversation.memory.arrays())
    with pytest.raises(RuntimeError, match="read"):
        mx.eval(hidden)


def test_the_newer_spelling_of_rotary_positions_is_read(tmp_path: Path) -> None:
    """mlx-lm's OLMo 2 knows the older one only, and takes a default without a word."""
    scaling = {"rope_type": "linear", "factor": 4.0}
    older = {"rope_theta": 5e5, "rope_scaling": scaling}
    newer: Config = {"rope_theta": None, "rope_parameters": {"rope_theta": 5e5, **scaling}}
    name = "Olmo2ForCausalLM"
    theirs = expected(write(tmp_path / "older", name, **older))
    folder = write(tmp_path / "newer", name, **older)
    config = {name: value for name, value in config_of(name, **newer).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    assert difference(logits(ours(folder), TOKENS), theirs) < TOLERANCE
    assert difference(theirs, expected(write(tmp_path / "default", name))) > 0.1
