"""Config fields that an architecture does not read: what would change the maths is refused, the rest passes."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import pytest

from runner.config.fields import Config
from runner.config.unread import HARMLESS, HARMLESS_AT
from runner.errors import LoadError, UnsupportedModel
from runner.models import ARCHITECTURES, build
from tests.parts.reference import Case

ROPE = {"original_max_position_embeddings", "partial_rotary_factor"}
GEMMA3 = {
    *(
        "attention_bias",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "hidden_activation",
        "layer_types",
    ),
    *(
        "query_pre_attn_scalar",
        "rope_local_base_freq",
        "sliding_window_pattern",
        "use_bidirectional_attention",
    ),
}
GEMMA4 = {
    *("attention_bias", "attention_k_eq_v", "final_logit_softcapping", "hidden_activation", "layer_types"),
    *("num_kv_shared_layers", "partial_rotary_factor", "sliding_window_pattern"),
    "use_bidirectional_attention",
}
GLM = {
    *("attention_bias", "n_group", "rope_interleave", "routed_scaling_factor", "scoring_func", "topk_group"),
    "topk_method",
    *ROPE,
}
HYBRID = {"attention_bias", "attn_output_gate", "full_attention_interval", "layer_types", *ROPE}
NORMED = {"qk_layernorm", "qk_norm", "use_qk_norm"}
KNOWN: dict[str, set[str]] = {
    "Gemma3ForCausalLM": GEMMA3,
    "Gemma3ForConditionalGeneration": GEMMA3,
    "Gemma4ForCausalLM": GEMMA4,
    "Gemma4ForConditionalGeneration": GEMMA4,
    "Gemma4UnifiedForCausalLM": GEMMA4,
    "Gemma4UnifiedForConditionalGeneration": GEMMA4,
    "GLM4MoeLite": GLM,
    "Glm4MoeLiteForCausalLM": GLM,
    "GptOssForCausalLM": {"attention_bias", "layer_types", "swiglu_limit", *ROPE},
    "LlamaForCausalLM": {"attention_bias", "layer_types", "mlp_bias", *ROPE},
    "MistralForCausalLM": {"layer_types", *ROPE},
    "Qwen2ForCausalLM": {
        *("attention_bias", "qkv_bias", "use_qkv_bias"),
        *("layer_types", "use_sliding_window", *ROPE),
    },
    "Qwen3ForCausalLM": {"attention_bias", "layer_types", "use_sliding_window", *NORMED, *ROPE},
    "Qwen3MoeForCausalLM": {"attention_bias", "layer_types", "use_sliding_window", *NORMED, *ROPE},
    "Qwen3NextForCausalLM": HYBRID,
    "Qwen3NextForConditionalGeneration": HYBRID,
    "Qwen3NextMoeForCausalLM": HYBRID,
    "Qwen3NextMoeForConditionalGeneration": HYBRID,
    "Qwen3_5ForCausalLM": HYBRID,
    "Qwen3_5ForConditionalGeneration": HYBRID,
    "Qwen3_5MoeForCausalLM": HYBRID,
    "Qwen3_5MoeForConditionalGeneration": HYBRID,
    "SmolLM3ForCausalLM": {
        *("attention_bias", "layer_types", "mlp_bias", "no_rope_layer_interval", "no_rope_layers"),
        *("use_sliding_window", *ROPE),
    },
    "gemma4_unified": GEMMA4,
}
"""The rows that each architecture honours itself, in ways that other tests look at."""


def config(architecture: str, **fields: Any) -> Config:
    return Case("", architecture, fields).config


def harmful(name: str) -> Any:
    """Some value at which the field does change something."""
    flags = {value for value in HARMLESS_AT[name] if isinstance(value, bool)}
    return not flags.pop() if flags else 3


def refusal(architecture: str, fields: Config) -> str:
    """Empty if there is none."""
    try:
        build(config(architecture, **fields))
    except LoadError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_would_change_the_maths_is_refused_with_its_value_unless_it_is_read(architecture: str) -> None:
    where = "config.json: text_config" if "Conditional" in architecture else "config.json"
    wrong = []
    for name in HARMLESS_AT.keys() - KNOWN[architecture]:
        value = harmful(name)
        shown = str(value).lower()
        if (
            refusal(architecture, {name: value})
            != f"{where}: {name} {shown} is not supported with {architecture}"
        ):
            wrong.append(name)
    assert wrong == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_the_architecture_reads_is_its_own_affair(architecture: str) -> None:
    """It may refuse it in words of its own."""
    wrong = [
        name
        for name in KNOWN[architecture]
        if refusal(architecture, {name: harmful(name)}).endswith(f"is not supported with {architecture}")
    ]
    assert wrong == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_harmless_values_pass(architecture: str) -> None:
    names = HARMLESS_AT.keys() - KNOWN[architecture]
    assert refusal(architecture, dict.fromkeys(names)) == ""
    for place in range(max(map(len, HARMLESS_AT.values()))):
        fields = {name: HARMLESS_AT[name][place] for name in names if len(HARMLESS_AT[name]) > place}
        assert refusal(architecture, fields) == ""


@pytest.mark.parametrize(
    ("name", "value", "passes"),
    [
        ("pruned_heads", {}, True),
        ("pruned_heads", {"0": [1]}, False),
        ("no_rope_layers", [1, 1, 1], True),
        ("no_rope_layers", [1, 1, 0], False),
        ("no_rope_layers", [], True),
        ("no_rope_layers", [[1]], False),
        ("no_rope_layers", [True], False),
        ("mlp_multipliers", [1.0, 1.0], True),
        ("mlp_multipliers", [1.0, 0.5], False),
        ("logit_scale", 1.0, True),
        ("logit_scale", True, False),
        ("logit_scale", "1", False),
        ("attn_temperature_tuning", 0, True),
        ("attn_temperature_tuning", 4, False),
        ("embedding_multiplier", float("nan"), False),
    ],
)
def test_lists_and_objects_are_judged_by_what_is_in_them_and_true_is_not_1(
    name: str, value: Any, passes: bool
) -> None:
    assert (refusal("LlamaForCausalLM", {name: value}) == "") == passes


def test_a_long_value_is_cut() -> None:
    assert len(refusal("LlamaForCausalLM", {"no_rope_layers": [0] * 10_000})) < 200


def test_beside_a_text_config_nothing_harmful_passes_either() -> None:
    given = {**config("Gemma3ForConditionalGeneration"), "logit_scale": 0.5}
    with pytest.raises(UnsupportedModel, match=r"^config\.json: logit_scale 0\.5 is not supported"):
        build(given)


def test_fields_that_nobody_knows_pass_and_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        build(config("LlamaForCausalLM", zzz=1, aaa="x", null=None, use_cache=True, logit_scale=1.0))
        build(config("LlamaForCausalLM", use_cache=True))
    records: list[Any] = [r for r in caplog.records if r.getMessage() == "Config fields not read"]
    assert [record.fields for record in records] == ["aaa, zzz"]


def test_no_field_is_in_both_tables() -> None:
    assert not HARMLESS_AT.keys() & set(HARMLESS)


CLASSES = {
    "Gemma3ForCausalLM": "Gemma3TextConfig",
    "Gemma3ForConditionalGeneration": "Gemma3Config",
    "Gemma4ForCausalLM": "Gemma4TextConfig",
    "Gemma4ForConditionalGeneration": "Gemma4Config",
    "Gemma4UnifiedForCausalLM": "Gemma4UnifiedTextConfig",
    "Gemma4UnifiedForConditionalGeneration": "Gemma4UnifiedConfig",
    "GLM4MoeLite": "Glm4MoeLiteConfig",
    "Glm4MoeLiteForCausalLM": "Glm4MoeLiteConfig",
    "GptOssForCausalLM": "GptOssConfig",
    "LlamaForCausalLM": "LlamaConfig",
    "MistralForCausalLM": "MistralConfig",
    "Qwen2ForCausalLM": "Qwen2Config",
    "Qwen3ForCausalLM": "Qwen3Config",
    "Qwen3MoeForCausalLM": "Qwen3MoeConfig",
    "Qwen3NextForCausalLM": "Qwen3NextConfig",
    "Qwen3NextForConditionalGeneration": "Qwen3NextConfig",
    "Qwen3NextMoeForCausalLM": "Qwen3NextConfig",
    "Qwen3NextMoeForConditionalGeneration": "Qwen3NextConfig",
    "Qwen3_5ForCausalLM": "Qwen3_5TextConfig",
    "Qwen3_5ForConditionalGeneration": "Qwen3_5Config",
    "Qwen3_5MoeForCausalLM": "Qwen3_5MoeTextConfig",
    "Qwen3_5MoeForConditionalGeneration": "Qwen3_5MoeConfig",
    "SmolLM3ForCausalLM": "SmolLM3Config",
    "gemma4_unified": "Gemma4UnifiedConfig",
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_field_of_transformers_is_read_or_known_to_be_harmless(
    architecture: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What its configuration class writes, the defaults of all models included."""
    configuration = getattr(importlib.import_module("transformers"), CLASSES[architecture])
    with caplog.at_level(logging.DEBUG):
        build({**configuration().to_dict(), "architectures": [architecture]})
    unread: list[Any] = [r for r in caplog.records if r.getMessage() == "Config fields not read"]
    assert [record.fields for record in unread] == []


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


