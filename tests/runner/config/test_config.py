"""The table of architectures and the reading of config.json: every refusal is one line that names the thing."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest

from runner.config.fields import Config, Fields
from runner.errors import BadModelFiles, LoadError, UnsupportedModel
from runner.models import ARCHITECTURES, build
from runner.models.base import Model
from runner.models.gemma4_config import Gemma4Config
from runner.models.gpt_oss import GptOssConfig
from tests.parts.reference import TINY

LLAMA: Config = {**TINY, "architectures": ["LlamaForCausalLM"]}


def refused(config: Config, error: type[LoadError]) -> str:
    with pytest.raises(error) as raised:
        build(config)
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 250 + len(", ".join(ARCHITECTURES))
    return message


@pytest.mark.parametrize(
    "name", ["GPT2LMHeadModel", "../x", "os.path", "llama", "__init__", "", "Llama\nForCausalLM"]
)
def test_an_unknown_architecture_is_named_beside_those_that_we_have(name: str) -> None:
    before = set(sys.modules)
    message = refused({**LLAMA, "architectures": [name]}, UnsupportedModel)
    assert message.startswith(f'architecture "{name}"'.replace("\n", "\\n"))
    assert all(known in message for known in ARCHITECTURES)
    assert set(sys.modules) == before, "nothing was imported for it"


@pytest.mark.parametrize("value", [None, [], "LlamaForCausalLM", [7], {"0": "LlamaForCausalLM"}, [None]])
def test_architectures_must_be_a_list_of_names(value: Any) -> None:
    assert "architectures is" in refused({**LLAMA, "architectures": value}, BadModelFiles)


def test_code_that_a_config_points_to_is_never_looked_at() -> None:
    """Both fields ask other programs to import a file of the model."""
    trap = {"auto_map": {"AutoModel": "evil--modeling.Evil"}, "model_file": "evil.py"}
    model = build({**LLAMA, **trap})
    assert type(model).__module__ == "runner.models.llama"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_row_of_the_table_builds_a_model(architecture: str) -> None:
    model: Model = build({**LLAMA, "architectures": [architecture]})
    assert (model.vocab_size, model.context_length) == (TINY["vocab_size"], TINY["max_position_embeddings"])
    assert len(model.make_caches()) == TINY["num_hidden_layers"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10**7}, "num_hidden_layers is 10000000, expected an integer from 1 to 1000"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0, expected an integer from 1 to 1000"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers is 2.0, expected an integer"),
        ({"num_hidden_layers": True}, "num_hidden_layers is true, expected an integer"),
        ({"hidden_size": None}, "hidden_size is missing, expected an integer"),
        ({"hidden_size": "64"}, 'hidden_size is "64", expected an integer'),
        ({"vocab_size": 1 << 40}, "vocab_size is 1099511627776, expected an integer"),
        ({"intermediate_size": -1}, "intermediate_size is -1, expected an integer"),
        ({"num_attention_heads": [6]}, "num_attention_heads is [6], expected an integer"),
        (
            {"num_key_value_heads": 4},
            "num_attention_heads is 6, expected a multiple of num_key_value_heads, 4",
        ),
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0, expected an integer from 1"),
        ({"head_dim": 0}, "head_dim is 0, expected an integer from 1"),
        ({"head_dim": None}, "hidden_size is 64, expected a multiple of num_attention_heads, 6"),
        (
            {"head_dim": 15},
            "partial_rotary_factor 1 of head_dim 15 rotates 15 numbers, expected an even number",
        ),
        ({"max_position_embeddings": 1 << 31}, "max_position_embeddings is 2147483648, expected an integer"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0, expected a number above 0"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps is Infinity, expected a number above 0"),
        ({"tie_word_embeddings": "yes"}, 'tie_word_embeddings is "yes", expected true or false'),
        ({"attention_bias": 1}, "attention_bias is 1, expected true or false"),
        ({"hidden_act": 3}, "hidden_act is 3, expected a string"),
        ({"layer_types": "full_attention"}, 'layer_types is "full_attention", expected a list of strings'),
        ({"hidden_size": "x" * 5000}, 'hidden_size is "xxx'),
    ],
)
def test_a_broken_field_is_named_with_its_value(changes: Config, message: str) -> None:
    assert f"config.json: {message}" in refused({**LLAMA, **changes}, BadModelFiles) or message.startswith(
        "of head"
    )


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("LlamaForCausalLM", {"hidden_act": "gelu"}, 'hidden_act "gelu" is not supported, only silu is'),
        (
            "LlamaForCausalLM",
            {"layer_types": ["sliding_attention"] * 2},
            "LlamaForCausalLM has full_attention only",
        ),
        (
            "MistralForCausalLM",
            {"layer_types": ["chunked_attention"] * 2},
            'layer_types has "chunked_attention"',
        ),
    ],
)
def test_a_feature_that_we_lack_is_refused(architecture: str, changes: Config, message: str) -> None:
    assert message in refused({**LLAMA, **changes, "architectures": [architecture]}, UnsupportedModel)


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        (
            "Qwen2ForCausalLM",
            {"layer_types": ["full_attention"]},
            "expected a list of num_hidden_layers, 2, names",
        ),
        (
            "Qwen3ForCausalLM",
            {"layer_types": ["sliding_attention"] * 2},
            "(or use_sliding_window) turns it off",
        ),
        (
            "MistralForCausalLM",
            {"layer_types": ["sliding_attention"] * 2, "sliding_window": None},
            "(or use_sliding_window) turns it off",
        ),
        ("MistralForCausalLM", {"sliding_window": 0}, "sliding_window is 0, expected an integer from 1"),
    ],
)
def test_windows_that_contradict_are_refused(architecture: str, changes: Config, message: str) -> None:
    assert message in refused({**LLAMA, **changes, "architectures": [architecture]}, BadModelFiles)


REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@pytest.mark.parametrize("name", REQUIRED)
def test_sizes_are_never_guessed(name: str) -> None:
    config = {field: value for field, value in LLAMA.items() if field != name}
    assert f"config.json: {name} is missing" in refused(config, BadModelFiles)


@pytest.mark.parametrize(
    ("architecture", "positions", "kv_heads", "head_dim"),
    [
        ("LlamaForCausalLM", 2048, 64, 16),
        ("MistralForCausalLM", 131_072, 8, 16),
        ("Qwen2ForCausalLM", 32_768, 32, 16),
        ("Qwen3ForCausalLM", 32_768, 32, 128),
        ("Qwen3MoeForCausalLM", 32_768, 4, 16),
    ],
)
def test_an_absent_field_has_the_default_of_transformers(
    architecture: str, positions: int, kv_heads: int, head_dim: int
) -> None:
    """Read in the configuration classes of transformers 5.23; files leave out what equals them."""
    sizes = {name: TINY[name] for name in REQUIRED}
    heads = {"hidden_size": 1024, "num_attention_heads": 64}
    model: Any = build({**sizes, **heads, "architectures": [architecture]})
    attention = model.model.layers[0].self_attn
    assert model.context_length == positions
    assert attention.k_proj.weight.shape == (kv_heads * head_dim, 1024)
    assert not model.tied
    assert model.model.norm.eps == 1e-6
    assert ("bias" in attention.q_proj, "bias" in attention.o_proj) == (
        architecture == "Qwen2ForCausalLM",
        False,
    )


GEMMA: Config = {**TINY, "architectures": ["Gemma3ForCausalLM"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hidden_activation": "gelu"},
            'hidden_activation "gelu" is not supported, only gelu_pytorch_tanh is',
        ),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention is not supported"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is not supported"),
        ({"rope_parameters": {"rope_type": "default"}}, 'rope_parameters has "rope_type", expected'),
        ({"layer_types": ["full_attention", "linear_attention"]}, 'layer_types has "linear_attention"'),
        ({"rope_scaling": {"rope_type": "longrope"}}, 'of type "longrope" is not supported'),
    ],
)
def test_what_we_lack_of_gemma_is_refused(changes: Config, message: str) -> None:
    assert message in refused({**GEMMA, **changes}, UnsupportedModel)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sliding_window": None}, "layer_types has sliding_attention, but sliding_window"),
        ({"sliding_window_pattern": 0}, "sliding_window_pattern is 0, expected an integer from 1"),
        ({"final_logit_softcapping": 0}, "final_logit_softcapping is 0, expected a number above 0"),
        ({"query_pre_attn_scalar": "x"}, 'query_pre_attn_scalar is "x", expected a number above 0'),
        ({"rope_local_base_freq": 1}, "rope_local_base_freq is 1, expected a number above 1"),
        ({"text_config": {"hidden_size": 0}}, "text_config: hidden_size is 0, expected an integer from 1"),
        ({"text_config": [1]}, "text_config is [1], expected an object"),
    ],
)
def test_a_broken_field_of_gemma_is_named_with_its_value(changes: Config, message: str) -> None:
    assert f"config.json: {message}" in refused({**GEMMA, **changes}, BadModelFiles)


def test_gemmas_absent_fields_have_the_defaults_of_transformers() -> None:
    """Read in Gemma3TextConfig of transformers 5.23. Google's multimodal files leave out heads and vocabulary."""
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 7}
    model: Any = build({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text})
    assert (model.vocab_size, model.context_length) == (262_208, 131_072)
    attention = model.model.layers[0].self_attn
    assert attention.q_proj.weight.shape == (8 * 256, 32)
    assert attention.k_proj.weight.shape == (4 * 256, 32)
    assert attention.scale == 256**-0.5
    windows = [getattr(cache, "window", None) for cache in model.make_caches()]
    assert windows == [4096] * 5 + [None, 4096]


