"""Qwen3.5's dense models: text only (Qwen3_5ForCausalLM), and the text part of the multimodal ones
(Qwen3_5ForConditionalGeneration): their config is `text_config`, their vision tensors are dropped.

A dense Qwen3-Next whose linear attention is projected in four.

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

from typing import ClassVar

from runner.config.fields import Fields
from runner.layers import nn
from runner.layers.gated_delta import GatedDeltaNet
from runner.layers.mlp import GatedMLP
from runner.layers.shards import Cut, Shards, Side, Unit
from runner.models.qwen3_next import HybridModel
from runner.models.qwen3_next_config import HybridConfig, text_fields


class LinearAttention(GatedDeltaNet):
    """Projected as it is used: queries, keys and values together, the rest apart."""

    joins: ClassVar = {
        "in_proj": ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"),
        # Or else, since quantized files may have floats for the narrow ones:
        "in_proj_qkvz": ("in_proj_qkv", "in_proj_z"),
        "in_proj_ba": ("in_proj_b", "in_proj_a"),
    }

    def __init__(self, config: HybridConfig) -> None:
        linear, hidden = config.linear, config.decoder.hidden_size
        super().__init__(linear, hidden, config.decoder.rms_norm_eps)
        self.in_proj_qkv = nn.Linear(hidden, linear.channels, bias=False)
        self.in_proj_z = nn.Linear(hidden, linear.value_heads * linear.value_width, bias=False)
        self.in_proj_b = nn.Linear(hidden, linear.value_heads, bias=False)
        self.in_proj_a = nn.Linear(hidden, linear.value_heads, bias=False)

    def shards(self) -> Shards:
        said = super().shards()
        projected = {name: Cut(Side.OUTPUTS, Unit.HEADS) for name in ("in_proj_z", "in_proj_b", "in_proj_a")}
        projected["in_proj_qkv"] = Cut(Side.OUTPUTS, Unit.HEADS, self.channels)
        return said._replace(cuts={**said.cuts, **projected})


class Model(HybridModel):
    def __init__(self, fields: Fields) -> None:
        read = HybridConfig.read(text_fields(fields, {}), kv_heads=4)
        super().__init__(read, LinearAttention, lambda layer: GatedMLP(read.decoder))
