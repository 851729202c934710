"""The published config of gpt-oss."""

from __future__ import annotations

from runner.config.fields import Config
from tests.parts.published.common import published

CONFIGS: dict[str, Config] = {
    "gpt-oss-20b": published(
        "GptOssForCausalLM",
        model_type="gpt_oss",
        attention_bias=True,
        experts_per_token=4,
        head_dim=64,
        hidden_act="silu",
        initial_context_length=4096,
        layer_types=["sliding_attention", "full_attention"],
        max_position_embeddings=131072,
        num_experts_per_tok=4,
        num_local_experts=8,
        output_router_logits=False,
        pad_token_id=199999,
        quantization_config={
            "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router"],
            "quant_method": "mxfp4",
        },
        rms_norm_eps=1e-05,
        rope_scaling={
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        rope_theta=150000,
        router_aux_loss_coef=0.9,
        sliding_window=128,
        swiglu_limit=7.0,
        tie_word_embeddings=False,
    ),
}
