"""Checkpoints on the disk, wide enough for every way to quantize them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx

from tests.parts import tiny

DIMENSIONS: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
EXPERTS: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "head_dim": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
}
GPT_OSS: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "head_dim": 32,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
    "tie_word_embeddings": False,
    "rope_scaling": {"rope_type": "default", "rope_theta": 10_000.0},
}
GLM: dict[str, Any] = {
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "model_type": "glm4_moe_lite",
    "tie_word_embeddings": False,
    "kv_lora_rank": 128,
    "q_lora_rank": 64,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "rms_norm_eps": 1e-6,  # at which mlx-lm and transformers agree about the norms inside attention
}
TOKENS = [1, 2, 3, 250, 7]
LONG = [*range(40)]  # so many that they are sorted by expert, and windows left
CLOSE = 1e-4  # between ways to compute the same logits, which are up to 8 large

Tensors = dict[str, mx.array]


def floats(**config: Any) -> Tensors:
    """Random weights of a model of these dimensions; `config` goes into its config.json."""
    return tiny.weights(tiny.CONFIG | DIMENSIONS | config)


def checkpoint(folder: Path, tensors: Tensors, metadata: dict[str, str] | None = None, **config: Any) -> Path:
    """A model directory with these tensors in place of random ones."""
    tiny.write(folder, **DIMENSIONS, **config)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata=metadata or {"format": "mlx"})
    return folder


def one_by_one(weights: Tensors) -> Tensors:
    """Stacked experts as many files have them: a tensor for each."""
    made: Tensors = {}
    for name, array in weights.items():
        if array.ndim < 3:
            made[name] = array
            continue
        head, _, projection = name.removesuffix(".weight").rpartition(".")
        made |= {f"{head}.{i}.{projection}.weight": array[i] for i in range(array.shape[0])}
    return made