GEMMA4: Config = {**TINY, "architectures": ["Gemma4ForCausalLM"]}
MIXTURE: Config = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 8}
KINDS = ["sliding_attention", "full_attention"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hidden_activation": "gelu"},
            'hidden_activation "gelu" is not supported, only gelu_pytorch_tanh is',
        ),
        ({"use_bidirectional_attention": "all"}, 'use_bidirectional_attention "all" is not supported'),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2}}, "rope_scaling is not supported here"),
        ({"rope_parameters": {"rope_type": "default"}}, 'rope_parameters has "rope_type", expected'),
        ({"rope_parameters": {"full_attention": {"type": "longrope"}}}, 'of type "longrope" is not'),
        ({"layer_types": ["linear_attention", "full_attention"]}, 'layer_types has "linear_attention"'),
        ({"per_layer_config": {"0": {"head_dim": 8}}, "layer_types": KINDS}, "per_layer_config is supported"),
        ({"per_layer_config": {"1": {"intermediate_size": 8}}}, "per_layer_config is supported for"),
        ({"per_layer_config": {"1": {"skip": ["mlp"]}}}, "per_layer_config is supported for"),
        ({"per_layer_config": {"1": 8}}, "per_layer_config is supported for"),
        (
            {"per_layer_config": {"0": {"head_dim": 8}, "1": {}}, "layer_types": ["full_attention"] * 2},
            "the same in every full_attention layer",
        ),
    ],
)
def test_what_we_lack_of_gemma_4_is_refused(changes: Config, message: str) -> None:
    assert message in refused({**GEMMA4, **changes}, UnsupportedModel)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention is true, expected a string"),
        ({"sliding_window": 0}, "sliding_window is 0, expected an integer from 1"),
        ({"global_head_dim": 0}, "global_head_dim is 0, expected an integer from 1"),
        (
            {"attention_k_eq_v": True, "num_global_key_value_heads": 4},
            "num_attention_heads is 6, expected a multiple of the key/value heads of full_attention layers, 4",
        ),
        (
            {"per_layer_config": {"1": {"num_key_value_heads": "x"}}},
            'per_layer_config: num_key_value_heads is "x", expected an integer',
        ),
        ({"num_kv_shared_layers": -1}, "num_kv_shared_layers is -1, expected an integer from 0"),
        ({"num_kv_shared_layers": 2}, "num_kv_shared_layers is 2 of 2 layers, but none of the others"),
        (
            {"num_kv_shared_layers": 1, "layer_types": KINDS},
            "num_kv_shared_layers is 1 of 2 layers, but none of the others is of the kind full_attention",
        ),
        ({"vocab_size_per_layer_input": 299}, "vocab_size_per_layer_input is 299, but there are 300 tokens"),
        ({"hidden_size_per_layer_input": -1}, "hidden_size_per_layer_input is -1, expected an integer"),
        ({"enable_moe_block": True}, "num_experts is missing, expected an integer from 1"),
        ({**MIXTURE, "top_k_experts": None}, "top_k_experts is missing, expected an integer from 1"),
        ({**MIXTURE, "top_k_experts": 5}, "top_k_experts is 5, but there are 4 experts"),
        ({**MIXTURE, "moe_intermediate_size": None}, "moe_intermediate_size is missing, expected"),
        ({"final_logit_softcapping": 0}, "final_logit_softcapping is 0, expected a number above 0"),
        (
            {"rope_parameters": {"full_attention": {"type": "proportional", "partial_rotary_factor": 1.5}}},
            "rope_parameters: partial_rotary_factor is 1.5, expected a number up to 1",
        ),
        ({"text_config": {"hidden_size": 0}}, "text_config: hidden_size is 0, expected an integer from 1"),
    ],
)
def test_a_broken_field_of_gemma_4_is_named_with_its_value(changes: Config, message: str) -> None:
    assert f"config.json: {message}" in refused({**GEMMA4, **changes}, BadModelFiles)


