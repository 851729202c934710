"""Published configs of Qwen2 and Qwen3."""

from __future__ import annotations

from runner.config.fields import Config
from tests.parts.published.common import SWIGLU, published

QWEN: Config = {
    **SWIGLU,
    "use_sliding_window": False,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 32768,
}
CONFIGS: dict[str, Config] = {
    "Qwen2.5-7B": published(
        "Qwen2ForCausalLM",
        **QWEN,
        model_type="qwen2",
        max_window_layers=28,
        sliding_window=131072,
        tie_word_embeddings=False,
        use_mrope=False,
    ),
    "Qwen3-0.6B": published(
        "Qwen3ForCausalLM",
        **QWEN,
        model_type="qwen3",
        attention_bias=False,
        head_dim=128,
        max_window_layers=28,
        rope_scaling=None,
        sliding_window=None,
        tie_word_embeddings=True,
    ),
    "Qwen3-30B-A3B": published(
        "Qwen3MoeForCausalLM",
        **QWEN,
        model_type="qwen3_moe",
        attention_bias=False,
        decoder_sparse_step=1,
        head_dim=128,
        max_window_layers=48,
        mlp_only_layers=[],
        moe_intermediate_size=48,
        norm_topk_prob=True,
        num_experts=8,
        num_experts_per_tok=4,
        output_router_logits=False,
        rope_scaling=None,
        router_aux_loss_coef=0.001,
        sliding_window=None,
        tie_word_embeddings=False,
    ),
    "Qwen3-Coder-30B-A3B": published(
        "Qwen3MoeForCausalLM",
        **QWEN,
        model_type="qwen3_moe",
        decoder_sparse_step=1,
        head_dim=128,
        max_window_layers=28,
        mlp_only_layers=[],
        moe_intermediate_size=48,
        norm_topk_prob=True,
        num_experts=8,
        num_experts_per_tok=4,
        qkv_bias=False,
        rope_scaling=None,
        shared_expert_intermediate_size=0,
        sliding_window=None,
        tie_word_embeddings=False,
        use_qk_norm=True,
    ),
}
