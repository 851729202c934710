"""mlx-lm's Qwen3-MoE. It wants every field, knows the experts' number under its older name only, overlooks
rope_scaling, which its Llama follows, and has no attention_bias.
"""

from __future__ import annotations

from typing import Any

from tests.parts import mlx_lm
from tests.parts.references import base
from tests.parts.references.attention import add_biases, scaled_rope
from tests.parts.references.experts import each_apart
from tests.parts.references.spelling import spelled


class Reference(base.Reference):
    def build(self) -> Any:
        config = spelled(self.case.text)
        config["num_experts"] = config.get("num_experts", config.get("num_local_experts"))
        config["head_dim"] = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        model = mlx_lm.build("qwen3_moe", config)
        if config.get("rope_scaling"):
            for layer in model.layers:
                layer.self_attn.rope = scaled_rope(config)
        if config.get("attention_bias"):
            add_biases(model)
        return model

    def checkpoint(self) -> base.Tensors:
        return each_apart(self.weights)
