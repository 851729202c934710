"""A tiny model of each kind of memory: plain, windows, states, and mlx-lm's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.parts import tiny, zoo
from tests.parts.architectures import gpt_oss

LONG = {"max_position_embeddings": 4096}
HYBRID: dict[str, Any] = {
    "num_hidden_layers": 4,
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 12,
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 24,
}
ROTATING = {"architectures": [gpt_oss.NAME], "head_dim": 16, **gpt_oss.FIELDS, **LONG}
RECURRENT = {"architectures": ["Qwen3NextForCausalLM"], **HYBRID, **LONG}
MODELS: dict[str, Callable[[Path], Path]] = {
    "plain": lambda folder: tiny.write(folder, **LONG),
    "rotating": lambda folder: tiny.write(folder, **ROTATING),
    "recurrent": lambda folder: tiny.write(folder, **RECURRENT),
    "zoo": lambda folder: zoo.write(folder, "Mamba2ForCausalLM", **LONG),
}
