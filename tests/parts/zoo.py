"""Tiny random models of architectures that only mlx-lm has, written to disk by mlx-lm's own classes."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from runner.config.fields import Config
from runner.models.base import Model
from tests.parts import mlx_lm, tiny
from tests.parts.case import TINY, VOCABULARY, some_tokens
from tests.parts.models import loaded

WINDOW = 9
DECODER: Config = {
    **{name: value for name, value in TINY.items() if name != "head_dim"},
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MAMBA: Config = {"conv_kernel": 4, "n_groups": 2, "use_bias": False, "use_conv_bias": True}
RECURRENT = ("FalconH1ForCausalLM", "Lfm2ForCausalLM", "Mamba2ForCausalLM", "NemotronHForCausalLM")
ROTATING = ("Cohere2ForCausalLM", "LagunaForCausalLM", "Olmo3ForCausalLM")
CASES: dict[str, Config] = {
    "Cohere2ForCausalLM": {
        "model_type": "cohere2",
        "head_dim": 16,
        "layer_norm_eps": 1e-5,
        "logit_scale": 0.25,
        "sliding_window": WINDOW,
        "sliding_window_pattern": 2,
    },
    "DeepseekV3ForCausalLM": {
        "model_type": "deepseek_v3",
        "num_key_value_heads": 4,
        "kv_lora_rank": 64,
        "q_lora_rank": 64,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 64,
        "v_head_dim": 64,
        "n_routed_experts": 6,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "first_k_dense_replace": 1,
    },
    "FalconH1ForCausalLM": {
        "model_type": "falcon_h1",
        "head_dim": 16,
        "mamba_d_ssm": 64,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 8,
        "mamba_n_groups": 2,
    },
    "GraniteForCausalLM": {
        "model_type": "granite",
        "logits_scaling": 2.0,
        "attention_multiplier": 0.3,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.7,
        "attention_bias": True,
        "mlp_bias": False,
    },
    "LagunaForCausalLM": {
        "model_type": "laguna",
        "head_dim": 16,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention"],
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 64,
    },
    "Lfm2ForCausalLM": {
        "model_type": "lfm2",
        "norm_eps": 1e-5,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 64,
        "block_multiple_of": 32,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "layer_types": ["conv", "full_attention"],
    },
    "Mamba2ForCausalLM": {
        **MAMBA,
        "model_type": "mamba2",
        "num_heads": 4,
        "head_dim": 32,
        "state_size": 16,
        "layer_norm_epsilon": 1e-5,
        "time_step_limit": [0.0, {"__float__": "Infinity"}],
        "time_step_rank": "auto",
    },
    "NemotronHForCausalLM": {
        **MAMBA,
        "model_type": "nemotron_h",
        "head_dim": 16,
        "hybrid_override_pattern": ["M", "*", "-", "E"],
        "attention_bias": False,
        "mlp_bias": False,
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "mamba_proj_bias": False,
        "ssm_state_size": 8,
        "layer_norm_epsilon": 1e-5,
        "moe_intermediate_size": 64,
        "moe_shared_expert_intermediate_size": 64,
        "n_group": 1,
        "topk_group": 1,
        "n_routed_experts": 6,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.5,
    },
    "Olmo2ForCausalLM": {"model_type": "olmo2"},
    "Olmo3ForCausalLM": {
        "model_type": "olmo3",
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "OlmoeForCausalLM": {"model_type": "olmoe", "num_experts": 6, "num_experts_per_tok": 2},
    "Phi3ForCausalLM": {"model_type": "phi3"},
}
PLAIN = [name for name in CASES if name not in RECURRENT + ROTATING]
TOKENS = some_tokens(72)


def config_of(architecture: str, **changes: Any) -> Config:
    return {"architectures": [architecture], **DECODER, **CASES[architecture], **changes}


def write(folder: Path, architecture: str, **changes: Any) -> Path:
    """A model directory; `changes` go into config.json and into mlx-lm's model."""
    tiny.write(folder)
    config = config_of(architecture, **changes)
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), weights(config))
    return folder


def weights(config: Config) -> dict[str, mx.array]:
    """As those of the references, for models whose names differ more."""
    if "time_step_limit" in config:
        config = {**config, "time_step_limit": (0.0, float("inf"))}
    model = mlx_lm.build(config["model_type"], config)
    flat: Any = tree_flatten(model.parameters())
    keys = mx.random.split(mx.random.key(random.Random(config["model_type"]).getrandbits(32)), len(flat))
    made: dict[str, mx.array] = {}
    for (name, like), key in zip(flat, keys, strict=True):
        noise = 0.2 * mx.random.normal(like.shape, key=key)
        made[name] = 1 + noise if like.ndim == 1 and "norm" in name else noise
    mx.eval(made)
    return made


@cache
def ours(folder: Path) -> Model:
    return loaded(folder).model


@cache
def expected(folder: Path) -> mx.array:
    """mlx-lm's logits [T,V] of TOKENS, of one forward without a cache."""
    return mlx_lm.logits(folder, TOKENS)


def greedy_tokens(folder: Path, prompt: list[int], count: int, logit_bias: Mapping[str, float]) -> list[int]:
    """What mlx-lm's own generation says."""
    bias = mx.array([logit_bias.get(str(token), 0.0) for token in range(VOCABULARY)])
    steps = mlx_lm.generate_step(
        mx.array(prompt),
        mlx_lm.loaded(folder),
        max_tokens=count,
        logits_processors=[lambda tokens, logits: logits + bias],
    )
    return [int(token) for token, _ in steps]
