"""Llama 1, 2, 3.x, and what was published in their shape (LlamaForCausalLM).

Knows nothing about files, tokens or requests.
"""

from __future__ import annotations

from dataclasses import dataclass

from runner.config.decoder import DecoderConfig
from runner.config.fields import Fields
from runner.config.rope import RopeConfig
from runner.errors import UnsupportedModel
from runner.layers.attention import Attention
from runner.layers.block import Block
from runner.layers.decoder import CausalLM
from runner.layers.mlp import GatedMLP
from runner.layers.rope import Rope


@dataclass(frozen=True)
class LlamaConfig:
    decoder: DecoderConfig
    rope: RopeConfig
    attention_bias: bool
    mlp_bias: bool

    @classmethod
    def read(cls, fields: Fields) -> LlamaConfig:
        refuse_sliding_layers(fields)
        decoder = DecoderConfig.read(fields, positions=2048)
        return cls(
            decoder=decoder,
            rope=RopeConfig.read(fields, decoder.head_dim, decoder.max_position_embeddings),
            attention_bias=fields.flag("attention_bias", False),
            mlp_bias=fields.flag("mlp_bias", False),
        )


def refuse_sliding_layers(fields: Fields) -> None:
    """Readers disagree whether a Llama may have them: transformers ignores the list, mlx-lm follows it."""
    for kind in fields.optional_texts("layer_types") or []:
        if kind != "full_attention":
            raise UnsupportedModel(
                f"config.json: layer_types has {kind!r}, LlamaForCausalLM has full_attention only"
            )


def attention(config: LlamaConfig, layer: int, rope: Rope) -> Attention:
    bias = config.attention_bias
    return Attention(config.decoder, layer, rope, qkv_bias=bias, o_bias=bias)


def mlp(config: LlamaConfig) -> GatedMLP:
    return GatedMLP(config.decoder, bias=config.mlp_bias)


def block(config: LlamaConfig, layer: int, rope: Rope) -> Block:
    return Block(config.decoder, attention(config, layer, rope), mlp(config))


class Model(CausalLM):
    """Every layer sees all positions. `rename` is CausalLM's: checkpoint keys are attribute paths already."""

    def __init__(self, fields: Fields) -> None:
        read = LlamaConfig.read(fields)
        rope = Rope(read.rope, read.decoder.head_dim)
        layers = read.decoder.num_hidden_layers
        blocks = [block(read, layer, rope) for layer in range(layers)]
        super().__init__(read.decoder, blocks, windows=[None] * layers)
