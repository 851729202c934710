"""Config fields that an architecture does not read: what would change the maths is refused, the rest passes."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from runner.config.fields import Config
from runner.config.unread import HARMLESS, HARMLESS_AT
from runner.errors import LoadError, UnsupportedModel
from runner.models import ARCHITECTURES, build
from tests.parts.case import Case

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
