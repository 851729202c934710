"""What Qwen3-MoE's config.json says of experts."""

from __future__ import annotations

from typing import Any

import pytest

from runner.config.fields import Config
from runner.errors import BadModelFiles
from runner.models import build
from tests.parts import refusals
from tests.parts.case import TINY

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
    assert f"config.json: {message}" in refusals.of_config({**MOE, **changes}, BadModelFiles)


def test_absent_fields_of_the_experts_have_the_defaults_of_transformers() -> None:
    """Read in Qwen3MoeConfig of transformers 5.23; mlx-lm has none."""
    model: Any = build(MOE)
    mlp = model.model.layers[0].mlp
    assert mlp.experts.gate_proj.weight.shape == (128, 768, 64)
    assert (mlp.active, mlp.normalized) == (8, False)