SWIGLU: Config = {"hidden_act": "silu", "rms_norm_eps": 1e-06}
QWEN: Config = {
    **SWIGLU,
    "use_sliding_window": False,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 32768,
}
GEMMA_TEXT: Config = {
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": None,
    "head_dim": 16,
    "hidden_activation": "gelu_pytorch_tanh",
    "model_type": "gemma3_text",
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
}
MEDIA_IDS: Config = {
    "audio_token_id": 258881,
    "boa_token_id": 256000,
    "boi_token_id": 255999,
    "dtype": "bfloat16",
    "eoa_token_index": 258883,
    "eoi_token_id": 258882,
    "eos_token_id": [1, 106],
    "image_token_id": 258880,
    "tie_word_embeddings": True,
    "video_token_id": 258884,
}
GEMMA4_TEXT: Config = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attention_k_eq_v": False,
    "enable_moe_block": False,
    "final_logit_softcapping": 30.0,
    "global_head_dim": 32,
    "head_dim": 16,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 64,
    "hidden_size_per_layer_input": 8,
    "intermediate_size": 96,
    "layer_types": [*["sliding_attention"] * 4, "full_attention"] * 2,
    "max_position_embeddings": 131072,
    "model_type": "gemma4_text",
    "moe_intermediate_size": None,
    "num_attention_heads": 8,
    "num_experts": None,
    "num_global_key_value_heads": None,
    "num_hidden_layers": 10,
    "num_key_value_heads": 1,
    "num_kv_shared_layers": 0,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {
        "full_attention": {
            "partial_rotary_factor": 0.25,
            "rope_theta": 1000000.0,
            "rope_type": "proportional",
        },
        "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
    },
    "sliding_window": 512,
    "tie_word_embeddings": True,
    "top_k_experts": None,
    "use_bidirectional_attention": None,
    "use_double_wide_mlp": False,
    "vocab_size": 262144,
    "vocab_size_per_layer_input": 262144,
}
POPULAR: dict[str, Config] = {
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
    "gemma-3-1b": published(
        "Gemma3ForCausalLM", **GEMMA_TEXT, max_position_embeddings=32768, sliding_window_pattern=6
    ),
    "gemma-3-4b": {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "boi_token_index": 255999,
        "eoi_token_index": 256000,
        "eos_token_id": [1, 106],
        "image_token_index": 262144,
        "initializer_range": 0.02,
        "mm_tokens_per_image": 256,
        "model_type": "gemma3",
        "text_config": {
            "hidden_size": 64,
            "intermediate_size": 96,
            "model_type": "gemma3_text",
            "num_hidden_layers": 7,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
        "torch_dtype": "bfloat16",
        "transformers_version": "4.50.0.dev0",
        "vision_config": {
            "hidden_size": 1152,
            "image_size": 896,
            "intermediate_size": 4304,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "patch_size": 14,
            "vision_use_head": False,
        },
    },
    "gemma-4-E2B": {
        "architectures": ["Gemma4ForConditionalGeneration"],
        **MEDIA_IDS,
        "audio_config": {"hidden_size": 1024, "model_type": "gemma4_audio"},
        "model_type": "gemma4",
        "text_config": {**GEMMA4_TEXT, "num_kv_shared_layers": 4, "use_double_wide_mlp": True},
        "vision_config": {"hidden_size": 768, "model_type": "gemma4_vision"},
    },
    "gemma-4-26B-A4B": {
        "architectures": ["Gemma4ForConditionalGeneration"],
        **MEDIA_IDS,
        "audio_config": None,
        "model_type": "gemma4",
        "text_config": {
            **GEMMA4_TEXT,
            "attention_k_eq_v": True,
            "enable_moe_block": True,
            "hidden_size_per_layer_input": 0,
            "moe_intermediate_size": 48,
            "num_experts": 8,
            "num_global_key_value_heads": 1,
            "top_k_experts": 4,
            "use_bidirectional_attention": "vision",
        },
        "vision_config": {"hidden_size": 1152, "model_type": "gemma4_vision"},
    },
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


@pytest.mark.parametrize("name", POPULAR)
def test_the_fields_of_popular_models_are_not_refused(name: str) -> None:
    build(POPULAR[name])


SAVED_TODAY: Config = {"dtype": "bfloat16", "is_encoder_decoder": False, "add_cross_attention": False}


@pytest.mark.parametrize("name", POPULAR)
def test_nor_are_those_that_newer_and_older_tools_add(name: str) -> None:
    """Older ones wrote out the defaults of every model there is."""
    build({**POPULAR[name], **SAVED_TODAY, "pruned_heads": {}, "cross_attention_hidden_size": None})
