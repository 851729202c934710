"""mlx-lm's GLM. It takes the norms inside attention by the config's eps, rotates neighbours only, has no list of
sparse layers and no flag of a tied head; to experts of a group that is out it gives 0, which is what -infinity is
to transformers while the others are above 0.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from tests.parts import mlx_lm
from tests.parts.references import base
from tests.parts.references.experts import each_apart
from tests.parts.references.spelling import spelled

EPS = 1e-6


class Reference(base.Reference):
    def build(self) -> Any:
        config = spelled(self.case.text)
        config["n_routed_experts"] = config.pop("num_local_experts", config.get("n_routed_experts"))
        model = mlx_lm.build("glm4_moe_lite", config)
        kinds = config.get("mlp_layer_types") or [None] * len(model.layers)
        for layer, kind in zip(model.layers, kinds, strict=True):
            attention = layer.self_attn
            attention.kv_a_layernorm.eps = EPS
            if config["q_lora_rank"] is not None:
                attention.q_a_layernorm.eps = EPS
            if not config.get("rope_interleave", True):
                attention.rope.traditional = False
            if kind:
                layer.mlp = mlp(kind, model.args)
        if config["tie_word_embeddings"]:
            model.pop("lm_head")
        return model

    def checkpoint(self) -> base.Tensors:
        return each_apart(latent_maps_together(self.weights))


def mlp(kind: str, args: Any) -> Any:
    module = mlx_lm.architecture("glm4_moe_lite")
    return (module.Glm4MoeLiteMoE if kind == "sparse" else module.Glm4MoeLiteMLP)(args)


def latent_maps_together(weights: base.Tensors) -> base.Tensors:
    """Heads as Hugging Face's checkpoints have them: behind each other in one matrix, key above value."""
    made: base.Tensors = {}
    for name, array in weights.items():
        if name.endswith("embed_q.weight"):
            values = weights[name.replace("embed_q", "unembed_out")]
            both = mx.concatenate([array.swapaxes(1, 2), values], axis=1)
            made[name.replace("embed_q", "kv_b_proj")] = both.flatten(0, 1)
        elif not name.endswith("unembed_out.weight"):
            made[name] = array
    return made
