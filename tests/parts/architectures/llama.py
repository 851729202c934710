"""Llama."""

from __future__ import annotations

from tests.parts.architectures.relatives import common_cases
from tests.parts.architectures.ropes import MSCALES
from tests.parts.case import Case

NAME = "LlamaForCausalLM"
CASES = [
    *common_cases("Llama"),
    Case("Llama attention_bias", NAME, {"attention_bias": True}),
    Case("Llama mlp_bias", NAME, {"mlp_bias": True, "attention_bias": True}),
    Case("Llama every head its own", NAME, {"num_key_value_heads": None}),
    Case("Llama rope_traditional", NAME, {"rope_traditional": True}),
    Case("Llama yarn rope with mscales", NAME, {"rope_scaling": MSCALES}),
]
