"""The config.json of Qwen3-Next and Qwen3.5."""

from __future__ import annotations

from typing import Any

import pytest

from runner.config.fields import Config
from runner.errors import BadModelFiles, UnsupportedModel
from runner.models import build
from tests.parts import refusals
from tests.parts.case import REQUIRED, TINY

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
    assert message in refusals.of_config(
        {**NEXT, **changes, "architectures": [architecture]}, UnsupportedModel
    )


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
    assert message in refusals.of_config({**NEXT, **changes, "architectures": [architecture]}, BadModelFiles)


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
    assert message in refusals.of_config({**NEXT, **changes, "architectures": [architecture]}, BadModelFiles)


@pytest.mark.parametrize("architecture", HYBRIDS)
def test_absent_fields_of_hybrids_have_the_defaults_of_transformers(architecture: str) -> None:
    """Read in Qwen3NextConfig, Qwen3_5TextConfig and Qwen3_5MoeTextConfig of transformers 5.23."""
    kv_heads, experts, active = HYBRIDS[architecture]
    sizes = {name: TINY[name] for name in REQUIRED} | {"num_hidden_layers": 5, "num_attention_heads": 8}
    model: Any = build({**sizes, "architectures": [architecture]})
    memory = model.make_memory()
    kinds = [layer in memory.recurrent for layer in range(len(memory.storages))]
    assert kinds == [True, True, True, False, True]
    assert (model.context_length, model.model.norm.eps) == (32_768, 1e-6)
    linear = model.model.layers[0].linear_attn
    assert linear.conv1d.weight.shape == (2 * 16 * 128 + 32 * 128, 4, 1)
    assert linear.out_proj.weight.shape == (64, 32 * 128)
    attention = model.model.layers[3].self_attn
    assert attention.q_proj.weight.shape == (2 * 8 * 256, 64)
    assert attention.k_proj.weight.shape == (kv_heads * 256, 64)
    assert "bias" not in attention.q_proj
    assert (attention.rope.turning.dims, attention.rope.turning.base) == (64, 10_000.0)
    mlp = model.model.layers[4].mlp
    if experts is None:
        assert mlp.gate_proj.weight.shape == (96, 64)
    else:
        assert mlp.experts.gate_proj.weight.shape == (experts, 512, 64)
        assert mlp.shared_expert.gate_proj.weight.shape == (512, 64)
        assert (mlp.active, mlp.normalized) == (active, True)
