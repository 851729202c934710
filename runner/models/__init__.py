"""The architectures that we run: a table from the name in config.json to the module that holds it.

A new architecture is one file here, one row in this table, and tests; README.md has the recipe. Only the module
that a model needs is imported, and its name comes from the table, never from the model's files: what a config says
about code of its own (`auto_map`, `model_file`) is never looked at. What is not in the table runs through mlx-lm
where that is installed: `zoo.py`.

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

import importlib

from runner.config.fields import Config, Fields, shown
from runner.config.unread import refuse_unread
from runner.errors import BadModelFiles, UnsupportedModel
from runner.models.base import Model

ARCHITECTURES = {
    "GLM4MoeLite": "glm4_moe_lite",
    "Gemma3ForCausalLM": "gemma3",
    "Gemma3ForConditionalGeneration": "gemma3",
    "Gemma4ForCausalLM": "gemma4",
    "Gemma4ForConditionalGeneration": "gemma4",
    "Gemma4UnifiedForCausalLM": "gemma4",
    "Gemma4UnifiedForConditionalGeneration": "gemma4",
    "Glm4MoeLiteForCausalLM": "glm4_moe_lite",
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
    "SmolLM3ForCausalLM": "smollm3",
    "gemma4_unified": "gemma4",
}


def build(config: Config) -> Model:
    """The model that a parsed config.json describes, its parameters not loaded yet.

    Raises UnsupportedModel if we lack the architecture or a feature of it, BadModelFiles if the config is wrong.
    """
    name = architecture(config)
    if name not in ARCHITECTURES:
        return _through_mlx_lm(config, name)
    module = importlib.import_module(f"{__name__}.{ARCHITECTURES[name]}")
    fields = Fields(config)
    model: Model = module.Model(fields)
    refuse_unread(fields.asked, name)
    return model


def _through_mlx_lm(config: Config, name: str) -> Model:
    """Only types that we lack go there: what has a Llama's type and another name is no Llama."""
    kind = config.get("model_type")
    refusal = f"architecture {shown(name)} is not supported; these are: {', '.join(ARCHITECTURES)}"
    if not isinstance(kind, str) or kind in ARCHITECTURES.values():
        raise UnsupportedModel(refusal)
    from runner.models import zoo  # here, since start-up need not wait for what few models need

    if not zoo.is_installed():
        raise UnsupportedModel(f"{refusal}; with {zoo.EXTRA} those of mlx-lm are")
    found = zoo.find(config, name)
    if found is None:
        raise UnsupportedModel(f"{refusal}; {zoo.versioned()} has no model_type {shown(kind)} either")
    return zoo.Model(config, found)


def architecture(config: Config) -> str:
    """The first of `architectures`, the one that the weights were saved from."""
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise BadModelFiles(
            f"config.json: architectures is {shown(names)}, expected a list with an architecture's name"
        )
    return names[0]
