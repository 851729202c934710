"""What mlx-lm's Qwen3-Next and Qwen3.5 have in common. They must be told the defaults of transformers, and do not
know `layer_types`.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from runner.config.fields import Config
from tests.parts.references import base
from tests.parts.references.experts import each_apart

DEFAULTS: Config = {
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "partial_rotary_factor": 0.25,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 4,
}


class Hybrid(base.Reference):
    @property
    def config(self) -> Config:
        return DEFAULTS | self.case.text

    @property
    def rope(self) -> Config:
        """What `rope_parameters` says, or older fields instead."""
        return {
            "rope_type": "default",
            "rope_theta": self.config.get("rope_theta", 10_000.0),
            "partial_rotary_factor": self.config["partial_rotary_factor"],
            **(self.config.get("rope_parameters") or {}),
        }

    def replace_layers(self, model: Any, block: Any) -> None:
        """Layers of the kinds that `layer_types` lists. mlx-lm tells a kind from a layer's number."""
        for layer, name in enumerate(self.config.get("layer_types") or ()):
            interval = self.config["full_attention_interval"]
            of_kind = interval - 1 if name == "full_attention" else 0
            model.model.layers[layer] = block(model.args, of_kind)

    def step(self, layer: Any, x: mx.array, mask: mx.array) -> mx.array:
        if layer.is_linear:
            out: mx.array = layer(x, None, None)
            return out
        return super().step(layer, x, mask)

    def checkpoint(self) -> base.Tensors:
        """Convolutions and norms as published."""
        made = each_apart(self.weights)
        for name, array in made.items():
            if name.endswith("conv1d.weight"):
                made[name] = array.moveaxis(1, 2)
            elif name.endswith("norm.weight") and "linear_attn" not in name:
                made[name] = array - 1
        return made
