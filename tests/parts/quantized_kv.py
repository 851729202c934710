"""Tiny models whose heads consist of whole groups, so that their keys and values can be kept quantized."""

from __future__ import annotations

from typing import Any

from runner.types import KVType

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"head_dim": 32},
    "recurrent": {
        "architectures": ["Qwen3NextForCausalLM"],
        "full_attention_interval": 2,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 6,
        "head_dim": 32,
        "num_experts": 0,
    },
    "rotating": {
        "architectures": ["Gemma3ForCausalLM"],
        "head_dim": 32,
        "sliding_window": 7,
        "sliding_window_pattern": 2,
    },
    "sharing": {
        "architectures": ["Gemma4ForCausalLM"],
        "head_dim": 32,
        "global_head_dim": 64,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "sliding_window": 7,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 300,
    },
    "sinks": {
        "architectures": ["GptOssForCausalLM"],
        "head_dim": 32,
        "num_local_experts": 2,  # both of them always: who is chosen may change with the last bit
        "num_experts_per_tok": 2,
        "sliding_window": 7,
    },
    "window": {"architectures": ["MistralForCausalLM"], "head_dim": 32, "sliding_window": 7},
}
FLIPS: dict[KVType, float] = {"f16": 1e-4, "q8_0": 0.05, "q4_0": 0.5}
"""How far logits may be from those of a fresh computation with the same type. Mostly that is as little as with
floats. But a key that differs in its last bit may round to the next number, which is a whole step of it; positions
that are missing, or not where they belong, change these logits by some units.
"""
