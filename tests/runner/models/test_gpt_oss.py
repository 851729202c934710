"""gpt-oss beyond the common contract: its clamps, and the spellings of its tensors."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from runner.config.fields import Config
from runner.errors import BadModelFiles
from runner.models import build
from tests.parts.arrays import difference, noise
from tests.parts.case import TINY, Case, some_tokens
from tests.parts.models import logits, made
from tests.parts.references import reference

FIELDS: Config = {
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "rope_scaling": {"rope_type": "default", "rope_theta": 10_000.0},
}
CASE = Case("GptOss names", "GptOssForCausalLM", FIELDS)


def test_clamps_and_gain_are_the_configs() -> None:
    """mlx-lm has 7 and 1.702 for good; transformers defines these fields."""
    config = {**TINY, **FIELDS, "architectures": ["GptOssForCausalLM"]}
    model: Any = build({**config, "swiglu_limit": 0.5, "swiglu_alpha": 1.3})
    experts = model.model.layers[0].mlp.experts
    for seed, name in enumerate(("gate_proj", "up_proj", "down_proj")):
        experts[name].weight = 0.3 * noise(*experts[name].weight.shape, seed=seed)
        experts[f"{name}_bias"] = noise(*experts[f"{name}_bias"].shape, seed=seed + 10)
    x = noise(3, 64, seed=20)
    chosen = mx.array([[0, 4], [2, 2], [1, 3]])
    out = experts(x, chosen)
    for token, row in enumerate([[0, 4], [2, 2], [1, 3]]):
        for place, n in enumerate(row):
            gate, up = (
                experts[name].weight[n] @ x[token] + experts[f"{name}_bias"][n]
                for name in ("gate_proj", "up_proj")
            )
            gate, up = mx.minimum(gate, 0.5), mx.clip(up, -0.5, 0.5)
            turned = (up + 1) * gate * mx.sigmoid(1.3 * gate)
            by_hand = experts.down_proj.weight[n] @ turned + experts.down_proj_bias[n]
            assert difference(out[token, place], by_hand) < 1e-5


def test_mlx_lms_spelling_is_the_same_model() -> None:
    """Gate and up apart, and the biases named as in any layer."""
    theirs, tokens = reference(CASE), some_tokens(40)
    model = made(CASE, theirs.weights)
    assert difference(logits(model, tokens), theirs.logits(tokens)) < 1e-4


def test_experts_in_two_spellings_are_refused() -> None:
    model, theirs = build(CASE.config), reference(CASE)
    with pytest.raises(BadModelFiles, match="there twice"):
        model.rename({**theirs.weights, **theirs.checkpoint()})


def test_experts_of_other_dimensions_are_refused() -> None:
    model = build(CASE.config)
    with pytest.raises(BadModelFiles, match="2 dimensions"):
        model.rename({"model.layers.0.mlp.experts.gate_up_proj": mx.zeros((2, 2))})
