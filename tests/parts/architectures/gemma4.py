"""Gemma 4."""

from __future__ import annotations

from runner.config.fields import Config
from tests.parts.architectures.gemmas import COMMON, WINDOWS
from tests.parts.architectures.layers import FULL, SLIDING
from tests.parts.architectures.ropes import ORIGINAL
from tests.parts.case import Case

TEXT, MULTIMODAL = "Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"
UNIFIED, UNIFIED_MULTIMODAL = "Gemma4UnifiedForCausalLM", "Gemma4UnifiedForConditionalGeneration"
PLAIN: Config = {"rope_type": "default"}
QUARTER: Config = {"rope_type": "proportional", "partial_rotary_factor": 0.25}


def two_ropes(full: Config, sliding: Config) -> Config:
    thetas = ((FULL, 50_000.0, full), (SLIDING, 1_000.0, sliding))
    return {"rope_parameters": {kind: {"rope_theta": theta, **rope} for kind, theta, rope in thetas}}


FIELDS: Config = {
    "sliding_window": 9,
    "layer_types": [SLIDING, FULL],
    "global_head_dim": 24,  # not head_dim; a quarter of its 12 pairs turns
    "hidden_size_per_layer_input": 0,
    "hidden_size": 60,  # its root is no short number
    "tie_word_embeddings": True,
    "rope_parameters": {
        FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 50_000.0},
        SLIDING: {"rope_type": "default", "rope_theta": 1_000.0},
    },
}
PLE: Config = {"hidden_size_per_layer_input": 7, "vocab_size_per_layer_input": 310}
EXPERTS: Config = {
    "enable_moe_block": True,
    "num_experts": 7,
    "top_k_experts": 3,
    "moe_intermediate_size": 40,
}
SHARING: Config = {  # layer 3 looks at 1, layers 4 and 5 look at 2
    "num_hidden_layers": 6,
    "layer_types": [SLIDING, SLIDING, FULL, SLIDING, FULL, FULL],
    "num_kv_shared_layers": 3,
    "use_double_wide_mlp": True,
}
K_EQ_V: Config = {"attention_k_eq_v": True, "num_global_key_value_heads": 2}
ROWS: dict[str, Config] = {
    **COMMON,
    "heads all of one width": {"global_head_dim": 16},
    "k_eq_v": K_EQ_V,
    "k_eq_v with biases": {**K_EQ_V, "attention_bias": True},
    "k_eq_v, heads as elsewhere": {"attention_k_eq_v": True},
    "global heads without k_eq_v, which count for nothing": {"num_global_key_value_heads": 2},
    "per_layer_config": {
        "per_layer_config": {"01": {"head_dim": 32, "num_key_value_heads": 2}},
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
    },
    "PLE": PLE,
    "experts": EXPERTS,
    "1 expert of 7": {**EXPERTS, "top_k_experts": 1},
    "all experts": {**EXPERTS, "top_k_experts": 7},
    "experts, k_eq_v and PLE": {**EXPERTS, **K_EQ_V, **PLE},
    "last layer forced": {"layer_types": [SLIDING, SLIDING]},
    "whole head turning": two_ropes({"rope_type": "proportional"}, PLAIN),
    "stretched proportional rope": two_ropes({**QUARTER, "factor": 4.0}, PLAIN),
    "half of the pairs turning": two_ropes({**QUARTER, "partial_rotary_factor": 0.5}, PLAIN),
    "proportional windows": two_ropes(PLAIN, QUARTER),
    "a part of default, which counts for nothing": two_ropes(
        QUARTER, {**PLAIN, "partial_rotary_factor": 0.5}
    ),
    "linear rope": two_ropes({"rope_type": "linear", "factor": 4.0}, PLAIN),
    "yarn rope": two_ropes({"rope_type": "yarn", "factor": 4.0, **ORIGINAL}, PLAIN),
    "rope_traditional": {"rope_traditional": True},
    "vision": {"use_bidirectional_attention": "vision"},
}
SHARING_ROWS: dict[str, Config] = {
    "sharing": {"use_double_wide_mlp": False},
    "sharing, wide": {},
    "sharing, k_eq_v": K_EQ_V,
    "sharing and PLE": PLE,
    "sharing, experts": EXPERTS,
    "sharing, biases": {"attention_bias": True},
}
SEVEN: Config = {**FIELDS, "num_hidden_layers": 7}
LAYERS, PLE_WIDTH = ("layer_types",), ("hidden_size_per_layer_input",)
CASES = [
    *(
        Case(f"Gemma4 {name}", TEXT, {**FIELDS, **row}, windows=WINDOWS.get(name, (9, None)))
        for name, row in ROWS.items()
    ),
    *(
        Case(f"Gemma4 {name}", TEXT, {**FIELDS, **SHARING, **row}, windows=(9, 9, None))
        for name, row in SHARING_ROWS.items()
    ),
    Case("Gemma4 window never left", TEXT, {**FIELDS, "sliding_window": 256}),
    Case("Gemma4 sharing window never left", TEXT, {**FIELDS, **SHARING, "sliding_window": 256}),
    Case("Gemma4 default ropes", TEXT, FIELDS, ("rope_parameters",), windows=(9, None)),
    Case("Gemma4 default layers", TEXT, SEVEN, LAYERS, windows=(9,) * 5 + (None,) * 2),
    Case(
        "Gemma4 default pattern",
        TEXT,
        {**SEVEN, "sliding_window_pattern": 3},
        LAYERS,
        windows=(9, 9, None) * 2 + (None,),
    ),
    Case(
        "Gemma4 default PLE",
        TEXT,
        {**FIELDS, "vocab_size_per_layer_input": 310},
        PLE_WIDTH,
        windows=(9, None),
    ),
    Case("Gemma4 text_config", MULTIMODAL, {**FIELDS, **PLE}, windows=(9, None)),
    Case("Gemma4 unified", UNIFIED, FIELDS, PLE_WIDTH, windows=(9, None)),
    Case("Gemma4 unified text_config", UNIFIED_MULTIMODAL, FIELDS, PLE_WIDTH, windows=(9, None)),
    Case("Gemma4 gemma4_unified", "gemma4_unified", FIELDS, PLE_WIDTH, windows=(9, None)),
]