@pytest.mark.parametrize(
    ("architecture", "positions", "window", "ple"),
    [
        ("Gemma4ForCausalLM", 131_072, 512, (262_144, 256)),
        ("Gemma4ForConditionalGeneration", 131_072, 512, (262_144, 256)),
        ("Gemma4UnifiedForCausalLM", 262_144, 1024, (262_144, 0)),
        ("Gemma4UnifiedForConditionalGeneration", 262_144, 1024, (262_144, 0)),
        ("gemma4_unified", 262_144, 1024, (262_144, 0)),
    ],
)
def test_gemma_4s_absent_fields_have_the_defaults_of_transformers(
    architecture: str, positions: int, window: int, ple: tuple[int, int]
) -> None:
    """Read in Gemma4TextConfig and Gemma4UnifiedTextConfig of transformers 5.23; mlx-lm's are others."""
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 8}
    read = Gemma4Config.read(Fields({"architectures": [architecture], "text_config": text}))
    decoder, full, sliding = read.decoder, read.kinds["full_attention"], read.kinds["sliding_attention"]
    assert (decoder.vocab_size, decoder.max_position_embeddings) == (262_144, positions)
    assert (decoder.num_attention_heads, decoder.rms_norm_eps) == (8, 1e-6)
    assert (sliding.kv_heads, sliding.head_dim, sliding.rope.theta) == (4, 256, 10_000)
    assert (full.kv_heads, full.head_dim, full.rope.theta) == (4, 512, 1_000_000)
    assert full.rope.periods is not None
    assert full.rope.periods[62:65] == pytest.approx((1e6 ** (124 / 512), 1e6 ** (126 / 512), 1e30))
    assert read.windows == (*[window] * 5, None, window, None)
    assert read.donors == tuple(range(8))
    assert (read.ple_rows, read.ple_width) == ple
    assert (read.wide, read.mixture, read.attention_bias, read.logit_cap) == (False, None, False, None)
    assert not full.k_eq_v


