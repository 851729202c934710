"""gpt-oss's config.json."""

from __future__ import annotations

import math

import pytest

from runner.config.fields import Config, Fields
from runner.errors import BadModelFiles
from runner.models.gpt_oss import GptOssConfig
from tests.parts import refusals
from tests.parts.case import REQUIRED, TINY

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
    assert f"config.json: {message}" in refusals.of_config({**GPT_OSS, **changes}, BadModelFiles)


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
