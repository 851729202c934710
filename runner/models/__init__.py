"""The architectures that we run: a table from the name in config.json to the module that holds it.

A new architecture is one file here, one row in this table and one row in `tests/models/`. Only the module that a
model needs is imported, and its name comes from the table, never from the model's files: what a config says about
code of its own (`auto_map`, `model_file`) is never looked at.

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

import importlib

from runner.errors import BadModelFiles, UnsupportedModel
from runner.models.base import Config, Model
from runner.models.config import shown

ARCHITECTURES = {
    "Gemma3ForCausalLM": "gemma3",
    "Gemma3ForConditionalGeneration": "gemma3",
    "GptOssForCausalLM": "gpt_oss",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "Qwen3NextForCausalLM": "qwen3_next",
    "Qwen3NextForConditionalGeneration": "qwen3_next",
    "Qwen3NextMoeForCausalLM": "qwen3_next",
    "Qwen3NextMoeForConditionalGeneration": "qwen3_next",
    "Qwen3_5ForCausalLM": "qwen3_5",
    "Qwen3_5ForConditionalGeneration": "qwen3_5",
    "Qwen3_5MoeForCausalLM": "qwen3_5_moe",
    "Qwen3_5MoeForConditionalGeneration": "qwen3_5_moe",
}


def build(config: Config) -> Model:
    """The model that a parsed config.json describes, its parameters not loaded yet.

    Raises UnsupportedModel if we lack the architecture or a feature of it, BadModelFiles if the config is wrong.
    """
    name = architecture(config)
    if name not in ARCHITECTURES:
        raise UnsupportedModel(
            f"architecture {shown(name)} is not supported; these are: {', '.join(ARCHITECTURES)}"
        )
    module = importlib.import_module(f"{__name__}.{ARCHITECTURES[name]}")
    model: Model = module.Model(config)
    return model


def architecture(config: Config) -> str:
    """The first of `architectures`, the one that the weights were saved from."""
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise BadModelFiles(
            f"config.json: architectures is {shown(names)}, expected a list with an architecture's name"
        )
    return names[0]
