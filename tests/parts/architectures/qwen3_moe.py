"""Qwen3-MoE."""

from __future__ import annotations

from runner.config.fields import Config
from tests.parts.architectures.layers import WINDOWED
from tests.parts.architectures.relatives import common_cases
from tests.parts.case import Case

NAME = "Qwen3MoeForCausalLM"
EXPERTS: Config = {  # an odd number of each; the last two are the defaults, which mlx-lm must be told
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 40,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
ROWS: dict[str, Config] = {
    "odds as they are": {"norm_topk_prob": False},
    "1 expert of 7": {"num_experts_per_tok": 1, "norm_topk_prob": False},
    "all experts": {"num_experts_per_tok": 7},
    "every second layer": {"decoder_sparse_step": 2},
    "one dense layer": {"mlp_only_layers": [1]},
    "no experts": {"num_experts": 0},
}
CASES = [
    *common_cases("Qwen3Moe", EXPERTS),
    *(Case(f"Qwen3Moe {name}", NAME, {**EXPERTS, **row}) for name, row in ROWS.items()),
    Case("Qwen3Moe attention_bias", NAME, {"sliding_window": None, **EXPERTS, "attention_bias": True}),
    Case("Qwen3Moe window", NAME, {**EXPERTS, **WINDOWED, "max_window_layers": 1}, windows=(9, 9)),
    Case("Qwen3Moe num_local_experts", NAME, {**EXPERTS, "num_local_experts": 7}, ("num_experts",)),
]
