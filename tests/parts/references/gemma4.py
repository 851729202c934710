"""mlx-lm's Gemma 4. It has other defaults than transformers, does not know `per_layer_config` and biases, leaves
the last layer what it is, and has no rope but those of the published models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from runner.config.fields import Config
from tests.parts import mlx_lm
from tests.parts.references import base
from tests.parts.references.attention import add_biases, scaled_rope
from tests.parts.references.experts import in_two_tensors

DEFAULTS: Config = {  # of transformers, where mlx-lm's are those of one published model
    "num_kv_shared_layers": 0,
    "use_double_wide_mlp": False,
    "final_logit_softcapping": None,
    "sliding_window_pattern": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
UNIFIED: Config = {"hidden_size_per_layer_input": 0, "sliding_window": 1024}


class Reference(base.Reference):
    def build(self) -> Any:
        unified = UNIFIED if "unified" in self.case.architecture.lower() else {}
        config = with_global_heads(unified | DEFAULTS | self.case.text)
        module = mlx_lm.architecture("gemma4_text")
        args = module.ModelArgs.from_dict({**config, "model_type": "gemma4_text"})
        args.layer_types = [*args.layer_types[:-1], "full_attention"]
        model = module.Model(args)
        for layer in model.layers:
            attention = layer.self_attn
            scaling = args.rope_parameters[attention.layer_type]
            if scaling["rope_type"] not in ("default", "proportional"):
                rope = {"head_dim": attention.head_dim, "rope_scaling": scaling}
                attention.rope = scaled_rope({**config, "rope_theta": scaling["rope_theta"], **rope})
        if config.get("attention_bias"):
            add_biases(model)
        return model

    def draw(self) -> base.Tensors:
        """Nothing but a norm keeps this model's scores small, and large ones make noise of roundings."""
        weights = super().draw()
        small = {name: array / 4 for name, array in weights.items() if name.endswith("q_norm.weight")}
        return weights | small

    def logits(self, tokens: Sequence[int]) -> mx.array:
        """mlx-lm's model has windows, and layers that are not called alike."""
        whole: mx.array = self.model(mx.array([tokens]))
        return whole[0]

    def checkpoint(self) -> base.Tensors:
        return in_two_tensors(self.weights, bank=".experts.switch_glu.")


def with_global_heads(config: Config) -> Config:
    """`per_layer_config` as mlx-lm says it."""
    for layer in config.get("per_layer_config", {}).values():
        config |= {"global_head_dim": layer["head_dim"]}
        config |= {"num_global_key_value_heads": layer["num_key_value_heads"]}
    return config
