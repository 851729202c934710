"""mlx-lm's Gemma 3. It knows a pattern of layers only, nothing of `rope_parameters`, biases, a cap of the logits
and the flag of a tied head, has other defaults than transformers, and rounds a factor to bfloat16.
"""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx

from runner.config.fields import Config
from tests.parts import mlx_lm
from tests.parts.references import base
from tests.parts.references.attention import add_biases, scaled_rope

DEFAULTS: Config = {  # of transformers
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}


class Reference(base.Reference):
    def build(self) -> Any:
        given = {name: value for name, value in self.case.text.items() if value is not None}
        config = DEFAULTS | given
        model = mlx_lm.build("gemma3_text", config)
        for layer, kind in zip(model.layers, config.get("layer_types", ()), strict=False):
            layer.self_attn.rope = rope_of(kind, config)
        if config.get("attention_bias"):
            add_biases(model)
        if config["tie_word_embeddings"]:
            model.pop("lm_head")
            model.tie_word_embeddings = True
        return model

    def embed(self, tokens: mx.array) -> mx.array:
        x = super().embed(tokens)
        return x * math.sqrt(x.shape[-1])  # mlx-lm rounds the factor to bfloat16 even here

    def head(self, x: mx.array) -> mx.array:
        logits = super().head(x)
        cap: float | None = self.case.fields.get("final_logit_softcapping")
        return logits if cap is None else cap * mx.tanh(logits / cap)


def rope_of(kind: str, config: Config) -> Any:
    """The rope of a kind of layers: in `rope_parameters`, or as older configs say it."""
    older = {
        "full_attention": {"rope_theta": config["rope_theta"], **config.get("rope_scaling", {})},
        "sliding_attention": {"rope_theta": config["rope_local_base_freq"]},
    }
    scaling = older[kind] | config.get("rope_parameters", {}).get(kind, {})
    return scaled_rope({**config, "rope_theta": scaling["rope_theta"], "rope_scaling": scaling})