def test_what_a_rope_of_gemma_4_leaves_out_may_stand_beside() -> None:
    """As transformers fills it in; a kind that is not there at all has its own default."""
    given = {"full_attention": {"rope_type": "proportional"}}
    beside = {"rope_theta": 3e5, "partial_rotary_factor": 0.5, "rope_parameters": given}
    read = Gemma4Config.read(Fields({**GEMMA4, **beside, "global_head_dim": 8}))
    full, sliding = read.kinds["full_attention"].rope, read.kinds["sliding_attention"].rope
    assert full.theta == 3e5
    assert full.periods == pytest.approx((1.0, 3e5 ** (2 / 8), 1e30, 1e30))
    assert (sliding.theta, sliding.dims) == (10_000, 16)


def test_gemma_4_as_transformers_saves_it_is_as_it_was_published() -> None:
    """Version 5.23 lists the wider heads layer by layer, and has no fields of that name."""
    shape = {"attention_k_eq_v": True, "num_hidden_layers": 12}
    published = Gemma4Config.read(
        Fields({**GEMMA4, **shape, "global_head_dim": 32, "num_global_key_value_heads": 1})
    )
    wider = {"head_dim": 32, "num_key_value_heads": 1}
    saved = Gemma4Config.read(Fields({**GEMMA4, **shape, "per_layer_config": {"05": wider, "11": wider}}))
    assert saved == published
    same = Gemma4Config.read(Fields({**GEMMA4, **shape, "per_layer_config": {}}))
    assert same.kinds["full_attention"].head_dim == same.kinds["sliding_attention"].head_dim == 16


