"""Configs that others write: of transformers' classes, and of popular models."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import pytest

from runner.config.fields import Config
from runner.models import ARCHITECTURES, build
from tests.parts.published import POPULAR

CLASSES = {
    "Gemma3ForCausalLM": "Gemma3TextConfig",
    "Gemma3ForConditionalGeneration": "Gemma3Config",
    "Gemma4ForCausalLM": "Gemma4TextConfig",
    "Gemma4ForConditionalGeneration": "Gemma4Config",
    "Gemma4UnifiedForCausalLM": "Gemma4UnifiedTextConfig",
    "Gemma4UnifiedForConditionalGeneration": "Gemma4UnifiedConfig",
    "GLM4MoeLite": "Glm4MoeLiteConfig",
    "Glm4MoeLiteForCausalLM": "Glm4MoeLiteConfig",
    "GptOssForCausalLM": "GptOssConfig",
    "LlamaForCausalLM": "LlamaConfig",
    "MistralForCausalLM": "MistralConfig",
    "Qwen2ForCausalLM": "Qwen2Config",
    "Qwen3ForCausalLM": "Qwen3Config",
    "Qwen3MoeForCausalLM": "Qwen3MoeConfig",
    "Qwen3NextForCausalLM": "Qwen3NextConfig",
    "Qwen3NextForConditionalGeneration": "Qwen3NextConfig",
    "Qwen3NextMoeForCausalLM": "Qwen3NextConfig",
    "Qwen3NextMoeForConditionalGeneration": "Qwen3NextConfig",
    "Qwen3_5ForCausalLM": "Qwen3_5TextConfig",
    "Qwen3_5ForConditionalGeneration": "Qwen3_5Config",
    "Qwen3_5MoeForCausalLM": "Qwen3_5MoeTextConfig",
    "Qwen3_5MoeForConditionalGeneration": "Qwen3_5MoeConfig",
    "SmolLM3ForCausalLM": "SmolLM3Config",
    "gemma4_unified": "Gemma4UnifiedConfig",
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_field_of_transformers_is_read_or_known_to_be_harmless(
    architecture: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What its configuration class writes, the defaults of all models included."""
    configuration = getattr(importlib.import_module("transformers"), CLASSES[architecture])
    with caplog.at_level(logging.DEBUG):
        build({**configuration().to_dict(), "architectures": [architecture]})
    unread: list[Any] = [r for r in caplog.records if r.getMessage() == "Config fields not read"]
    assert [record.fields for record in unread] == []


@pytest.mark.parametrize("name", POPULAR)
def test_the_fields_of_popular_models_are_not_refused(name: str) -> None:
    build(POPULAR[name])


SAVED_TODAY: Config = {"dtype": "bfloat16", "is_encoder_decoder": False, "add_cross_attention": False}


@pytest.mark.parametrize("name", POPULAR)
def test_nor_are_those_that_newer_and_older_tools_add(name: str) -> None:
    """Older ones wrote out the defaults of every model there is."""
    build({**POPULAR[name], **SAVED_TODAY, "pruned_heads": {}, "cross_attention_hidden_size": None})
