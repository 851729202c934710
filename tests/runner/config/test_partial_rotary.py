"""partial_rotary_factor, architecture by architecture: what transformers does with it, and what we do.

Three honour it. The others rotate whole heads: there transformers ignores it or fails, other readers rotate a part,
and we refuse what is not 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from runner.config.decoder import FULL, SLIDING
from runner.config.fields import Config, Fields
from runner.config.rope import RopeConfig
from runner.errors import UnsupportedModel
from runner.models import build
from runner.models.gemma3 import Gemma3Config
from runner.models.gemma4_config import Gemma4Config
from runner.models.glm4_moe_lite import Glm4MoeLiteConfig
from runner.models.gpt_oss import GptOssConfig
from runner.models.llama import LlamaConfig
from runner.models.mistral import MistralConfig
from runner.models.qwen2 import Qwen2Config
from runner.models.qwen3 import Qwen3Config
from runner.models.qwen3_moe import Qwen3MoeConfig
from runner.models.qwen3_next_config import HybridConfig, text_fields
from runner.models.smollm3 import SmolLM3Config
from tests.parts.case import TINY
from tests.parts.rope import frequencies
from tests.parts.transformers_rope import default_frequencies

D = TINY["head_dim"]
HEADS: Config = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # transformers wants 64 / heads to be whole
HALF: Config = {"partial_rotary_factor": 0.5}


@dataclass(frozen=True)
class Row:
    architecture: str
    module: str  # transformers'
    configuration: str  # transformers'
    rope: Callable[[Fields], RopeConfig]
    layer_type: str = ""

    def config(self, rope: Config, beside: Config) -> Config:
        """Rope fields as this architecture's files have them, and others beside."""
        rope = {"rope_type": "default", "rope_theta": 10_000.0, **rope}
        kinds = {FULL: rope, SLIDING: {**rope, "rope_theta": 1_000.0}}
        sizes = {name: value for name, value in TINY.items() if name != "rope_theta"} | HEADS
        text: Config = {**sizes, "rope_parameters": kinds if self.layer_type else rope, **beside}
        if self.layer_type:
            text["layer_types"] = [SLIDING, FULL]
        return text | {"qk_rope_head_dim": D, "global_head_dim": D}  # GLM's and Gemma 4's names of the same

    def theirs(self, config: Config) -> list[float]:
        return default_frequencies(self.module, self.configuration, config, self.layer_type)

    def ours(self, config: Config) -> list[float]:
        return frequencies(self.rope(Fields({"architectures": [self.architecture], **config})))


def hybrid(fields: Fields) -> RopeConfig:
    return HybridConfig.read(text_fields(fields, {}), kv_heads=2).rope


def gemma3(kind: str) -> Callable[[Fields], RopeConfig]:
    return lambda fields: Gemma3Config.read(fields).ropes[kind]


HONOURING = [
    Row("Qwen3NextForCausalLM", "qwen3_next", "Qwen3NextConfig", hybrid),
    Row("Qwen3_5ForCausalLM", "qwen3_5", "Qwen3_5TextConfig", hybrid),
    Row("Qwen3_5MoeForCausalLM", "qwen3_5_moe", "Qwen3_5MoeTextConfig", hybrid),
]
IGNORED_THERE = [
    Row("LlamaForCausalLM", "llama", "LlamaConfig", lambda fields: LlamaConfig.read(fields).rope),
    Row("MistralForCausalLM", "mistral", "MistralConfig", lambda fields: MistralConfig.read(fields).rope),
    Row("Qwen2ForCausalLM", "qwen2", "Qwen2Config", lambda fields: Qwen2Config.read(fields).rope),
    Row("Qwen3ForCausalLM", "qwen3", "Qwen3Config", lambda fields: Qwen3Config.read(fields).rope),
    Row(
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        "Qwen3MoeConfig",
        lambda fields: Qwen3MoeConfig.read(fields).dense.rope,
    ),
    Row("GptOssForCausalLM", "gpt_oss", "GptOssConfig", lambda fields: GptOssConfig.read(fields).rope),
    Row("SmolLM3ForCausalLM", "smollm3", "SmolLM3Config", lambda fields: SmolLM3Config.read(fields).rope),
    Row("Gemma3ForCausalLM", "gemma3", "Gemma3TextConfig", gemma3(FULL), FULL),
    Row("Gemma3ForCausalLM", "gemma3", "Gemma3TextConfig", gemma3(SLIDING), SLIDING),
]
GLM = Row(
    "Glm4MoeLiteForCausalLM",
    "glm4_moe_lite",
    "Glm4MoeLiteConfig",
    lambda fields: Glm4MoeLiteConfig.read(fields).attention.rope,
)
GEMMA4 = Row(
    "Gemma4ForCausalLM",
    "gemma4",
    "Gemma4TextConfig",
    lambda fields: Gemma4Config.read(fields).kinds[SLIDING].rope,
    SLIDING,
)
SPELLINGS: dict[str, tuple[Config, Config]] = {"inside": (HALF, {}), "beside": ({}, HALF)}


def name(row: Any) -> str:
    return f"{row.architecture} {row.layer_type}".strip() if isinstance(row, Row) else str(row)


@pytest.mark.parametrize("row", [*HONOURING, *IGNORED_THERE, GLM, GEMMA4], ids=name)
def test_whole_heads_are_rotated_as_transformers_does(row: Row) -> None:
    config = row.config({"partial_rotary_factor": 1.0}, {})
    assert row.ours(config) == pytest.approx(row.theirs(config))
    assert len(row.ours(config)) == D // 2


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("row", HONOURING, ids=name)
def test_a_part_is_rotated_where_transformers_does(row: Row, spelling: str) -> None:
    config = row.config(*SPELLINGS[spelling])
    assert row.ours(config) == pytest.approx(row.theirs(config))
    assert len(row.ours(config)) == D // 4


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("row", IGNORED_THERE, ids=name)
def test_where_transformers_ignores_it_it_is_refused(row: Row, spelling: str) -> None:
    config = row.config(*SPELLINGS[spelling])
    assert len(row.theirs(config)) == D // 2, "whole heads"
    refused(row, config)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_where_transformers_would_fail_it_is_refused(spelling: str) -> None:
    """It makes half of the angles and has no way to rotate half of a head."""
    config = GLM.config(*SPELLINGS[spelling])
    assert len(GLM.theirs(config)) == D // 4
    refused(GLM, config)


@pytest.mark.parametrize("row", [*IGNORED_THERE, GLM], ids=name)
def test_it_is_refused_with_scaled_positions_too(row: Row) -> None:
    refused(row, row.config({"rope_type": "linear", "factor": 2.0, **HALF}, {}))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_gemma_4_takes_it_for_its_proportional_layers_only(spelling: str) -> None:
    """There it stands beside for both kinds, so that the other kind ignores it, as transformers does."""
    config = GEMMA4.config(*SPELLINGS[spelling])
    assert GEMMA4.ours(config) == pytest.approx(GEMMA4.theirs(config))
    assert len(GEMMA4.ours(config)) == D // 2


def refused(row: Row, config: Config) -> None:
    with pytest.raises(
        UnsupportedModel, match=r"^config\.json: .*partial_rotary_factor 0\.5 is not supported"
    ):
        build({"architectures": [row.architecture], **config})