MOE: Config = {**TINY, "architectures": ["Qwen3MoeForCausalLM"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": 4}, "num_experts_per_tok is 8, but there are 4 experts"),
        ({"num_local_experts": 4}, "num_experts_per_tok is 8, but there are 4 experts"),
        ({"num_experts": 1 << 20}, "num_experts is 1048576, expected an integer from 0 to 4096"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok is 0, expected an integer from 1 to 4096"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step is 0, expected an integer from 1"),
        ({"mlp_only_layers": 3}, "mlp_only_layers is 3, expected a list of integers"),
        ({"mlp_only_layers": [True]}, "mlp_only_layers is [true], expected a list of integers"),
        ({"norm_topk_prob": 1}, "norm_topk_prob is 1, expected true or false"),
        ({"moe_intermediate_size": 0}, "moe_intermediate_size is 0, expected an integer from 1"),
    ],
)
def test_a_broken_field_of_the_experts_is_named_with_its_value(changes: Config, message: str) -> None:
    assert f"config.json: {message}" in refused({**MOE, **changes}, BadModelFiles)


def test_absent_fields_of_the_experts_have_the_defaults_of_transformers() -> None:
    """Read in Qwen3MoeConfig of transformers 5.23; mlx-lm has none."""
    model: Any = build(MOE)
    mlp = model.model.layers[0].mlp
    assert mlp.experts.gate_proj.weight.shape == (128, 768, 64)
    assert (mlp.active, mlp.normalized) == (8, False)


HYBRIDS = {
    "Qwen3NextForCausalLM": (2, 512, 10),
    "Qwen3_5ForCausalLM": (4, None, None),
    "Qwen3_5MoeForCausalLM": (2, 256, 8),
}
NEXT: Config = {**TINY, "architectures": ["Qwen3NextForCausalLM"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn_output_gate": False}, "attn_output_gate false is not supported"),
        ({"output_gate_type": "sigmoid"}, 'output_gate_type "sigmoid" is not supported, only swish is'),
        ({"hidden_act": "gelu"}, 'hidden_act "gelu" is not supported, only silu is'),
        ({"layer_types": ["linear_attention", "sliding_attention"]}, 'layer_types has "sliding_attention"'),
        ({"layer_types": ["full_attention"] * 2}, "no layer has linear_attention"),
        ({"full_attention_interval": 1}, "no layer has linear_attention"),
        ({"rope_parameters": {"rope_type": "mrope"}}, 'of type "mrope" is not supported'),
        ({"rope_parameters": {"alpha": 3}}, 'a field that is not supported: "alpha"'),
    ],
)
@pytest.mark.parametrize("architecture", HYBRIDS)
def test_what_we_lack_of_hybrids_is_refused(architecture: str, changes: Config, message: str) -> None:
    assert message in refused({**NEXT, **changes, "architectures": [architecture]}, UnsupportedModel)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"linear_num_value_heads": 24}, "expected a multiple of linear_num_key_heads, 16"),
        ({"linear_num_key_heads": 0}, "linear_num_key_heads is 0, expected an integer from 1"),
        ({"linear_key_head_dim": "x"}, 'linear_key_head_dim is "x", expected an integer'),
        ({"linear_value_head_dim": 1 << 40}, "linear_value_head_dim is 1099511627776, expected an integer"),
        ({"linear_conv_kernel_dim": 1}, "linear_conv_kernel_dim is 1, expected an integer from 2"),
        ({"full_attention_interval": 0}, "full_attention_interval is 0, expected an integer from 1"),
        ({"layer_types": ["full_attention"]}, "expected a list of num_hidden_layers, 2, names"),
        ({"attn_output_gate": 1}, "attn_output_gate is 1, expected true or false"),
        ({"text_config": {"hidden_size": 0}}, "text_config: hidden_size is 0, expected an integer from 1"),
    ],
)
@pytest.mark.parametrize("architecture", HYBRIDS)
def test_a_broken_field_of_hybrids_is_named_with_its_value(
    architecture: str, changes: Config, message: str
) -> None:
    assert message in refused({**NEXT, **changes, "architectures": [architecture]}, BadModelFiles)


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("Qwen3NextForCausalLM", {"num_experts": 9}, "num_experts_per_tok is 10, but there are 9 experts"),
        ("Qwen3NextForCausalLM", {"norm_topk_prob": 1}, "norm_topk_prob is 1, expected true or false"),
        ("Qwen3_5MoeForCausalLM", {"num_experts": 7}, "num_experts_per_tok is 8, but there are 7 experts"),
        ("Qwen3_5MoeForCausalLM", {"num_experts": 0}, "num_experts is 0, expected at least 1"),
        ("Qwen3_5MoeForCausalLM", {"shared_expert_intermediate_size": 0}, "size is 0, expected an integer"),
    ],
)
def test_broken_mixtures_of_hybrids_are_named(architecture: str, changes: Config, message: str) -> None:
    assert message in refused({**NEXT, **changes, "architectures": [architecture]}, BadModelFiles)


