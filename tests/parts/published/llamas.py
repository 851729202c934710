"""Published configs of Llama and its nearest relatives."""

from __future__ import annotations

from runner.config.fields import Config
from tests.parts.published.common import SWIGLU, published

CONFIGS: dict[str, Config] = {
    "Llama-3.2-1B": published(
        "LlamaForCausalLM",
        **SWIGLU,
        model_type="llama",
        attention_bias=False,
        head_dim=16,
        max_position_embeddings=131072,
        mlp_bias=False,
        pretraining_tp=1,
        rope_scaling={
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        rope_theta=500000.0,
        tie_word_embeddings=True,
    ),
    "SmolLM2-135M": published(
        "LlamaForCausalLM",
        **SWIGLU,
        model_type="llama",
        attention_bias=False,
        is_llama_config=True,
        max_position_embeddings=8192,
        mlp_bias=False,
        pretraining_tp=1,
        rope_interleaved=False,
        rope_scaling=None,
        rope_theta=100000,
        tie_word_embeddings=True,
    ),
    "Mistral-7B-v0.3": published(
        "MistralForCausalLM",
        **SWIGLU,
        model_type="mistral",
        max_position_embeddings=32768,
        rope_theta=1000000.0,
        sliding_window=None,
        tie_word_embeddings=False,
    ),
    "SmolLM3-3B": published(
        "SmolLM3ForCausalLM",
        **SWIGLU,
        model_type="smollm3",
        attention_bias=False,
        layer_types=["full_attention"] * 4,
        max_position_embeddings=65536,
        max_window_layers=28,
        mlp_bias=False,
        no_rope_layer_interval=4,
        no_rope_layers=[1, 1, 1, 0],
        num_hidden_layers=4,
        pretraining_tp=2,
        rope_scaling=None,
        rope_theta=5000000.0,
        sliding_window=None,
        use_sliding_window=False,
    ),
}
