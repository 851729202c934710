"""GLM-4.7-Flash."""

from __future__ import annotations

from runner.config.fields import Config
from tests.parts.architectures.ropes import MSCALES, NEWER, OLDER
from tests.parts.case import Case

NAME = "Glm4MoeLiteForCausalLM"
FIELDS: Config = {  # unlike widths everywhere; the last three are the defaults, which mlx-lm must be told
    "kv_lora_rank": 40,
    "q_lora_rank": 28,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
    "n_routed_experts": 7,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "rope_theta": 10_000.0,
    "routed_scaling_factor": 1.8,
    "first_k_dense_replace": 1,
}
ROWS: dict[str, Config] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "num_key_value_heads, which do not count": {"num_key_value_heads": 3},
    "attention_bias": {"attention_bias": True},
    "queries of one matrix": {"q_lora_rank": None},
    "queries of one matrix, attention_bias": {"q_lora_rank": None, "attention_bias": True},
    "coarse eps": {"rms_norm_eps": 0.3},
    "theta": {"rope_theta": 1e6},
    "linear rope": OLDER["linear"],
    "dynamic rope": OLDER["dynamic"],
    "llama3 rope": OLDER["llama3"],
    "yarn rope": OLDER["yarn"],
    "yarn rope with mscales": {"rope_scaling": MSCALES},
    "yarn rope with equal mscales": {"rope_scaling": {**MSCALES, "mscale": 0.4}},
    "linear rope with mscale_all_dim": {
        "rope_scaling": {"type": "linear", "factor": 4.0, "mscale_all_dim": 0.4}
    },
    "halves rotated": {"rope_interleave": False},
    "shares as they are": {"norm_topk_prob": False},
    "other factor": {"routed_scaling_factor": 0.6},
    "1 expert of 7": {"num_experts_per_tok": 1, "norm_topk_prob": False},
    "all experts": {"num_experts_per_tok": 7},
    "2 of 4 groups": {"n_routed_experts": 12, "n_group": 4, "topk_group": 2},
    "all groups": {"n_routed_experts": 6, "n_group": 3, "topk_group": 3},
    "no shared experts": {"n_shared_experts": None},
    "2 shared experts": {"n_shared_experts": 2},
    "no dense layer": {"first_k_dense_replace": 0},
    "dense layers only": {"first_k_dense_replace": 2},
    "every second layer": {"first_k_dense_replace": 0, "moe_layer_freq": 2},
    "mlp_layer_types": {"mlp_layer_types": ["sparse", "dense"]},
    "num_local_experts": {"num_local_experts": 7, "n_routed_experts": None},
}
YARN: Config = {**FIELDS, "rope_parameters": NEWER["yarn"]}
CASES = [
    *(Case(f"Glm {name}", NAME, {**FIELDS, **row}) for name, row in ROWS.items()),
    Case("Glm yarn rope rope_parameters", "GLM4MoeLite", YARN, ("rope_theta",)),
]
