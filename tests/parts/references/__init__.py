"""What our models are compared with: mlx-lm's model of each architecture, put right where it differs.

A new architecture is one file here and one row in the table, like in `runner/models`. The table is written down
apart from ours, so that a wrong row there does not choose the reference too.
"""

from __future__ import annotations

import importlib

from tests.parts.case import Case
from tests.parts.references.base import Reference

MODULES = {
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
    "MistralForCausalLM": "llama",  # as in mlx-lm
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


def reference(case: Case) -> Reference:
    """mlx-lm's model of a case, with random weights that depend on the case's name only."""
    module = importlib.import_module(f"{__name__}.{MODULES[case.architecture]}")
    made: Reference = module.Reference(case)
    return made
