"""Gemma 4's config.json."""

from __future__ import annotations

import pytest

from runner.config.fields import Config, Fields
from runner.errors import BadModelFiles, UnsupportedModel
from runner.models.gemma4_config import Gemma4Config
from tests.parts import refusals
from tests.parts.case import TINY

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
    assert message in refusals.of_config({**GEMMA4, **changes}, UnsupportedModel)


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
    assert f"config.json: {message}" in refusals.of_config({**GEMMA4, **changes}, BadModelFiles)


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