@pytest.mark.parametrize("architecture", HYBRIDS)
def test_absent_fields_of_hybrids_have_the_defaults_of_transformers(architecture: str) -> None:
    """Read in Qwen3NextConfig, Qwen3_5TextConfig and Qwen3_5MoeTextConfig of transformers 5.23."""
    kv_heads, experts, active = HYBRIDS[architecture]
    sizes = {name: TINY[name] for name in REQUIRED} | {"num_hidden_layers": 5, "num_attention_heads": 8}
    model: Any = build({**sizes, "architectures": [architecture]})
    kinds = [cache.checkpointed for cache in model.make_caches()]
    assert kinds == [True, True, True, False, True]
    assert (model.context_length, model.model.norm.eps) == (32_768, 1e-6)
    linear = model.model.layers[0].linear_attn
    assert linear.conv1d.weight.shape == (2 * 16 * 128 + 32 * 128, 4, 1)
    assert linear.out_proj.weight.shape == (64, 32 * 128)
    attention = model.model.layers[3].self_attn
    assert attention.q_proj.weight.shape == (2 * 8 * 256, 64)
    assert attention.k_proj.weight.shape == (kv_heads * 256, 64)
    assert "bias" not in attention.q_proj
    assert (attention.rope._dims, attention.rope._base) == (64, 10_000.0)
    mlp = model.model.layers[4].mlp
    if experts is None:
        assert mlp.gate_proj.weight.shape == (96, 64)
    else:
        assert mlp.experts.gate_proj.weight.shape == (experts, 512, 64)
        assert mlp.shared_expert.gate_proj.weight.shape == (512, 64)
        assert (mlp.active, mlp.normalized) == (active, True)


