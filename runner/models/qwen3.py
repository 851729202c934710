"""Qwen3's dense models, and what was published in their shape (Qwen3ForCausalLM).

A Llama whose queries and keys are normed, each head on its own, before they are rotated.

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from runner.config.decoder import DecoderConfig
from runner.config.fields import Fields
from runner.config.rope import RopeConfig
from runner.layers import nn
from runner.layers.attention import Attention
from runner.layers.block import Block
from runner.layers.decoder import CausalLM
from runner.layers.mlp import GatedMLP
from runner.layers.rope import Rope
from runner.models.qwen2 import read_upper_windows


@dataclass(frozen=True)
class Qwen3Config:
    decoder: DecoderConfig
    rope: RopeConfig
    attention_bias: bool
    windows: tuple[int | None, ...]

    @classmethod
    def read(cls, fields: Fields) -> Qwen3Config:
        ignore_norms(fields)
        decoder = DecoderConfig.read(fields, positions=32_768, kv_heads=32, head_dim=128)
        return cls(
            decoder=decoder,
            rope=RopeConfig.read(fields, decoder.head_dim, decoder.max_position_embeddings),
            attention_bias=fields.flag("attention_bias", False),
            windows=read_upper_windows(fields, decoder),
        )


def ignore_norms(fields: Fields) -> None:
    """Its norms are where they are; Qwen3-Coder's files say so in words."""
    fields.ignore("qk_layernorm", "qk_norm", "use_qk_norm")


class NormedAttention(Attention):
    """Grouped-query attention over normed queries and keys."""

    head_norms: ClassVar = ("q_norm", "k_norm")

    def __init__(self, config: Qwen3Config, layer: int, rope: Rope) -> None:
        bias = config.attention_bias
        super().__init__(config.decoder, layer, rope, qkv_bias=bias, o_bias=bias)
        self.q_norm = nn.RMSNorm(config.decoder.head_dim, config.decoder.rms_norm_eps)
        self.k_norm = nn.RMSNorm(config.decoder.head_dim, config.decoder.rms_norm_eps)


def mlp(config: Qwen3Config) -> GatedMLP:
    return GatedMLP(config.decoder)


def block(config: Qwen3Config, layer: int, rope: Rope) -> Block:
    return Block(config.decoder, NormedAttention(config, layer, rope), mlp(config))


class Model(CausalLM):
    """`rename` is CausalLM's: checkpoint keys are attribute paths already."""

    def __init__(self, fields: Fields) -> None:
        read = Qwen3Config.read(fields)
        rope = Rope(read.rope, read.decoder.head_dim)
        blocks = [block(read, layer, rope) for layer in range(read.decoder.num_hidden_layers)]
        super().__init__(read.decoder, blocks, read.windows)
