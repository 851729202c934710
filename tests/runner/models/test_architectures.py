"""Every architecture against mlx-lm, in float32, however the tokens arrive.

One contract for all: the logits of one chunk, of many chunks, of one token at a time, and behind a rewound prefix
are those of mlx-lm's one forward. A case is one line; what mlx-lm lacks is put together by hand in `reference.py`.
"""

from __future__ import annotations

from functools import cache

import mlx.core as mx
import pytest

from runner.cache.slots import restorable
from runner.config.fields import Config
from runner.models import ARCHITECTURES as TABLE
from runner.models import build
from runner.models.base import Model
from tests.parts.reference import Case, Reference, difference, feed, load, some_tokens

TOLERANCE = 1e-4
TOKENS = some_tokens(72)  # beyond ORIGINAL, so scaled rotary positions leave their original context
ORIGINAL = {"original_max_position_embeddings": 64}

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ORIGINAL}
ROPES: dict[str, Config] = {
    "default": {"rope_scaling": None, "partial_rotary_factor": None},
    "theta": {"rope_theta": 1e6},
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 4.0}},
    "llama3": {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, **ORIGINAL}},
}
NEWER: dict[str, Config] = {
    "theta": {"rope_theta": 1e6, "rope_type": "default"},
    "linear": {"rope_theta": 1e6, "rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_theta": 1e6, "rope_type": "dynamic", "factor": 4.0},
    "llama3": {"rope_theta": 5e5, "rope_type": "llama3", **LLAMA3},
    "yarn": {"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0, **ORIGINAL},
}
ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
    "SmolLM3ForCausalLM",
)
EXPERTS: Config = {  # an odd number of each; the last two are the defaults, which mlx-lm must be told
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 40,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
PLAIN: dict[str, Config] = {  # what every case of an architecture has
    "Qwen3Moe": EXPERTS,
    "SmolLM3": {"no_rope_layer_interval": 2},  # so the second layer has no positions
}
WINDOWED = {"use_sliding_window": True, "sliding_window": 9}


def cases() -> list[Case]:
    made = []
    for architecture in ARCHITECTURES:
        kind = architecture.removesuffix("ForCausalLM")
        plain: Config = {"sliding_window": None, **PLAIN.get(kind, {})}
        rows: dict[str, Config] = {f"{name} rope": rope for name, rope in ROPES.items()}
        rows["tied"] = {"tie_word_embeddings": True}
        rows["no head_dim"] = {"head_dim": None, "num_attention_heads": 4, "num_key_value_heads": 2}
        rows["5 heads over 1"] = {"num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 12}
        if kind == "Qwen3":
            del rows["no head_dim"]  # it has a default of its own
        if kind in ("Qwen3", "Qwen3Moe"):
            rows["attention_bias"] = {"attention_bias": True}
        made += [Case(f"{kind} {name}", architecture, {**plain, **fields}) for name, fields in rows.items()]
        made += [
            Case(
                f"{kind} {name} rope_parameters",
                architecture,
                {**plain, "rope_parameters": rope},
                ("rope_theta",),
            )
            for name, rope in NEWER.items()
        ]
    made += special_cases() + gemma_cases() + gemma4_cases() + glm_cases()
    return made + gpt_oss_cases() + hybrid_cases() + smollm3_cases()


def special_cases() -> list[Case]:
    llama, mistral, moe = "LlamaForCausalLM", "MistralForCausalLM", "Qwen3MoeForCausalLM"
    qwen2, qwen3 = "Qwen2ForCausalLM", "Qwen3ForCausalLM"
    mscales = {"mscale": 0.7, "mscale_all_dim": 0.4, "beta_fast": 8, "beta_slow": 2}
    yarn = {"type": "yarn", "factor": 4.0, **ORIGINAL, **mscales}
    kinds = ["full_attention", "sliding_attention"]
    mixed = {"layer_types": kinds}
    return [
        Case("Llama attention_bias", llama, {"attention_bias": True}),
        Case("Llama mlp_bias", llama, {"mlp_bias": True, "attention_bias": True}),
        Case("Llama every head its own", llama, {"num_key_value_heads": None}),
        Case("Llama rope_traditional", llama, {"rope_traditional": True}),
        Case("Llama yarn rope with mscales", llama, {"rope_scaling": yarn}),
        Case("Llama half rotary", llama, {"partial_rotary_factor": 0.5}, rotated=8),
        Case("Qwen3 half rotary", qwen3, {"partial_rotary_factor": 0.5}, rotated=8),
        Case("Mistral window", mistral, {"sliding_window": 9}, windows=(9, 9)),
        Case("Mistral window of 1", mistral, {"sliding_window": 1}, windows=(1, 1)),
        Case("Mistral window never left", mistral, {"sliding_window": 256}),
        Case("Mistral default window", mistral),
        Case("Mistral mixed window", mistral, {"sliding_window": 9, **mixed}, windows=(None, 9)),
        Case("Qwen2 window", qwen2, {**WINDOWED, "max_window_layers": 1}, windows=(None, 9)),
        Case("Qwen2 window above all layers", qwen2, WINDOWED),
        Case("Qwen2 window unused", qwen2, {"sliding_window": 9, "max_window_layers": 0}),
        Case("Qwen2 mixed window", qwen2, {**WINDOWED, **mixed}, windows=(None, 9)),
        Case("Qwen3 window", qwen3, {**WINDOWED, "max_window_layers": 0}, windows=(9, 9)),
        Case("Qwen3 mixed window", qwen3, {**WINDOWED, **mixed}, windows=(None, 9)),
        Case("Qwen3Moe window", moe, {**EXPERTS, **WINDOWED, "max_window_layers": 1}, windows=(9, 9)),
        Case("Qwen3Moe odds as they are", moe, {**EXPERTS, "norm_topk_prob": False}),
        Case("Qwen3Moe 1 expert of 7", moe, {**EXPERTS, "num_experts_per_tok": 1, "norm_topk_prob": False}),
        Case("Qwen3Moe all experts", moe, {**EXPERTS, "num_experts_per_tok": 7}),
        Case("Qwen3Moe every second layer", moe, {**EXPERTS, "decoder_sparse_step": 2}),
        Case("Qwen3Moe one dense layer", moe, {**EXPERTS, "mlp_only_layers": [1]}),
        Case("Qwen3Moe no experts", moe, {**EXPERTS, "num_experts": 0}),
        Case(
            "Qwen3Moe num_local_experts",
            moe,
            {**EXPERTS, "num_local_experts": 7},
            without=("num_experts",),
        ),
    ]


GEMMA: Config = {
    "sliding_window": 9,
    "sliding_window_pattern": 2,  # so the first layer sees a window, the second everything
    "query_pre_attn_scalar": 24,  # not head_dim
    "rope_theta": 50_000.0,
    "rope_local_base_freq": 1_000.0,
    "hidden_size": 60,  # its root is no short number
    "tie_word_embeddings": True,
}


def gemma_cases() -> list[Case]:
    full, sliding = "full_attention", "sliding_attention"
    ropes = {
        full: {"rope_type": "linear", "factor": 4.0, "rope_theta": 70_000.0},
        sliding: {"rope_type": "default", "rope_theta": 2_000.0},
    }
    heads = ("num_attention_heads", "num_key_value_heads")
    no_ropes = ("rope_theta", "rope_local_base_freq")
    rows: dict[str, Config] = {
        "plain": {},
        "untied": {"tie_word_embeddings": False},
        "5 heads over 1": {"num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 12},
        "hidden_act, which is not its name": {"hidden_act": "silu"},
        "attention_bias": {"attention_bias": True},
        "logits capped": {"final_logit_softcapping": 3.0},
        "window of 1": {"sliding_window": 1},
        "window of 2": {"sliding_window": 2},
        "linear rope": {"rope_scaling": ROPES["linear"]["rope_scaling"]},
        "llama3 rope": {"rope_scaling": ROPES["llama3"]["rope_scaling"]},
        "yarn rope": {"rope_scaling": ROPES["yarn"]["rope_scaling"]},
        "layer_types": {"layer_types": [sliding, full], "sliding_window_pattern": None},
    }
    windows = {"window of 1": (1, None), "window of 2": (2, None)}
    causal, multimodal = "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"
    other_order: Config = {**GEMMA, "layer_types": [full, sliding], "rope_parameters": ropes}
    return [
        *(
            Case(f"Gemma3 {name}", causal, {**GEMMA, **row}, windows=windows.get(name, (9, None)))
            for name, row in rows.items()
        ),
        Case("Gemma3 window never left", causal, {**GEMMA, "sliding_window": 256}),
        Case("Gemma3 default thetas", causal, GEMMA, no_ropes, windows=(9, None)),
        Case("Gemma3 default pattern", causal, GEMMA, ("sliding_window_pattern",), windows=(9, 9)),
        Case("Gemma3 rope_parameters", causal, other_order, no_ropes, windows=(None, 9)),
        Case("Gemma3 text_config", multimodal, GEMMA, heads, windows=(9, None)),
    ]


FULL, SLIDING = "full_attention", "sliding_attention"
GEMMA4: Config = {
    "sliding_window": 9,
    "layer_types": [SLIDING, FULL],
    "global_head_dim": 24,  # not head_dim; a quarter of its 12 pairs turns
    "hidden_size_per_layer_input": 0,
    "hidden_size": 60,  # its root is no short number
    "tie_word_embeddings": True,
    "rope_parameters": {
        FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 50_000.0},
        SLIDING: {"rope_type": "default", "rope_theta": 1_000.0},
    },
}
PLE: Config = {"hidden_size_per_layer_input": 7, "vocab_size_per_layer_input": 310}
GEMMA4_EXPERTS: Config = {
    "enable_moe_block": True,
    "num_experts": 7,
    "top_k_experts": 3,
    "moe_intermediate_size": 40,
}
SHARING: Config = {  # layer 3 looks at 1, layers 4 and 5 look at 2
    "num_hidden_layers": 6,
    "layer_types": [SLIDING, SLIDING, FULL, SLIDING, FULL, FULL],
    "num_kv_shared_layers": 3,
    "use_double_wide_mlp": True,
}


def gemma4_cases() -> list[Case]:
    k_eq_v = {"attention_k_eq_v": True, "num_global_key_value_heads": 2}

    def ropes(full: Config, sliding: Config) -> Config:
        return {
            "rope_parameters": {
                FULL: {"rope_theta": 50_000.0, **full},
                SLIDING: {"rope_theta": 1_000.0, **sliding},
            }
        }

    plain = {"rope_type": "default"}
    quarter = {"rope_type": "proportional", "partial_rotary_factor": 0.25}
    rows: dict[str, Config] = {
        "plain": {},
        "untied": {"tie_word_embeddings": False},
        "5 heads over 1": {"num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 12},
        "hidden_act, which is not its name": {"hidden_act": "silu"},
        "attention_bias": {"attention_bias": True},
        "logits capped": {"final_logit_softcapping": 3.0},
        "heads all of one width": {"global_head_dim": 16},
        "k_eq_v": k_eq_v,
        "k_eq_v with biases": {**k_eq_v, "attention_bias": True},
        "k_eq_v, heads as elsewhere": {"attention_k_eq_v": True},
        "global heads without k_eq_v, which count for nothing": {"num_global_key_value_heads": 2},
        "per_layer_config": {
            "per_layer_config": {"01": {"head_dim": 32, "num_key_value_heads": 2}},
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
        },
        "PLE": PLE,
        "experts": GEMMA4_EXPERTS,
        "1 expert of 7": {**GEMMA4_EXPERTS, "top_k_experts": 1},
        "all experts": {**GEMMA4_EXPERTS, "top_k_experts": 7},
        "experts, k_eq_v and PLE": {**GEMMA4_EXPERTS, **k_eq_v, **PLE},
        "last layer forced": {"layer_types": [SLIDING, SLIDING]},
        "whole head turning": ropes({"rope_type": "proportional"}, plain),
        "stretched proportional rope": ropes({**quarter, "factor": 4.0}, plain),
        "half of the pairs turning": ropes({**quarter, "partial_rotary_factor": 0.5}, plain),
        "proportional windows": ropes(plain, quarter),
        "a part of default, which counts for nothing": ropes(
            quarter, {**plain, "partial_rotary_factor": 0.5}
        ),
        "linear rope": ropes({"rope_type": "linear", "factor": 4.0}, plain),
        "yarn rope": ropes({"rope_type": "yarn", "factor": 4.0, **ORIGINAL}, plain),
        "rope_traditional": {"rope_traditional": True},
        "vision": {"use_bidirectional_attention": "vision"},
        "window of 1": {"sliding_window": 1},
        "window of 2": {"sliding_window": 2},
    }
    windows = {"window of 1": (1, None), "window of 2": (2, None)}
    sharing: dict[str, Config] = {
        "sharing": {"use_double_wide_mlp": False},
        "sharing, wide": {},
        "sharing, k_eq_v": k_eq_v,
        "sharing and PLE": PLE,
        "sharing, experts": GEMMA4_EXPERTS,
        "sharing, biases": {"attention_bias": True},
    }
    causal, multimodal = "Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"
    unified, unified_multimodal = "Gemma4UnifiedForCausalLM", "Gemma4UnifiedForConditionalGeneration"
    no_layers, no_ple = ("layer_types",), ("hidden_size_per_layer_input",)
    seven: Config = {**GEMMA4, "num_hidden_layers": 7}
    return [
        *(
            Case(f"Gemma4 {name}", causal, {**GEMMA4, **row}, windows=windows.get(name, (9, None)))
            for name, row in rows.items()
        ),
        *(
            Case(f"Gemma4 {name}", causal, {**GEMMA4, **SHARING, **row}, windows=(9, 9, None))
            for name, row in sharing.items()
        ),
        Case("Gemma4 window never left", causal, {**GEMMA4, "sliding_window": 256}),
        Case("Gemma4 sharing window never left", causal, {**GEMMA4, **SHARING, "sliding_window": 256}),
        Case("Gemma4 default ropes", causal, GEMMA4, ("rope_parameters",), windows=(9, None)),
        Case("Gemma4 default layers", causal, seven, no_layers, windows=(9,) * 5 + (None,) * 2),
        Case(
            "Gemma4 default pattern",
            causal,
            {**seven, "sliding_window_pattern": 3},
            no_layers,
            windows=(9, 9, None) * 2 + (None,),
        ),
        Case(
            "Gemma4 default PLE",
            causal,
            {**GEMMA4, "vocab_size_per_layer_input": 310},
            no_ple,
            windows=(9, None),
        ),
        Case("Gemma4 text_config", multimodal, {**GEMMA4, **PLE}, windows=(9, None)),
        Case("Gemma4 unified", unified, GEMMA4, no_ple, windows=(9, None)),
        Case("Gemma4 unified text_config", unified_multimodal, GEMMA4, no_ple, windows=(9, None)),
        Case("Gemma4 gemma4_unified", "gemma4_unified", GEMMA4, no_ple, windows=(9, None)),
    ]


GLM: Config = {  # unlike widths everywhere; the last three are the defaults, which mlx-lm must be told
    "kv_lora_rank": 40,
    "q_lora_rank": 28,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
    "n_routed_experts": 7,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "rope_theta": 10_000.0,
    "routed_scaling_factor": 1.8,
    "first_k_dense_replace": 1,
}


def glm_cases() -> list[Case]:
    mscales = {"mscale": 0.7, "mscale_all_dim": 0.4, "beta_fast": 8, "beta_slow": 2}
    yarn = {"type": "yarn", "factor": 4.0, **ORIGINAL, **mscales}
    rows: dict[str, Config] = {
        "plain": {},
        "tied": {"tie_word_embeddings": True},
        "num_key_value_heads, which do not count": {"num_key_value_heads": 3},
        "attention_bias": {"attention_bias": True},
        "queries of one matrix": {"q_lora_rank": None},
        "queries of one matrix, attention_bias": {"q_lora_rank": None, "attention_bias": True},
        "coarse eps": {"rms_norm_eps": 0.3},
        "theta": {"rope_theta": 1e6},
        "linear rope": ROPES["linear"],
        "dynamic rope": ROPES["dynamic"],
        "llama3 rope": ROPES["llama3"],
        "yarn rope": ROPES["yarn"],
        "yarn rope with mscales": {"rope_scaling": yarn},
        "yarn rope with equal mscales": {"rope_scaling": {**yarn, "mscale": 0.4}},
        "linear rope with mscale_all_dim": {
            "rope_scaling": {"type": "linear", "factor": 4.0, "mscale_all_dim": 0.4}
        },
        "halves rotated": {"rope_interleave": False},
        "shares as they are": {"norm_topk_prob": False},
        "other factor": {"routed_scaling_factor": 0.6},
        "1 expert of 7": {"num_experts_per_tok": 1, "norm_topk_prob": False},
        "all experts": {"num_experts_per_tok": 7},
        "2 of 4 groups": {"n_routed_experts": 12, "n_group": 4, "topk_group": 2},
        "all groups": {"n_routed_experts": 6, "n_group": 3, "topk_group": 3},
        "no shared experts": {"n_shared_experts": None},
        "2 shared experts": {"n_shared_experts": 2},
        "no dense layer": {"first_k_dense_replace": 0},
        "dense layers only": {"first_k_dense_replace": 2},
        "every second layer": {"first_k_dense_replace": 0, "moe_layer_freq": 2},
        "mlp_layer_types": {"mlp_layer_types": ["sparse", "dense"]},
        "num_local_experts": {"num_local_experts": 7, "n_routed_experts": None},
    }
    made = [Case(f"Glm {name}", "Glm4MoeLiteForCausalLM", {**GLM, **row}) for name, row in rows.items()]
    newer: Config = {**GLM, "rope_parameters": NEWER["yarn"]}
    return [
        *made,
        Case("Glm yarn rope rope_parameters", "GLM4MoeLite", newer, ("rope_theta",)),
    ]


def gpt_oss_cases() -> list[Case]:
    plain = {"rope_type": "default", "rope_theta": 20_000.0}
    base: Config = {
        "num_local_experts": 7,
        "num_experts_per_tok": 3,
        "sliding_window": 9,
        "rope_parameters": plain,
    }
    rows: dict[str, Config] = {
        "plain": {},
        "tied": {"tie_word_embeddings": True},
        "yarn rope": {"rope_parameters": NEWER["yarn"]},
        "5 heads over 1": {"num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 12},
        "wider, so that clamps count": {"hidden_size": 128},
        "1 expert of 7": {"num_experts_per_tok": 1},
        "layer_types": {"layer_types": ["full_attention", "sliding_attention"]},
    }
    return [
        Case(
            f"GptOss {name}",
            "GptOssForCausalLM",
            {**base, **row},
            ("rope_theta",),
            windows=(None, 9) if name == "layer_types" else (9, None),
        )
        for name, row in rows.items()
    ]


LINEAR: Config = {
    "full_attention_interval": 2,  # so the first layer is recurrent, the second attends
    "linear_num_key_heads": 3,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 12,
    "partial_rotary_factor": 0.5,
}
MIXTURE: Config = {
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 40,
    "shared_expert_intermediate_size": 24,
}


def hybrid_cases() -> list[Case]:
    """Qwen3-Next and Qwen3.5. Names that lead to the same code are there once each."""
    full, linear = "full_attention", "linear_attention"
    sections = {"mrope_section": [1, 1, 2], "mrope_interleaved": True, "partial_rotary_factor": 0.5}
    rows: dict[str, Config] = {
        "plain": {},
        "tied": {"tie_word_embeddings": True},
        "attention_bias": {"attention_bias": True},
        "5 heads over 1": {"num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 12},
        "5 value heads over 1": {"linear_num_key_heads": 1, "linear_num_value_heads": 5},
        "heads of their own": {"linear_num_key_heads": 3, "linear_num_value_heads": 3},
        "kernel of 2": {"linear_conv_kernel_dim": 2},
        "kernel of 5": {"linear_conv_kernel_dim": 5},
        "layer_types": {"layer_types": [full, linear]},
        "all recurrent": {"layer_types": [linear, linear]},
        "rope_theta": {"rope_theta": 1e6},
        "rope_parameters": {"rope_parameters": {**NEWER["theta"], **sections}},
        "yarn rope": {"rope_parameters": {**NEWER["yarn"], **sections}},
    }
    mixtures: dict[str, Config] = {
        "plain": {},
        "1 expert of 7": {"num_experts_per_tok": 1},
        "all experts": {"num_experts_per_tok": 7},
    }
    exceptions: dict[str, Config] = {
        "odds as they are": {"norm_topk_prob": False},
        "every second layer": {"decoder_sparse_step": 2},
        "one dense layer": {"mlp_only_layers": [1]},
        "no experts": {"num_experts": 0},
    }
    five = {"num_hidden_layers": 5, "rms_norm_eps": 1e-3}
    quarter = ("full_attention_interval", "partial_rotary_factor")
    dense, sparse, older = "Qwen3_5", "Qwen3_5Moe", "Qwen3Next"
    both = {**LINEAR, **MIXTURE}
    made = [
        *(Case(f"{dense} {name}", f"{dense}ForCausalLM", {**LINEAR, **row}) for name, row in rows.items()),
        *(
            Case(f"{sparse} {name}", f"{sparse}ForCausalLM", {**both, **row})
            for name, row in mixtures.items()
        ),
        *(
            Case(f"{older} {name}", f"{older}ForCausalLM", {**both, **row})
            for name, row in {**rows, **mixtures, **exceptions}.items()
        ),
        Case(f"{older} under its other name", f"{older}MoeForCausalLM", both),
        Case(f"{sparse} without intermediate_size", f"{sparse}ForCausalLM", both, ("intermediate_size",)),
    ]
    for kind, fields in ((dense, LINEAR), (sparse, both), (older, both), (f"{older}Moe", both)):
        name = f"{kind}ForConditionalGeneration"
        made.append(Case(f"{kind} text_config", name, fields))
        made.append(Case(f"{kind} defaults", name, {**fields, **five}, quarter, windows=(None,) * 5))
    return made


def smollm3_cases() -> list[Case]:
    full, sliding = "full_attention", "sliding_attention"
    rows: dict[str, Config] = {
        "attention_bias": {"attention_bias": True},
        "mlp_bias": {"mlp_bias": True},
        "every head its own": {"num_key_value_heads": None},
        "no_rope_layers": {"no_rope_layers": [0, 1]},
        "no_rope_layers beside an interval of 0": {"no_rope_layers": [0, 1], "no_rope_layer_interval": 0},
        "no_rope_layers for more layers": {"no_rope_layers": [0, 1, 0]},
        "no positions": {"no_rope_layer_interval": 1},
        "window unused": {"sliding_window": 9},
        "window never left": {**WINDOWED, "sliding_window": 256},
        "window": WINDOWED,
        "window by no_rope_layers": {**WINDOWED, "no_rope_layers": [0, 1]},
        "window by layer_types": {**WINDOWED, "layer_types": [sliding, full]},
        "window of no layer": {**WINDOWED, "layer_types": [full, full]},
    }
    windows = {
        "window": (None, 9),
        "window by no_rope_layers": (9, None),
        "window by layer_types": (9, None),
    }
    name, plain = "SmolLM3ForCausalLM", PLAIN["SmolLM3"]
    linear = {"rope_parameters": {"rope_type": "linear", "factor": 4.0}}
    return [
        *(
            Case(f"SmolLM3 {row}", name, {**plain, **fields}, windows=windows.get(row, (None, None)))
            for row, fields in rows.items()
        ),
        Case("SmolLM3 default interval", name, {"num_hidden_layers": 5}, windows=(None,) * 5),
        Case("SmolLM3 default theta", name, plain, ("rope_theta",)),
        Case("SmolLM3 default theta, linear rope", name, {**plain, **linear}, ("rope_theta",)),
    ]


CASES = {case.name: case for case in cases()}


def test_every_row_of_the_table_has_a_case() -> None:
    assert {case.architecture for case in CASES.values()} == set(TABLE)


@cache
def pair(name: str) -> tuple[Model, Reference]:
    reference = Reference(CASES[name])
    return load(CASES[name], reference), reference


@cache
def expected(name: str) -> mx.array:
    """mlx-lm's logits [T,V] of TOKENS."""
    return pair(name)[1].logits(TOKENS)


@pytest.mark.parametrize("name", CASES)
def test_one_chunk_gives_the_logits_of_mlx_lm(name: str) -> None:
    """All positions at once, from empty caches."""
    model, _ = pair(name)
    assert difference(feed(model, model.make_caches(), TOKENS), expected(name)) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_many_chunks_give_the_logits_of_mlx_lm(name: str) -> None:
    """Uneven chunks, so that windows and rotary positions are crossed at every kind of seam."""
    model, _ = pair(name)
    assert difference(feed(model, model.make_caches(), TOKENS, (1, 3, 7, 20)), expected(name)) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_decoding_gives_the_logits_of_mlx_lm(name: str) -> None:
    """One token at a time behind a short prompt."""
    model, _ = pair(name)
    caches = model.make_caches()
    logits = mx.concatenate([feed(model, caches, TOKENS[:5]), feed(model, caches, TOKENS[5:], (1,))])
    assert difference(logits, expected(name)) < TOLERANCE


@pytest.mark.parametrize("architecture", TABLE)
def test_a_model_in_halves_computes_in_halves(architecture: str) -> None:
    """Nothing on the way makes the stream, the logits or the keys float32, which would cost twice; only a recurrent
    state is meant to be.
    """
    name = next(name for name, case in CASES.items() if case.architecture == architecture)
    _, reference = pair(name)
    model = build(CASES[name].config)
    halves = {n: array.astype(mx.bfloat16) for n, array in reference.checkpoint().items()}
    model.load_weights(list(model.rename(halves).items()))
    caches = model.make_caches()
    for tokens in (TOKENS[:7], TOKENS[7:8]):
        hidden = model(mx.array([tokens], mx.int32), caches)
        assert hidden.dtype == model.logits(hidden).dtype == mx.bfloat16
    kept = [layer.arrays() for layer in caches if not layer.checkpointed]
    assert {array.dtype for arrays in kept for array in arrays} == {mx.bfloat16}


ROTATING = [
    name for name in CASES if name.startswith(("Gemma", "GptOss")) and not name.endswith("never left")
]


RECURRENT = [name for name in CASES if name.startswith(("Qwen3Next", "Qwen3_5"))]


@pytest.mark.parametrize("name", [name for name in CASES if name not in ROTATING + RECURRENT])
def test_a_prefix_hit_gives_the_logits_of_mlx_lm(name: str) -> None:
    """Another conversation is rewound to the shared prefix; the rest is fed behind it, as if nothing had been."""
    model, _ = pair(name)
    caches = model.make_caches()
    feed(model, caches, TOKENS[:37] + some_tokens(30, "another end"), (25, 12, 30))
    assert all(layer.rewind(37) for layer in caches)
    rest = feed(model, caches, TOKENS[37:], (11,))
    assert difference(rest, expected(name)[37:]) < TOLERANCE
    fresh = model.make_caches()
    feed(model, fresh, TOKENS[:37], (25, 12))  # the same chunks, since a matrix product rounds by its shape
    again = feed(model, fresh, TOKENS[37:], (11,))
    assert mx.array_equal(rest, again), "a rewound cache is a fresh one, bit for bit"
    assert all(layer.rewind(31) for layer in caches), "also in the middle of what was one chunk"
    assert difference(feed(model, caches, TOKENS[31:], (20,)), expected(name)[31:]) < TOLERANCE


@pytest.mark.parametrize("name", ROTATING)
def test_a_short_rewind_of_a_rotating_storage_gives_the_logits_of_mlx_lm(name: str) -> None:
    """Half a window back it always goes, and what is fed behind it counts as if nothing had been."""
    model, reference = pair(name)
    back = max(1, min(window for window in reference.windows if window) // 2)
    caches = model.make_caches()
    feed(model, caches, TOKENS[:37], (12,))
    feed(model, caches, some_tokens(back, "another end"), (1,))
    assert all(layer.rewind(37) for layer in caches)
    assert difference(feed(model, caches, TOKENS[37:], (11,)), expected(name)[37:]) < TOLERANCE


@pytest.mark.parametrize("name", ROTATING)
def test_a_long_rewind_of_a_rotating_storage_is_refused_and_changes_nothing(name: str) -> None:
    model, reference = pair(name)
    caches = model.make_caches()
    feed(model, caches, TOKENS[:60], (7,))
    for layer, window in zip(caches, reference.windows, strict=True):
        assert window is None or window == 1 or not layer.rewind(20)
    assert [layer.offset for layer in caches] == [60] * len(caches)
    assert difference(feed(model, caches, TOKENS[60:], (1,)), expected(name)[60:]) < TOLERANCE


@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_model_goes_back_to_a_checkpoint_and_gives_the_logits_of_mlx_lm(name: str) -> None:
    """Another conversation is rewound to where the prompt's checkpoint is; then as if nothing had been."""
    model, _ = pair(name)
    caches = model.make_caches()
    feed(model, caches, TOKENS[:37], (25, 12))
    for layer in caches:
        layer.checkpoint()
    feed(model, caches, some_tokens(30, "another end"), (11, 1))
    assert restorable(caches, 50) == 37
    assert all(layer.rewind(37) for layer in caches)
    rest = feed(model, caches, TOKENS[37:], (11,))
    assert difference(rest, expected(name)[37:]) < TOLERANCE
    fresh = model.make_caches()
    feed(model, fresh, TOKENS[:37], (25, 12))
    assert mx.array_equal(rest, feed(model, fresh, TOKENS[37:], (11,))), "bit for bit"


@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_model_goes_back_over_its_last_forward(name: str) -> None:
    """A token was forwarded ahead and is not wanted."""
    model, _ = pair(name)
    caches = model.make_caches()
    feed(model, caches, TOKENS[:37] + TOKENS[:1], (37, 1))
    assert all(layer.rewind(37) for layer in caches)
    assert difference(feed(model, caches, TOKENS[37:], (1,)), expected(name)[37:]) < TOLERANCE


@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_model_refuses_what_it_cannot_restore_and_is_unchanged(name: str) -> None:
    model, _ = pair(name)
    caches = model.make_caches()
    feed(model, caches, TOKENS[:60], (7,))
    assert restorable(caches, 50) == 0
    assert not all(layer.rewind(50) for layer in caches if layer.checkpointed)
    assert {layer.offset for layer in caches} == {60}
    assert difference(feed(model, caches, TOKENS[60:], (1,)), expected(name)[60:]) < TOLERANCE
