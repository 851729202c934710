"""Gemma 3's config.json."""

from __future__ import annotations

from typing import Any

import pytest

from runner.config.fields import Config
from runner.errors import BadModelFiles, UnsupportedModel
from runner.models import build
from tests.parts import refusals
from tests.parts.case import TINY

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
    assert message in refusals.of_config({**GEMMA, **changes}, UnsupportedModel)


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
    assert f"config.json: {message}" in refusals.of_config({**GEMMA, **changes}, BadModelFiles)


def test_gemmas_absent_fields_have_the_defaults_of_transformers() -> None:
    """Read in Gemma3TextConfig of transformers 5.23. Google's multimodal files leave out heads and vocabulary."""
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 7}
    model: Any = build({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text})
    assert (model.vocab_size, model.context_length) == (262_208, 131_072)
    attention = model.model.layers[0].self_attn
    assert attention.q_proj.weight.shape == (8 * 256, 32)
    assert attention.k_proj.weight.shape == (4 * 256, 32)
    assert attention.scale == 256**-0.5
    windows = [getattr(cache, "window", None) for cache in model.make_memory().storages]
    assert windows == [4096] * 5 + [None, 4096]
