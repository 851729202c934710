"""SmolLM3's config.json."""

from __future__ import annotations

from typing import Any

import pytest

from runner.config.fields import Config
from runner.errors import BadModelFiles, UnsupportedModel
from runner.models import build
from tests.parts import refusals
from tests.parts.case import REQUIRED, TINY

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
    assert f"config.json: {message}" in refusals.of_config({**SMOLLM3, **changes}, BadModelFiles)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported by this architecture"),
        ({"layer_types": ["chunked_attention"] * 2}, 'layer_types has "chunked_attention"'),
    ],
)
def test_what_we_lack_of_smollm3_is_refused(changes: Config, message: str) -> None:
    assert f"config.json: {message}" in refusals.of_config({**SMOLLM3, **changes}, UnsupportedModel)


def test_smollm3s_absent_fields_have_the_defaults_of_transformers() -> None:
    """Read in SmolLM3Config of transformers 5.23."""
    sizes = {name: TINY[name] for name in REQUIRED} | {"num_hidden_layers": 5, "num_attention_heads": 8}
    model: Any = build({**sizes, "architectures": ["SmolLM3ForCausalLM"]})
    assert (model.context_length, model.model.norm.eps, model.tied) == (32_768, 1e-6, True)
    attention = model.model.layers[0].self_attn
    assert attention.k_proj.weight.shape == (4 * 8, 64)
    assert attention.rope.turning.base == 2_000_000
    assert [layer.self_attn.rope.turning.dims for layer in model.model.layers] == [8, 8, 8, 0, 8]
    assert ("bias" in attention.q_proj, "bias" in attention.o_proj) == (False, False)
    assert "bias" not in model.model.layers[0].mlp.gate_proj
    windowed = build({**sizes, **WINDOW, "architectures": ["SmolLM3ForCausalLM"]})
    windows = [getattr(cache, "window", None) for cache in windowed.make_memory().storages]
    assert windows == [None, None, None, 9, None]
    no_width = build({**sizes, "use_sliding_window": True, "architectures": ["SmolLM3ForCausalLM"]})
    assert not any(getattr(cache, "window", None) for cache in no_width.make_memory().storages)
