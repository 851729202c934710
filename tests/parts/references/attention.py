"""What attention in mlx-lm's models lacks here and there."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from runner.config.fields import Config
from tests.parts.mlx_lm import initialize_rope


def scaled_rope(config: Config) -> Any:
    """The rope of a config, as mlx-lm's Llama makes it."""
    width, theta, positions = (config[n] for n in ("head_dim", "rope_theta", "max_position_embeddings"))
    return initialize_rope(width, theta, False, config["rope_scaling"], positions)


def add_biases(model: Any) -> None:
    """mlx-lm's Qwen3, Qwen3-MoE and Gemmas have no attention_bias."""
    for layer in model.layers:
        attention = layer.self_attn
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            if name in attention:
                attention[name]["bias"] = mx.zeros(attention[name].weight.shape[0])