SMOLLM3: Config = {**TINY, "architectures": ["SmolLM3ForCausalLM"]}
WINDOW: Config = {"use_sliding_window": True, "sliding_window": 9}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"no_rope_layers": [1]}, "no_rope_layers is [1], expected a list of at least num_hidden_layers, 2,"),
        ({"no_rope_layers": []}, "no_rope_layers is [], expected a list of at least num_hidden_layers, 2,"),
        ({"no_rope_layers": [1, 2]}, "no_rope_layers is [1, 2], expected a list of integers from 0 to 1"),
        ({"no_rope_layers": [True, 1]}, "no_rope_layers is [true, 1], expected a list of integers"),
        ({"no_rope_layer_interval": 0}, "no_rope_layer_interval is 0, expected an integer from 1 to 1000"),
        ({"mlp_bias": 1}, "mlp_bias is 1, expected true or false"),
        ({**WINDOW, "sliding_window": 0}, "sliding_window is 0, expected an integer from 1"),
        ({**WINDOW, "layer_types": ["full_attention"]}, 'layer_types is ["full_attention"], expected a list'),
        (
            {"layer_types": ["sliding_attention"] * 2, "sliding_window": 9},
            "layer_types has sliding_attention, but sliding_window (or use_sliding_window) turns it off",
        ),
    ],
)
def test_a_broken_field_of_smollm3_is_named_with_its_value(changes: Config, message: str) -> None:
    assert f"config.json: {message}" in refused({**SMOLLM3, **changes}, BadModelFiles)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is not supported with SmolLM3ForCausalLM"),
        ({"layer_types": ["chunked_attention"] * 2}, 'layer_types has "chunked_attention"'),
    ],
)
def test_what_we_lack_of_smollm3_is_refused(changes: Config, message: str) -> None:
    assert f"config.json: {message}" in refused({**SMOLLM3, **changes}, UnsupportedModel)


def test_smollm3s_absent_fields_have_the_defaults_of_transformers() -> None:
    """Read in SmolLM3Config of transformers 5.23."""
    sizes = {name: TINY[name] for name in REQUIRED} | {"num_hidden_layers": 5, "num_attention_heads": 8}
    model: Any = build({**sizes, "architectures": ["SmolLM3ForCausalLM"]})
    assert (model.context_length, model.model.norm.eps, model.tied) == (32_768, 1e-6, True)
    attention = model.model.layers[0].self_attn
    assert attention.k_proj.weight.shape == (4 * 8, 64)
    assert attention.rope._base == 2_000_000
    assert [layer.self_attn.rope._dims for layer in model.model.layers] == [8, 8, 8, 0, 8]
    assert ("bias" in attention.q_proj, "bias" in attention.o_proj) == (False, False)
    assert "bias" not in model.model.layers[0].mlp.gate_proj
    windowed = build({**sizes, **WINDOW, "architectures": ["SmolLM3ForCausalLM"]})
    windows = [getattr(cache, "window", None) for cache in windowed.make_caches()]
    assert windows == [None, None, None, 9, None]
    no_width = build({**sizes, "use_sliding_window": True, "architectures": ["SmolLM3ForCausalLM"]})
    assert not any(hasattr(cache, "window") for cache in no_width.make_caches())


GPT_OSS: Config = {**TINY, "architectures": ["GptOssForCausalLM"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_local_experts": 3}, "num_experts_per_tok is 4, but there are 3 experts"),
        ({"swiglu_limit": 0}, "swiglu_limit is 0, expected a number above 0"),
        ({"swiglu_alpha": "x"}, 'swiglu_alpha is "x", expected a number above 0'),
        ({"sliding_window": None}, "layer_types has sliding_attention, but sliding_window"),
    ],
)
def test_a_broken_field_of_gpt_oss_is_named_with_its_value(changes: Config, message: str) -> None:
    assert f"config.json: {message}" in refused({**GPT_OSS, **changes}, BadModelFiles)


def test_gpt_oss_absent_fields_have_the_defaults_of_transformers() -> None:
    """Read in GptOssConfig of transformers 5.23; mlx-lm has no scaled rope by default."""
    sizes = {name: TINY[name] for name in REQUIRED} | {"num_attention_heads": 16}
    read = GptOssConfig.read(Fields({**sizes, "architectures": ["GptOssForCausalLM"]}))
    decoder = read.decoder
    assert (decoder.num_key_value_heads, decoder.head_dim, decoder.rms_norm_eps) == (8, 64, 1e-5)
    assert (decoder.max_position_embeddings, read.windows) == (131_072, (128, None))
    assert (read.experts, read.active, read.alpha, read.limit) == (128, 4, 1.702, 7.0)
    assert read.attention_bias
    assert read.rope.theta == 150_000
    assert read.rope.magnitude == pytest.approx(0.1 * math.log(32) + 1)
