"""What most published configs have."""

from __future__ import annotations

from typing import Any

from runner.config.fields import Config

SWIGLU: Config = {"hidden_act": "silu", "rms_norm_eps": 1e-06}


def published(architecture: str, **fields: Any) -> Config:
    """What nearly every published file has beside `fields`, with fewer and narrower layers."""
    common: Config = {
        "architectures": [architecture],
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.02,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 2,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0",
        "use_cache": True,
        "vocab_size": 300,
    }
    return common | fields
