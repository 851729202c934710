"""Qwen3-Next and Qwen3.5. Names that lead to the same code are there once each."""

from __future__ import annotations

from runner.config.fields import Config
from tests.parts.architectures import layers
from tests.parts.architectures.layers import FULL
from tests.parts.architectures.ropes import NEWER
from tests.parts.case import Case

LINEAR: Config = {
    "full_attention_interval": 2,  # so the first layer is recurrent, the second attends
    "linear_num_key_heads": 3,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 12,
    "partial_rotary_factor": 0.5,
}
MIXTURE: Config = {
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 40,
    "shared_expert_intermediate_size": 24,
}
BOTH: Config = {**LINEAR, **MIXTURE}
SECTIONS: Config = {
    "mrope_section": [1, 1, 2],
    "mrope_interleaved": True,
    "partial_rotary_factor": 0.5,
}
ROWS: dict[str, Config] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "attention_bias": {"attention_bias": True},
    "5 heads over 1": {"num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 12},
    "heads of 32": {"head_dim": 32},  # of which 16 are turned
    "5 value heads over 1": {"linear_num_key_heads": 1, "linear_num_value_heads": 5},
    "heads of their own": {"linear_num_key_heads": 3, "linear_num_value_heads": 3},
    "kernel of 2": {"linear_conv_kernel_dim": 2},
    "kernel of 5": {"linear_conv_kernel_dim": 5},
    "layer_types": {"layer_types": [FULL, layers.LINEAR]},
    "all recurrent": {"layer_types": [layers.LINEAR] * 2},
    "rope_theta": {"rope_theta": 1e6},
    "rope_parameters": {"rope_parameters": {**NEWER["theta"], **SECTIONS}},
    "yarn rope": {"rope_parameters": {**NEWER["yarn"], **SECTIONS}},
}
MIXTURES: dict[str, Config] = {
    "plain": {},
    "1 expert of 7": {"num_experts_per_tok": 1},
    "all experts": {"num_experts_per_tok": 7},
}
EXCEPTIONS: dict[str, Config] = {
    "odds as they are": {"norm_topk_prob": False},
    "every second layer": {"decoder_sparse_step": 2},
    "one dense layer": {"mlp_only_layers": [1]},
    "no experts": {"num_experts": 0},
    "no experts, heads of 32": {"num_experts": 0, "head_dim": 32},
}
FIVE: Config = {"num_hidden_layers": 5, "rms_norm_eps": 1e-3}
QUARTER = ("full_attention_interval", "partial_rotary_factor")  # the defaults of both are a quarter


def text_cases(kind: str, fields: Config, rows: dict[str, Config]) -> list[Case]:
    return [Case(f"{kind} {name}", f"{kind}ForCausalLM", {**fields, **row}) for name, row in rows.items()]


def multimodal_cases(kind: str, fields: Config) -> list[Case]:
    name = f"{kind}ForConditionalGeneration"
    return [
        Case(f"{kind} text_config", name, fields),
        Case(f"{kind} defaults", name, {**fields, **FIVE}, QUARTER, windows=(None,) * 5),
    ]


CASES = [
    *text_cases("Qwen3_5", LINEAR, ROWS),
    *text_cases("Qwen3_5Moe", BOTH, MIXTURES),
    *text_cases("Qwen3Next", BOTH, {**ROWS, **MIXTURES, **EXCEPTIONS}),
    Case("Qwen3Next under its other name", "Qwen3NextMoeForCausalLM", BOTH),
    Case("Qwen3_5Moe without intermediate_size", "Qwen3_5MoeForCausalLM", BOTH, ("intermediate_size",)),
    *multimodal_cases("Qwen3_5", LINEAR),
    *multimodal_cases("Qwen3_5Moe", BOTH),
    *multimodal_cases("Qwen3Next", BOTH),
    *multimodal_cases("Qwen3NextMoe", BOTH),
]
